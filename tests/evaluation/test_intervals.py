"""The cluster bootstrap against a slow reference, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from harmonize.evaluation.intervals import cluster_interval, generator


def _slow(values, clusters, confidence, resamples, key):
    names = sorted(set(clusters))
    rng = generator("bootstrap", *key)
    means = []
    for counts in rng.multinomial(len(names), [1 / len(names)] * len(names), size=resamples):
        drawn = []
        for name, count in zip(names, counts, strict=True):
            for _ in range(count):
                drawn += [v for v, c in zip(values, clusters, strict=True) if c == name]
        means.append(sum(drawn) / len(drawn))
    tail = (1 - confidence) / 2
    return np.quantile(means, tail), np.quantile(means, 1 - tail)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_agrees_with_a_slow_reference(confidence: float) -> None:
    rng = np.random.default_rng(0)
    clusters = [f"s{i}" for i in rng.integers(0, 7, size=40)]
    values = rng.random(40).tolist()
    fast = cluster_interval(values, clusters, confidence=confidence, resamples=300, key=("m", 0))
    assert fast == pytest.approx(_slow(values, clusters, confidence, 300, ("m", 0)))


def test_subjects_not_questions_are_drawn() -> None:
    # Two subjects of fifty questions each, one known and one not: any draw gives 0, a half or 1.
    values, clusters = [1.0] * 50 + [0.0] * 50, ["a"] * 50 + ["b"] * 50
    assert cluster_interval(values, clusters, resamples=500, key=("m",)) == (0.0, 1.0)


def test_order_of_items_changes_nothing_but_rounding() -> None:
    values, clusters = [0.0, 1.0, 1.0, 0.0, 1.0], ["a", "b", "a", "c", "c"]
    one = cluster_interval(values, clusters, key=("m", 1))
    two = cluster_interval(values[::-1], clusters[::-1], key=("m", 1))
    assert one == pytest.approx(two)
    assert cluster_interval(values, clusters, key=("m", 2)) is not None


def test_where_all_score_alike_the_interval_is_open_at_one_end() -> None:
    """Nothing leaked on 10 subjects is no proof that nothing leaks: the limit is that of 10 draws, not of 40."""
    from scipy.stats import binomtest

    clusters = [f"s{i}" for i in range(10) for _ in range(4)]
    exact = binomtest(0, 10).proportion_ci(0.95, method="exact")
    assert cluster_interval([0.0] * 40, clusters) == pytest.approx((exact.low, exact.high))
    exact = binomtest(10, 10).proportion_ci(0.9, method="exact")
    assert cluster_interval([1.0] * 40, clusters, confidence=0.9) == pytest.approx((exact.low, exact.high))
    assert cluster_interval([0.5] * 40, clusters) == (0.5, 0.5)  # no share of anything
    # a distance or a loss that is 0 everywhere is no share, and has no limit that draws could give
    assert cluster_interval([0.0] * 40, clusters, share=False) == (0.0, 0.0)
    assert cluster_interval([1.0] * 40, clusters, share=False) == (1.0, 1.0)


def test_one_subject_has_no_interval() -> None:
    assert cluster_interval([0.0, 1.0], ["a", "a"]) is None
    assert cluster_interval([0.0, 1.0], ["a", "b"], resamples=0) is None


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        levels = rng.random(30)  # a subject's questions share its level; the true mean is 0.5
        values = np.repeat(levels, 4).tolist()
        clusters = [f"s{i}" for i in range(30) for _ in range(4)]
        low, high = cluster_interval(values, clusters, confidence=0.9, resamples=300, key=(trial,))
        covered += low <= 0.5 <= high
    assert 0.82 <= covered / 200 <= 0.97
