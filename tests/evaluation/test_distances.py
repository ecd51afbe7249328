"""Distances between representations against values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harmonize.evaluation.distances import (
    classifier_accuracy,
    cosine_distance,
    linear_cka,
    median_distance,
    mmd2,
    relative_distance,
)


def test_median_distance_by_hand() -> None:
    assert median_distance(np.array([[0.0], [1.0], [3.0]])) == 2.0  # 1, 3, 2
    assert median_distance(np.array([[1.0], [1.0]])) == 1.0
    assert median_distance(np.array([[1.0]])) == 1.0


def test_mmd2_by_hand() -> None:
    # kernels with bandwidth 1: within x exp(-1/2), within y exp(-1/2), across exp(-2), exp(-9/2), exp(-1/2), exp(-2)
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    within = 2 * math.exp(-0.5)
    across = (2 * math.exp(-2) + math.exp(-4.5) + math.exp(-0.5)) / 4
    assert mmd2(x, y, bandwidth=1.0) == pytest.approx(within - 2 * across)
    assert mmd2(x, y) == pytest.approx(mmd2(x, y, bandwidth=1.5))  # median of 1, 2, 3, 1, 2, 1


def test_mmd2_is_unbiased_where_nothing_differs() -> None:
    draw = np.random.default_rng(0)
    values = [mmd2(draw.normal(size=(20, 3)), draw.normal(size=(20, 3))) for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))
    assert min(values) < 0 < max(values)
    assert mmd2(draw.normal(size=(20, 3)), draw.normal(size=(20, 3)) + 3) > 10 * np.std(values)


def test_mmd2_needs_two_rows() -> None:
    with pytest.raises(ValueError, match="two rows"):
        mmd2(np.zeros((1, 2)), np.zeros((5, 2)))


def test_a_linear_map_tells_apart_what_is_apart() -> None:
    draw = np.random.default_rng(1)
    points = draw.normal(size=(120, 4))
    labels = [i % 2 for i in range(120)]
    groups = [f"subject {i // 4}" for i in range(120)]
    chance = classifier_accuracy(points, labels, groups)
    assert chance is not None
    assert 0.3 < chance < 0.7
    points[:, 0] += 10 * np.array(labels)
    assert classifier_accuracy(points, labels, groups) == 1.0


def test_groups_are_never_in_training_and_test() -> None:
    # a subject's rows lie together, its class is arbitrary: without grouping the neighbours would give it away
    draw = np.random.default_rng(2)
    centres = draw.normal(size=(40, 30)) * 10
    points = np.repeat(centres, 10, axis=0) + draw.normal(size=(400, 30)) * 0.01
    labels = np.repeat(draw.integers(0, 2, size=40), 10).tolist()
    found = classifier_accuracy(points, labels, [f"s{i // 10}" for i in range(400)])
    assert found is not None
    assert found < 0.75


def test_too_few_groups_give_nothing() -> None:
    points = np.zeros((6, 2))
    assert classifier_accuracy(points, [0, 0, 0, 1, 1, 1], ["a", "a", "a", "b", "c", "d"]) is None
    assert classifier_accuracy(points, [0] * 6, list("abcdef")) is None


def test_relative_and_cosine_distance_by_hand() -> None:
    x, y = np.asarray([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]]), np.asarray([[0.0, 5.0], [0.0, 0.0], [2.0, 2.0]])
    assert relative_distance(x, y) == pytest.approx([math.sqrt(10) / 5, 0, 0.5])
    assert cosine_distance(x, y) == pytest.approx([1 - 0.8, 1, 0])
    assert (relative_distance(x, x) == 0).all() and (cosine_distance(x, x) >= 0).all()


@pytest.mark.parametrize("n", [5, 40])
def test_linear_cka_is_that_of_centred_kernels(n: int) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(n, 8)), draw.normal(size=(n, 12))
    y[:, :4] += x[:, :4]
    middle = np.eye(n) - 1 / n
    k, h = (middle @ v @ v.T @ middle for v in (x, y))
    slow = np.trace(k @ h) / np.sqrt(np.trace(k @ k) * np.trace(h @ h))
    assert linear_cka(x, y) == pytest.approx(slow, abs=1e-9)
    turn = np.linalg.qr(draw.normal(size=(8, 8)))[0]
    assert linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1)
    assert linear_cka(np.ones((n, 3)), x) is None
