"""From values per answer position to sums and counts per row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar

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


class BatchLike(Protocol):
    """The part of `harmonize.data.batch.Batch` that counting reads."""

    row: Tensor
    offset: Tensor
    pair_id: Tensor
    response_id: Tensor

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...


Counting = Callable[[BatchLike, Mapping[str, Any]], Tensor]
F = TypeVar("F", bound=Callable[..., Any])


def counted(rule: Counting) -> Callable[[F], F]:
    """Says what an objective averages over, where that is not each included position of a response.

    The rule gives the counts that the objective will return, before any forward: a step's denominators are known
    before its first micro-batch.
    """

    def mark(function: F) -> F:
        function.counts = rule  # type: ignore[attr-defined]
        return function

    return mark


def each_position(batch: BatchLike, settings: Mapping[str, Any]) -> Tensor:
    """[R] positions of each row, or 1 with `positions: first`; what an unmarked objective averages over."""
    if settings.get("positions") == "first":
        return torch.ones(batch.n_rows)
    return torch.bincount(batch.row, minlength=batch.n_rows).float()


def each_sequence(batch: BatchLike, settings: Mapping[str, Any]) -> Tensor:
    """[R] ones: the objective has one value per row."""
    return torch.ones(batch.n_rows)


def each_pair(batch: BatchLike, settings: Mapping[str, Any]) -> Tensor:
    """[R] 1 for the row of each pair that holds the data's own answer, which carries the pair's value; else 0."""
    return ((batch.pair_id >= 0) & (batch.response_id == 0)).float()


def beyond_first(setting: str) -> Counting:
    """Positions of each row without the first few; `setting` says how many."""

    def rule(batch: BatchLike, settings: Mapping[str, Any]) -> Tensor:
        kept = batch.row[batch.offset >= int(settings[setting])]
        return torch.bincount(kept, minlength=batch.n_rows).float()

    return rule


def per_sequence(values: Tensor, row: Tensor, n_rows: int) -> Tensor:
    """[A] -> [R] fp32: the sum over each row."""
    return torch.zeros(n_rows, device=values.device).index_add(0, row, values.float())


def partners(pair_id: Tensor, true_answer: Tensor) -> tuple[Tensor, Tensor]:
    """For each row, the row of its pair that holds another answer.

    Args:
        pair_id: [R], -1 for rows without a pair.
        true_answer: [R] whether the row holds the data's own answer.

    Returns:
        [R] index of the partner (0 where there is none), and [R] whether the row holds the data's own answer and has
        a partner: these rows carry their pair's value.
    """
    same = (
        (pair_id.unsqueeze(1) == pair_id.unsqueeze(0))
        & (pair_id >= 0).unsqueeze(1)
        & ~true_answer.unsqueeze(0)
    )
    return same.int().argmax(1), true_answer & same.any(1)
