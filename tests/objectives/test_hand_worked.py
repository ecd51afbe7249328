"""Literal numbers, worked by hand."""

import math

import pytest
import torch

from harmonize.errors import ConfigError
from harmonize.objectives.distill import pull, push
from harmonize.objectives.likelihood import cross_entropy, gradient_ascent
from harmonize.objectives.reduce import per_row

ROW = torch.tensor([0, 0, 1])
OFFSET = torch.tensor([0, 1, 0])


def test_pull() -> None:
    student = torch.tensor([[1.0, 2.0], [5.0, 0.0], [3.0, 3.0]])
    teacher = torch.tensor([[1.5, 2.0], [2.0, 0.5], [3.0, 1.0]])
    # position 0: (0.125 + 0) / 2; position 1: (|3| - 0.5 + 0.125) / 2; position 2: (0 + 1.5) / 2
    total, count = pull(student, teacher, ROW, OFFSET, 2)
    assert total.tolist() == [0.0625 + 1.3125, 0.75]
    assert count.tolist() == [2.0, 1.0]
    total, count = pull(student, teacher, ROW, OFFSET, 2, positions="first")
    assert total.tolist() == [0.0625, 0.75]
    assert count.tolist() == [1.0, 1.0]
    # delta 2: position 1 is (2 * (3 - 1) + 0.125) / 2, position 2 is (0 + 2) / 2
    assert pull(student, teacher, ROW, OFFSET, 2, delta=2.0)[0].tolist() == [0.0625 + 2.0625, 1.0]
    # temperature 2 halves the differences: 0.25, 0 | 1.5, -0.25 | 0, 1
    assert pull(student, teacher, ROW, OFFSET, 2, temperature=2.0)[0].tolist() == [
        0.03125 / 2 + (1.0 + 0.03125) / 2,
        0.25,
    ]


def test_push() -> None:
    student = torch.tensor([[4.0, 3.0], [2.0, 1.0], [9.0, 8.0]], requires_grad=True)
    teacher = torch.tensor([[3.5, 0.0], [3.0, 5.0], [0.0, 7.0]])
    shared = torch.tensor([[False, True], [False, False], [True, True]])
    total, count = push(student, teacher, shared, ROW, OFFSET, 2)
    # position 0: only id 0 counts, 0.5**2 / 2; position 1: the student is below the teacher; position 2: S \ T empty
    assert total.tolist() == [0.125, 0.0]
    assert count.tolist() == [2.0, 1.0]
    total.sum().backward()
    assert student.grad.tolist() == [[0.5, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_push_takes_the_mean_over_what_is_outside() -> None:
    student, teacher = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.0, 1.5, 2.0]])
    outside = torch.zeros(1, 3, dtype=torch.bool)
    total, _ = push(student, teacher, outside, torch.tensor([0]), torch.tensor([0]), 1)
    assert total.item() == pytest.approx((2.5 + 0.125 + 0.0) / 3)


def test_cross_entropy_and_its_opposite() -> None:
    log_probs = torch.log(torch.tensor([0.5, 0.25, 1.0]))
    total, count = cross_entropy(log_probs, ROW, OFFSET, 2)
    assert total.tolist() == pytest.approx([3 * math.log(2), 0.0])
    assert count.tolist() == [2.0, 1.0]
    assert gradient_ascent(log_probs, ROW, OFFSET, 2)[0].tolist() == pytest.approx([-3 * math.log(2), 0.0])
    assert cross_entropy(log_probs, ROW, OFFSET, 2, positions="first")[0].tolist() == pytest.approx(
        [math.log(2), 0.0]
    )


def test_rows_without_positions_sum_to_zero() -> None:
    total, count = per_row(torch.tensor([2.0]), torch.tensor([1]), 3)
    assert total.tolist() == [0.0, 2.0, 0.0] and count.tolist() == [0.0, 1.0, 0.0]


def test_unknown_positions() -> None:
    with pytest.raises(ConfigError, match="positions=all or positions=first"):
        pull(torch.ones(1, 1), torch.ones(1, 1), torch.tensor([0]), torch.tensor([0]), 1, positions="last")
