"""Objectives on whole distributions over the vocabulary: towards the untouched model, or away from the answer.

A answer positions, V vocabulary, R rows. Logits are raw and fp32; those of the reference carry no gradient.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harmonize.errors import ConfigError
from harmonize.objectives.reduce import Positions, beyond_first, counted, included, per_row


def kl_to_original(
    student_logits: Tensor,
    reference_logits: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """KL from the original over the whole vocabulary at each response position, in nats.

    A retain term for any method, in the place of `cross_entropy`.

    Formula: KL(softmax(z_ref) || softmax(z))

    Args:
        student_logits, reference_logits: [A, V], of the student and of the model before unlearning.
        row, offset, n_rows, positions: As in `harmonize.objectives.likelihood.cross_entropy`.

    Source: the KL baselines of TOFU (arXiv 2401.06121). open-unlearning averages over prompt and padding too; MUSE's
    code passes raw logits where log-probabilities belong, which is no KL and is not offered.
    """
    log_q = F.log_softmax(student_logits.float(), dim=1)
    log_p = F.log_softmax(reference_logits.float(), dim=1)
    return per_row((log_p.exp() * (log_p - log_q)).sum(1), row, n_rows, included(offset, positions))


def kl_to_uniform(
    student_logits: Tensor, row: Tensor, offset: Tensor, n_rows: int, *, positions: Positions = "all"
) -> tuple[Tensor, Tensor]:
    """KL from the uniform distribution over the vocabulary at each response position, in nats: to know nothing.

    Formula: KL(uniform || softmax(z)) = - log V - mean over V of log softmax(z)

    Args:
        student_logits: [A, V].
        row, offset, n_rows, positions: As in `harmonize.objectives.likelihood.cross_entropy`.

    Source: the retain loss of ULD's assistant, arXiv 2406.08607, in its authors' code, which averages over prompt and
    padding too.
    """
    log_q = F.log_softmax(student_logits.float(), dim=1)
    return per_row(-log_q.mean(1) - math.log(log_q.shape[1]), row, n_rows, included(offset, positions))


def undial(
    student_logits: Tensor,
    reference_logits: Tensor,
    labels: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    beta: float = 10.0,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """Self-distillation on the original's logits with that of the response token lowered.

    Formula: CE(softmax(z_ref - beta onehot(a)), softmax(z))

    Args:
        student_logits, reference_logits: [A, V].
        labels: [A] response tokens.
        row, offset, n_rows, positions: As in `harmonize.objectives.likelihood.cross_entropy`.
        beta: How far the response token's logit is lowered.

    Source: arXiv 2402.10052. Response positions alone carry the loss; open-unlearning averages over all positions,
    where prompt and padding (label -100, which there lowers another token's logit) train as well.
    """
    lowered = reference_logits.float().scatter_add(
        1, labels.unsqueeze(1), reference_logits.new_full((labels.shape[0], 1), -beta, dtype=torch.float32)
    )
    log_q = F.log_softmax(student_logits.float(), dim=1)
    return per_row(-(lowered.softmax(1) * log_q).sum(1), row, n_rows, included(offset, positions))


@counted(beyond_first("ignore_first_n_answer_tokens"))
def ceu(
    student_logits: Tensor,
    labels: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    ignore_first_n_answer_tokens: int = 1,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the student's own distribution once the response token is ruled out.

    Formula: CE(softmax(z without a), softmax(z)), the first without gradient

    Args:
        student_logits: [A, V].
        labels: [A] response tokens.
        row, offset, n_rows: As in `harmonize.objectives.likelihood.cross_entropy`.
        ignore_first_n_answer_tokens: Positions at the start of a response that do not count.

    Source: CE-U, arXiv 2503.01224, as in open-unlearning.
    """
    logits = student_logits.float()
    target = logits.detach().scatter(1, labels.unsqueeze(1), float("-inf")).softmax(1)
    loss = -(target * F.log_softmax(logits, dim=1)).sum(1)
    return per_row(loss, row, n_rows, offset >= int(ignore_first_n_answer_tokens))


def inverted_hinge(
    student_logits: Tensor,
    labels: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """Inverted hinge loss: from 2 where the response token is certain to 0 where another one is.

    Formula: 1 + p - max p of the other tokens

    Args:
        student_logits: [A, V].
        labels: [A] response tokens y.
        row, offset, n_rows, positions: As in `harmonize.objectives.likelihood.cross_entropy`.

    Source: LoKU, arXiv 2408.06621; the form as in REGLU's code (arXiv 2604.17396).
    """
    p = student_logits.float().softmax(1)
    chosen = labels.unsqueeze(1)
    other = p.scatter(1, chosen, -1.0).max(1).values
    return per_row(1 + p.gather(1, chosen).squeeze(1) - other, row, n_rows, included(offset, positions))


def _aligned(batch: object, settings: object) -> Tensor:
    first = 1 if settings["mask"] == "unshifted" else 0  # type: ignore[index]
    return beyond_first("first")(batch, {"first": first})  # type: ignore[arg-type]


@counted(_aligned)
def logit_margin(
    student_logits: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    mask: Literal["shifted", "unshifted"] = "shifted",
) -> tuple[Tensor, Tensor]:
    """Flattening of the logits at each response position.

    Formula: (max z - mean z)^2

    Args:
        student_logits: [A, V].
        row, offset, n_rows: As in `harmonize.objectives.likelihood.cross_entropy`.
        mask: `shifted` counts the positions that predict the response. `unshifted` matches the published code, whose
            mask lies one step late: the prediction of the first response token is left out. (It also counts the
            prediction after the end of turn, which no row here has.)

    Source: PDU, arXiv 2506.05314, as in open-unlearning. Its constraint on the retain loss and the dual variable are
    the controller's.
    """
    if mask not in ("shifted", "unshifted"):
        raise ConfigError(f"mask={mask!r} is unknown; use mask=shifted or mask=unshifted.")
    logits = student_logits.float()
    loss = (logits.max(1).values - logits.mean(1)) ** 2
    return per_row(loss, row, n_rows, offset >= 1 if mask == "unshifted" else None)
