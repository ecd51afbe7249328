"""Directions of second moments, and where REGLU's adapters start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harmonize.errors import ModelError
from harmonize.statistics.subspaces import rila, top_directions


def moments(size: int, seed: int) -> Tensor:
    states = torch.randn(50, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return states.T @ (states * torch.arange(1, 51)[:, None]) / 50


def test_the_longest_axes_first_and_pointing_one_way() -> None:
    found = top_directions(torch.diag(torch.tensor([1.0, 5.0, -7.0, 3.0])), 2)
    assert found.tolist() == [[0, 0], [1, 0], [0, 0], [0, 1]] and found.dtype == torch.float64
    # eigenvalues 3 and 1 along (1, 1) and (1, -1)
    found = top_directions(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 5)
    half = 0.5**0.5
    assert found.shape == (2, 2) and found[:, 0].tolist() == pytest.approx([half, half])
    assert abs(found[0, 1]) == pytest.approx(half) and found[:, 1].sum().item() == pytest.approx(
        0.0, abs=1e-12
    )


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_they_are_orthonormal_and_hold_the_most_that_so_many_can(rank: int) -> None:
    matrix = moments(8, 1)
    found = top_directions(matrix, rank)
    torch.testing.assert_close(found.T @ found, torch.eye(rank, dtype=torch.float64))
    best = torch.linalg.eigvalsh(matrix)[-rank:].sum()
    torch.testing.assert_close((found.T @ matrix @ found).trace(), best)
    assert torch.equal(found, top_directions(matrix.clone(), rank))
    assert bool((found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all())


def test_rila_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    forget, retain = torch.diag(torch.tensor([4.0, 3.0, 0.0])), torch.diag(torch.tensor([4.0, 0.0, 9.0]))
    # beta 0.5: differences 0, 1.5, -4.5: the second output, which forget rows alone have
    a, b = rila(weight, forget, retain, 1, beta=0.5)
    assert b.tolist() == [[0.0], [1.0], [0.0]] and a.tolist() == [[3.0, 4.0]]
    # beta 0: what forget rows have most of
    a, b = rila(weight, forget, retain, 1, beta=0.0)
    assert b.tolist() == [[1.0], [0.0], [0.0]] and a.tolist() == [[1.0, 2.0]]


def test_rila_splits_off_a_projection_of_the_weight() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    a, b = rila(weight, moments(6, 1), moments(6, 2), 2, beta=0.7)
    assert a.shape == (2, 4) and b.shape == (6, 2)
    torch.testing.assert_close(b.T @ b, torch.eye(2, dtype=torch.float64))
    rest = weight.double() - b @ a
    torch.testing.assert_close(b.T @ rest, torch.zeros(2, 4, dtype=torch.float64), atol=1e-12, rtol=0)
    # the published code adds the same to both diagonals, which moves no direction
    shift = 1e-4 * torch.eye(6, dtype=torch.float64)
    shifted = rila(weight, moments(6, 1) + shift, moments(6, 2) + shift, 2, beta=0.7)
    torch.testing.assert_close(shifted[1], b)


def test_a_rank_above_the_outputs() -> None:
    with pytest.raises(ModelError, match=r"Use peft\.r=3 or less"):
        rila(torch.zeros(3, 2), torch.eye(3), torch.eye(3), 4)
