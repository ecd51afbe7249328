"""Objectives on hidden states: steering them away, keeping them where they were, or keeping them on their side.

A answer positions, H hidden size, R rows. States of the untouched model carry no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harmonize.objectives.reduce import Positions, included, per_row


def control_vector(size: int, seed: int) -> Tensor:
    """[H] a random direction of unit length with entries of one sign: a pure function of the seed.

    Source: RMU's code (uniform entries in [0, 1), normalised).
    """
    draw = torch.Generator().manual_seed(int(seed))
    vector = torch.rand(size, generator=draw)
    return vector / vector.norm()


def steer(
    hidden_at_layer: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    layer: int | None = None,
    coefficient: float = 6.5,
    control_seed: int = 0,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """RMU's forget term: states towards a random direction.

    Formula: mean over H of (h - coefficient u)^2, u a fixed random unit vector

    Args:
        hidden_at_layer: [A, H] states of the student after block `layer`.
        row, offset, n_rows, positions: As in `harmonize.objectives.likelihood.cross_entropy`.
        layer: Block, counted from 0 (negative from the end); null takes the one that ends the first quarter.
        coefficient: Length of the target.
        control_seed: Decides u.

    Source: arXiv 2403.03218 and its code: layer 7 of 32 and coefficient 6.5 for Zephyr-7B. There every token of a text
    counts; here the states that predict the response.
    """
    target = control_vector(hidden_at_layer.shape[1], control_seed).to(hidden_at_layer.device) * coefficient
    loss = ((hidden_at_layer.float() - target) ** 2).mean(1)
    return per_row(loss, row, n_rows, included(offset, positions))


def keep_hidden(
    hidden_at_layer: Tensor,
    reference_hidden_at_layer: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    layer: int | None = None,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """RMU's retain term: states after block `layer` stay where they were.

    Formula: mean over H of (h - h_ref)^2

    Args:
        hidden_at_layer, reference_hidden_at_layer: [A, H] states of the student and of the untouched model.
        row, offset, n_rows, layer, positions: As in `steer`.

    Source: arXiv 2403.03218.
    """
    loss = ((hidden_at_layer.float() - reference_hidden_at_layer.float()) ** 2).mean(1)
    return per_row(loss, row, n_rows, included(offset, positions))


def threshold_margin(
    hidden: Tensor,
    reference_hidden: Tensor,
    reference_mean: Tensor,
    reference_std: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """GeRe's retain term: a state that was high, low or between stays so; mean over the entries that do not.

    Formula: mean over the non-zero of relu(h - low) where h_ref <= low, relu(high - h) where h_ref >= high,
        relu(h - high) + relu(low - h) between; low, high = mean of h_ref - std, + std

    Args:
        hidden, reference_hidden: [A, H] final states of the student and of the untouched model.
        reference_mean, reference_std: [H] over all positions that the untouched model read.
        row, offset, n_rows, positions: As in `steer`.

    Source: arXiv 2508.04676 and its code (weight 100). There the mean runs over the non-zero entries of the batch and
    is 0 at step 0, where original and student agree; here it runs over those of each position, so that accumulation
    changes nothing. Its statistics come from 1,000 general texts; here from the rows that the term reads.
    """
    h, h0 = hidden.float(), reference_hidden.float()
    low, high = reference_mean - reference_std, reference_mean + reference_std
    between = torch.relu(h - high) + torch.relu(low - h)
    excess = torch.where(
        h0 <= low, torch.relu(h - low), torch.where(h0 >= high, torch.relu(high - h), between)
    )
    loss = excess.sum(1) / (excess.detach() > 0).sum(1).clamp_min(1)
    return per_row(loss, row, n_rows, included(offset, positions))
