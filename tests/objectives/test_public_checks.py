"""The checks that a user runs on an objective of their own find what is wrong with one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harmonize.objectives.reduce import counted, each_sequence, per_row, per_sequence
from harmonize.testing import CHECKS, At, Entry, World, check_objective

Pair = tuple[Tensor, Tensor]


def unlikelihood(label_log_probs: Tensor, row: Tensor, n_rows: int, *, most: float = 0.999) -> Pair:
    p = label_log_probs.float().exp().clamp_max(most)
    return per_row(-torch.log1p(-p), row, n_rows)


def unlikelihood_at(p: At) -> float:
    return -math.log(1 - min(p.probabilities[p.label], 0.999))


def test_a_right_objective_passes() -> None:
    check_objective(Entry(unlikelihood, {}, at=unlikelihood_at))


def unbounded(label_log_probs: Tensor, row: Tensor, n_rows: int) -> Pair:
    return per_row(-torch.log1p(-label_log_probs.float().exp()), row, n_rows)


def undeclared(label_log_probs: Tensor, row: Tensor, n_rows: int) -> Pair:
    return per_sequence(label_log_probs, row, n_rows), torch.ones(n_rows)


@counted(each_sequence)
def of_the_batch(label_log_probs: Tensor, row: Tensor, n_rows: int) -> Pair:
    values = per_sequence(label_log_probs, row, n_rows)
    return values * values.mean(), torch.ones(n_rows)


def blind_to_positions(
    label_log_probs: Tensor, row: Tensor, offset: Tensor, n_rows: int, *, positions: str = "all"
) -> Pair:
    total, count = per_row(label_log_probs, row, n_rows, offset == 0 if positions == "first" else None)
    return total + _leak(label_log_probs), count


def _leak(values: Tensor) -> Tensor:
    """Nothing in value, something in gradient."""
    return values.sum() - values.sum().detach()


def coarse(label_log_probs: Tensor, row: Tensor, n_rows: int) -> Pair:
    total, count = per_row(label_log_probs, row, n_rows)
    return total.bfloat16(), count


def across_the_batch(student_logits: Tensor, row: Tensor, n_rows: int) -> Pair:
    return per_row(student_logits.mean(1) / len(student_logits), row, n_rows)


@pytest.mark.parametrize(
    ("function", "at", "check"),
    [
        (unlikelihood, lambda p: -p.log_p, "equals_the_slow_value"),
        (unbounded, lambda p: -math.log(1 - p.probabilities[p.label]), "is_finite_at_extreme_logits"),
        (undeclared, None, "counts_are_known_beforehand"),
        (of_the_batch, None, "accumulation_equals_a_big_batch"),
        (blind_to_positions, lambda p: p.log_p, "excluded_positions_get_no_gradient"),
        (across_the_batch, None, "chunks_and_other_roles_change_nothing"),
    ],
)
def test_each_mistake_is_found(
    function: Callable[..., Any], at: Callable[[At], float] | None, check: str
) -> None:
    entry = Entry(function, {}, at=at or (lambda p: 0.0))
    with pytest.raises(AssertionError):
        CHECKS[check](entry, World((3, 2, 4, 1), 5, 1.0))


def test_results_in_a_coarse_type_are_found() -> None:
    with pytest.raises(AssertionError, match="bfloat16"):
        CHECKS["bf16_inputs_are_within_tolerance"](Entry(coarse, {}, at=lambda p: p.log_p), World((3, 2)))


def test_the_message_says_what_failed_and_where() -> None:
    with pytest.raises(AssertionError, match=r"unlikelihood: equals the slow value, World\(lengths"):
        check_objective(Entry(unlikelihood, {}, at=lambda p: 0.0))
    with pytest.raises(AssertionError, match="either `at` or `of_row`"):
        check_objective(Entry(unlikelihood))
