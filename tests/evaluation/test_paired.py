"""Paired tests: by hand, against slow references and scipy's own, at both ends, and mirrored."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from harmonize.evaluation.intervals import generator
from harmonize.evaluation.paired import BOOTSTRAP, MCNEMAR, mcnemar, paired_t, paired_test

OPPOSITE = {"A": "B", "B": "A", "": ""}


def test_mcnemar_by_hand() -> None:
    # five items tell the models apart, all for one of them: 2 * (1/2)**5
    assert mcnemar(5, 0) == pytest.approx(0.0625)
    # 3 against 1: 2 * (C(4,0) + C(4,1)) / 2**4 = 10/16
    assert mcnemar(3, 1) == pytest.approx(0.625)
    assert mcnemar(0, 0) == mcnemar(2, 2) == 1.0


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (7, 2), (40, 61), (3, 300), (500, 430)])
def test_mcnemar_against_a_sum_over_integers_and_scipy(only_a: int, only_b: int) -> None:
    n, m = only_a + only_b, min(only_a, only_b)
    exact = min(1.0, 2 * sum(math.comb(n, k) for k in range(m + 1)) / 2**n)
    assert mcnemar(only_a, only_b) == pytest.approx(exact, rel=1e-6, abs=1e-300)
    assert mcnemar(only_a, only_b) == pytest.approx(scipy.stats.binomtest(only_a, n).pvalue, rel=1e-6)


def _slow_bootstrap(a, b, clusters, resamples, key):
    names = sorted(set(clusters))
    draws = generator("bootstrap", *key).multinomial(
        len(names), [1 / len(names)] * len(names), size=resamples
    )
    means = []
    for counts in draws:
        drawn = [
            y - x
            for name, count in zip(names, counts, strict=True)
            for _ in range(count)
            for x, y, c in zip(a, b, clusters, strict=True)
            if c == name
        ]
        means.append(sum(drawn) / len(drawn))
    below, above = sum(m <= 0 for m in means), sum(m >= 0 for m in means)
    return (
        np.quantile(means, 0.025),
        np.quantile(means, 0.975),
        min(1, 2 * (1 + min(below, above)) / (resamples + 1)),
    )


def test_real_scores_against_a_slow_reference() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(30).tolist(), (rng.random(30) + 0.1).tolist()
    clusters = [f"s{i}" for i in rng.integers(0, 6, 30)]
    found = paired_test(a, b, clusters, resamples=300, key=("m",))
    low, high, p = _slow_bootstrap(a, b, clusters, 300, ("m",))
    assert found.test == BOOTSTRAP
    assert (found.low, found.high, found.p) == pytest.approx((low, high, p), abs=1e-9)
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a))


def test_zeros_and_ones_are_counted_by_mcnemar() -> None:
    a, b = [1, 1, 0, 0, 1, 0], [0, 1, 1, 1, 1, 1]
    found = paired_test(list(map(float, a)), list(map(float, b)), ["x", "y", "z"] * 2)
    assert (found.test, found.only_a, found.only_b, found.n, found.clusters) == (MCNEMAR, 1, 3, 6, 3)
    assert found.p == pytest.approx(0.625)


def test_known_truth_at_both_ends() -> None:
    subjects = [f"s{i // 2}" for i in range(40)]
    same = paired_test([1.0] * 40, [1.0] * 40, subjects)
    assert same.p == 1.0 and (same.low, same.high) == (0.0, 0.0) and same.better(True) == ""
    apart = paired_test([0.0] * 40, [1.0] * 40, subjects)
    assert apart.p < 1e-9 and apart.better(True) == "B" and apart.better(False) == "A"
    reals = paired_test([0.3] * 40, [0.5] * 40, subjects)
    assert reals.p < 0.01 and reals.better(True) == "B"
    assert paired_test([0.3] * 40, [0.3] * 40, subjects).p == 1.0


def test_one_subject_can_tell_nothing() -> None:
    # Forty questions, one subject: McNemar alone would call it, and nobody knows how subjects vary.
    found = paired_test([0.0] * 40, [1.0] * 40, ["only"] * 40)
    assert found.low is None and found.better(True) == ""
    assert paired_test([0.1] * 4, [0.2] * 4, ["only"] * 4).p is None


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("real", [False, True])
def test_swapping_mirrors_everything(seed: int, real: bool) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    lift = float(rng.random())
    a = rng.random(n) if real else (rng.random(n) < 0.4).astype(float)
    b = rng.random(n) + lift if real else (rng.random(n) < 0.4 + lift / 2).astype(float)
    clusters = [f"s{i}" for i in rng.integers(0, 8, n)]
    one = paired_test(a.tolist(), b.tolist(), clusters, key=("m", seed))
    two = paired_test(b.tolist(), a.tolist(), clusters, key=("m", seed))
    assert one.p == two.p and one.difference == pytest.approx(-two.difference)
    assert (one.only_a, one.only_b) == (two.only_b, two.only_a)
    for up in (True, False):
        assert one.better(up) == OPPOSITE[two.better(up)]
        assert one.better(up) == OPPOSITE[one.better(not up)]
    if one.low is not None:
        assert (one.low, one.high) == pytest.approx((-two.high, -two.low), abs=1e-12)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        paired_test([], [], [])
    with pytest.raises(ValueError, match="as many"):
        paired_test([1.0], [1.0, 0.0], ["a", "b"])


def test_paired_t_by_hand_and_against_scipy() -> None:
    # mean 0.2, sd 0.1, t = 0.2 / (0.1 / sqrt 3) = 3.4641 with 2 degrees: p = 0.07418
    assert paired_t([0.1, 0.2, 0.3]) == pytest.approx(0.0741799, abs=1e-6)
    rng = np.random.default_rng(0)
    for n in (2, 3, 10):
        a, b = rng.random(n), rng.random(n)
        assert paired_t((a - b).tolist()) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-6)
    assert paired_t([0.1]) is None
    assert paired_t([0.0, 0.0]) == 1.0
    assert paired_t([0.3 - 0.2, 0.2 - 0.1]) == 0.0
    assert paired_t([-0.1, -0.2, -0.3]) == paired_t([0.1, 0.2, 0.3])


def test_the_test_errs_about_as_often_as_it_says() -> None:
    called = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        a, b = (rng.random(80) < 0.5).astype(float), (rng.random(80) < 0.5).astype(float)
        found = paired_test(
            a.tolist(), b.tolist(), [f"s{i // 2}" for i in range(80)], resamples=300, key=(trial,)
        )
        called += found.better(True) != ""
    assert called <= 0.08 * 200
