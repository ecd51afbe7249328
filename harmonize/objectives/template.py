"""FLAT: loss adjustment with forget data alone, as an f-divergence between a template answer and the forget answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from harmonize.errors import ConfigError, did_you_mean
from harmonize.objectives.reduce import counted, each_pair, partners, per_sequence

_LOG2 = math.log(2.0)

# -g*(P) of the template answer, and f*(g*(P)) of the forget answer. Both are offered only where minimising their sum
# raises the first probability and lowers the second. In the authors' code that fails for reverse KL (both), squared
# Hellinger (both) and Neyman (the template), so these are left out.
DIVERGENCES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "total_variation": (lambda p: -torch.tanh(p) / 2, lambda p: torch.tanh(p) / 2),
    "kl": (lambda p: -p, lambda p: torch.exp(p - 1)),
    "pearson": (lambda p: -p, lambda p: p + p**2 / 4),
    "jensen_shannon": (lambda p: F.softplus(-p) - _LOG2, lambda p: p + F.softplus(-p) - _LOG2),
    "jeffrey": (lambda p: -p, lambda p: p + p**2 / 4 + p**3 / 16),
}


@counted(each_pair)
def flat(
    label_log_probs: Tensor,
    row: Tensor,
    n_rows: int,
    pair_id: Tensor,
    true_answer: Tensor,
    *,
    divergence: str = "total_variation",
    padded_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss adjustment between a template answer and the forget answer, one value per pair.

    Formula: -g*(P of the template) + f*(g*(P of the forget answer)), P = mean of p over the response

    Args:
        label_log_probs: [A] log-probability of each response token.
        row: [A] row of each position.
        n_rows: R.
        pair_id: [R] rows of one pair share it.
        true_answer: [R] whether the row holds the data's own answer; its companion is the template answer.
        divergence: total_variation (the authors' default), kl, pearson, jensen_shannon or jeffrey.
        padded_length: null averages over the response tokens. A number averages as the authors' code does, which
            counts masked positions as zeros in sequences padded to that length (500 there), so that P shrinks.

    Returns:
        Per-row values and counts, [R] each: 1 for rows of the data's own answer with a partner, else 0.

    Source: arXiv 2410.11143 and its code. The code applies the divergence to the means of P over a batch; here, as in
    the paper's expectation, it is applied to each pair.
    """
    if divergence not in DIVERGENCES:
        raise ConfigError(
            f"divergence={divergence!r} is unknown. {did_you_mean(str(divergence), DIVERGENCES)}"
        )
    p = label_log_probs.float().exp()
    length = per_sequence(torch.ones_like(p), row, n_rows).clamp_min(1)
    if padded_length is not None:
        length = torch.full_like(length, max(1, padded_length - 1))
    mean = per_sequence(p, row, n_rows) / length
    partner, carries = partners(pair_id, true_answer)
    template, forget = DIVERGENCES[divergence]
    value = template(mean[partner]) + forget(mean)
    return value.where(carries, value.new_zeros(())), carries.float()
