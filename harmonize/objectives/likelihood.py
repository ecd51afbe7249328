"""Objectives on the log-probability of the response tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harmonize.objectives.reduce import Positions, counted, each_sequence, included, per_row


def cross_entropy(
    label_log_probs: Tensor, row: Tensor, offset: Tensor, n_rows: int, *, positions: Positions = "all"
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the response tokens, in nats.

    Formula: -log p

    Args:
        label_log_probs: [A] log-probability of each response token.
        row, offset: [A] row and position within the response.
        n_rows: Number of rows R.
        positions: `all`, or `first` for the first response token alone.

    Returns:
        Per-row sums and per-row counts of positions, [R] each.

    Source: supervised learning; with refusals as responses, refusal SFT (also called IDK).
    """
    return per_row(-label_log_probs.float(), row, n_rows, included(offset, positions))


def gradient_ascent(
    label_log_probs: Tensor, row: Tensor, offset: Tensor, n_rows: int, *, positions: Positions = "all"
) -> tuple[Tensor, Tensor]:
    """Minus `cross_entropy`: makes the response tokens less likely, without bound.

    Formula: log p

    Arguments and result are those of `cross_entropy`.

    Source: Jang et al. 2023 (arXiv 2210.01504); with a retain term, gradient difference (arXiv 2203.12817).
    """
    total, count = cross_entropy(label_log_probs, row, offset, n_rows, positions=positions)
    return -total, count


def wga(
    label_log_probs: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    beta: float = 1.0,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """Weighted gradient ascent: a token that is unlikely already is left alone, which bounds the ascent.

    Formula: p^beta log p, p^beta without gradient

    Args:
        label_log_probs: [A] log p of each response token.
        row, offset, n_rows, positions: As in `cross_entropy`.
        beta: Exponent; 0 is plain ascent.

    Source: arXiv 2502.19301 (G-effect) as in open-unlearning, which averages over all tokens of the batch.
    """
    log_p = label_log_probs.float()
    weight = log_p.detach().exp() ** beta
    return per_row(weight * log_p, row, n_rows, included(offset, positions))


def satimp(
    label_log_probs: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    beta1: float = 5.0,
    beta2: float = 1.0,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """Ascent weighted by saturation and importance.

    Formula: p^beta1 (1 - p)^beta2 log p, the weight without gradient

    Args:
        label_log_probs: [A] log p of each response token.
        row, offset, n_rows, positions: As in `cross_entropy`.
        beta1: Exponent of saturation (unlikely tokens count less).
        beta2: Exponent of importance (certain tokens count less).

    Source: arXiv 2505.11953 (SatImp) as in open-unlearning.
    """
    log_p = label_log_probs.float()
    p = log_p.detach().exp().clamp_max(1.0)
    return per_row(p**beta1 * (1 - p) ** beta2 * log_p, row, n_rows, included(offset, positions))


def bounded_ascent(
    label_log_probs: Tensor, row: Tensor, offset: Tensor, n_rows: int, *, positions: Positions = "all"
) -> tuple[Tensor, Tensor]:
    """Unlearning cross-entropy of each response token: log 2 at p = 1 and 0 at p = 0.

    Formula: -log(1 - p / 2)

    Arguments and result are those of `cross_entropy`.

    Source: MOLLM (arXiv 2412.20412); the form as in its authors' FedOSD code. MOLLM's own code is not published.
    """
    p = label_log_probs.float().exp()
    return per_row(-torch.log1p(-p / 2), row, n_rows, included(offset, positions))


@counted(each_sequence)
def bounded_forget(
    label_log_probs: Tensor,
    n_vocab: int,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    bound: float | None = None,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """ReLU(bound - cross-entropy of a response): ascent that ends where it is as unlikely as the bound says.

    Formula: relu(bound - L / |a|), bound ln V unless it is given

    Args:
        label_log_probs: [A] log-probability of each response token.
        n_vocab: Number of ids V.
        row, offset, n_rows, positions: As in `cross_entropy`.
        bound: In nats per token; null takes ln V, the cross-entropy of a uniform guess (our choice).

    Source: GS-LoRA, arXiv 2403.11530 and 2501.09705 (code: bound 105 at CosFace's scale, weight 0.15). There the ReLU
    acts on the mean over the batch, so that answers far beyond the bound let others off; that mean spans micro-batches
    and ranks and is not known when the first of them is differentiated. A row's mean is the nearest to it that
    accumulation does not change; with rows of one length the two agree while all lie on one side of the bound.
    """
    total, count = cross_entropy(label_log_probs, row, offset, n_rows, positions=positions)
    return (_bound(bound, n_vocab) - total / count.clamp_min(1)).relu(), torch.ones_like(count)


def bounded_forget_by_token(
    label_log_probs: Tensor,
    n_vocab: int,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    bound: float | None = None,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """The same with the ReLU on each token: no token makes up for another.

    Formula: relu(bound + log p), bound ln V unless it is given

    Arguments and source are those of `bounded_forget`; this level is ours.
    """
    loss = (_bound(bound, n_vocab) + label_log_probs.float()).relu()
    return per_row(loss, row, n_rows, included(offset, positions))


def _bound(given: float | None, n_vocab: int) -> float:
    return math.log(n_vocab) if given is None else float(given)
