"""From values per answer position to sums and counts per row."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from harmonize.errors import ConfigError

Positions = Literal["all", "first"]


def per_row(values: Tensor, row: Tensor, n_rows: int, include: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums and counts of each row; excluded positions get exactly zero gradient, even where the value is not finite.

    Args:
        values: [A] loss per position.
        row: [A] row of each position.
        n_rows: Number of rows R.
        include: [A] bool, or None for all positions.

    Returns:
        [R] sums and [R] counts, fp32.
    """
    ones = torch.ones_like(values, dtype=torch.float32)
    if include is not None:
        values = torch.where(include, values, 0.0)
        ones = include.to(torch.float32)
    zeros = ones.new_zeros(n_rows)
    return zeros.index_add(0, row, values.float()), zeros.index_add(0, row, ones)


def included(offset: Tensor, positions: Positions) -> Tensor | None:
    """Which positions of a response count: all of them (None) or each row's first.

    Raises:
        ConfigError: `positions` is neither `all` nor `first`.
    """
    if positions == "all":
        return None
    if positions == "first":
        return offset == 0
    raise ConfigError(f"positions={positions!r} is unknown; use positions=all or positions=first.")
