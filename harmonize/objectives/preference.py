"""Preference losses turned to unlearning: the data's own answer is what is rejected.

A answer positions, R rows, V vocabulary. Over a response a to x: r = log p(a|x) - log p_ref(a|x), L = -log p(a|x), both
sums over its tokens.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from harmonize.objectives.reduce import (
    Positions,
    counted,
    each_pair,
    each_sequence,
    included,
    partners,
    per_row,
    per_sequence,
)


@counted(each_sequence)
def npo(
    label_log_probs: Tensor, reference_log_probs: Tensor, row: Tensor, n_rows: int, *, beta: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Negative preference: the response less likely than under the untouched model, one value per row.

    Formula: -(2 / beta) log sigmoid(-beta r)

    Args:
        label_log_probs, reference_log_probs: [A] of each response token, under the student and the untouched model.
        row: [A] row of each position.
        n_rows: R.
        beta: Inverse temperature; towards 0 it becomes gradient ascent.

    Returns:
        Per-row values and ones, [R] each.

    Source: arXiv 2404.05868. Log-probabilities are summed over the response, as published; the code that MUSE ships
    compares raw logits instead (`npo_on_logits`).
    """
    ratio = per_sequence(label_log_probs.float() - reference_log_probs.float(), row, n_rows)
    return -F.logsigmoid(-beta * ratio) * (2 / beta), ratio.new_ones(n_rows)


def npo_on_logits(
    student_logits: Tensor,
    reference_logits: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    beta: float = 0.1,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """What MUSE's code calls NPO: `npo` of every raw logit by itself, its mean over the vocabulary at each position.

    Formula: mean over V of -(2 / beta) log sigmoid(-beta (z - z_ref))

    It knows nothing of the response tokens, and is here to match numbers published with it.

    Args:
        student_logits, reference_logits: [A, V].
        row, offset, n_rows, positions: As in `harmonize.objectives.likelihood.cross_entropy`.
        beta: As in `npo`.

    Source: muse_bench, baselines/iterative.py (arXiv 2407.06460). There the mean also runs over prompt and padding.
    """
    loss = -F.logsigmoid(beta * (reference_logits.float() - student_logits.float())).mean(1) * (2 / beta)
    return per_row(loss, row, n_rows, included(offset, positions))


@counted(each_sequence)
def simnpo(
    label_log_probs: Tensor, row: Tensor, n_rows: int, *, beta: float = 2.5, gamma: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Reference-free NPO, normalised by the length of the response, one value per row.

    Formula: -(2 / beta) log sigmoid(beta (L / |a| - gamma))

    Args:
        label_log_probs: [A] of each response token.
        row, n_rows: As in `npo`.
        beta: Inverse temperature.
        gamma: Margin on the mean negative log-likelihood.

    Returns:
        Per-row values and ones, [R] each.

    Source: arXiv 2410.07163; gamma is multiplied by beta as in its code. Defaults are those of its TOFU runs. On MUSE
    its code compares raw logits (`simnpo_on_logits`).
    """
    length = per_sequence(label_log_probs.new_ones(label_log_probs.shape), row, n_rows).clamp_min(1)
    mean = per_sequence(-label_log_probs.float(), row, n_rows) / length
    return -F.logsigmoid(beta * (mean - gamma)) * (2 / beta), mean.new_ones(n_rows)


def simnpo_on_logits(
    student_logits: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    beta: float = 0.75,
    gamma: float = 0.1,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """What the SimNPO authors' MUSE code computes: `simnpo` of every raw logit by itself.

    Formula: mean over V of -(2 / beta) log sigmoid(beta (-z - gamma))

    Arguments as in `npo_on_logits` and `simnpo`; defaults are those of its MUSE-Books run.

    Source: Unlearn-Simple, MUSE/baselines. There the mean also runs over prompt and padding.
    """
    loss = -F.logsigmoid(beta * (-student_logits.float() - gamma)).mean(1) * (2 / beta)
    return per_row(loss, row, n_rows, included(offset, positions))


@counted(each_pair)
def dpo(
    label_log_probs: Tensor,
    reference_log_probs: Tensor,
    row: Tensor,
    n_rows: int,
    pair_id: Tensor,
    true_answer: Tensor,
    *,
    beta: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Direct preference of one answer over another, one value per pair.

    Formula: -(2 / beta) log sigmoid(beta (r of the chosen - r of the rejected))

    The rejected row holds the data's own answer and carries the value; the chosen one is its companion (a refusal, or
    an alternate answer).

    Args:
        label_log_probs, reference_log_probs: [A] of each response token, under the student and the untouched model.
        row: [A] row of each position.
        n_rows: R.
        pair_id: [R] rows of one pair share it.
        true_answer: [R] whether the row holds the data's own answer.
        beta: Inverse temperature.

    Returns:
        Per-row values and counts, [R] each: 1 for rejected rows with a partner, else 0.

    Source: arXiv 2305.18290; with refusals the IdkDPO of TOFU (arXiv 2401.06121), with alternates AltPO (arXiv
    2409.13474). The factor 2 / beta is open-unlearning's, which puts it beside NPO.
    """
    ratio = per_sequence(label_log_probs.float() - reference_log_probs.float(), row, n_rows)
    partner, carries = partners(pair_id, true_answer)
    value = -F.logsigmoid(beta * (ratio[partner] - ratio)) * (2 / beta)
    return value.where(carries, value.new_zeros(())), carries.float()
