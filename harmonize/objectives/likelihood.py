"""Objectives on the log-probability of the response tokens."""

from __future__ import annotations

from torch import Tensor

from harmonize.objectives.reduce import Positions, included, per_row


def cross_entropy(
    label_log_probs: Tensor, row: Tensor, offset: Tensor, n_rows: int, *, positions: Positions = "all"
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the response tokens, in nats.

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

    Arguments and result are those of `cross_entropy`.

    Source: Jang et al. 2023 (arXiv 2210.01504); with a retain term, gradient difference (arXiv 2203.12817).
    """
    total, count = cross_entropy(label_log_probs, row, offset, n_rows, positions=positions)
    return -total, count
