"""Metrics against numbers worked by hand, and against the libraries or slow forms that they stand for."""

from __future__ import annotations

import itertools
import math
import random
import zlib

import numpy as np
import pytest
from scipy import stats

from harmonize.evaluation.one_pass import TokenRow
from harmonize.evaluation.scores import fluency, membership, memorization, tofu


def row(log_probs, ranks=None, means=None, variances=None) -> TokenRow:
    n = len(log_probs)
    arrays = [log_probs, ranks or [0] * n, means or [-1.0] * n, variances or [1.0] * n]
    return TokenRow(*(np.asarray(a, dtype=np.float64) for a in arrays))


def test_probability_is_the_geometric_mean() -> None:
    assert memorization.probability(row(np.log([0.5, 0.25, 0.125]))) == pytest.approx(0.25)
    assert memorization.probability(row([0.0])) == 1.0
    assert memorization.mean_log_prob(row([-1.0, -3.0])) == -2.0


@pytest.mark.parametrize(
    ("ranks", "strength", "floor", "exact"),
    [
        ([0, 0, 0, 0], 1.0, 1.0, 1.0),
        ([3, 0, 0, 0], 0.75, 0.75, 0.75),
        ([0, 0, 9, 0], 0.25, 0.25, 0.75),
        ([0, 0, 0, 1], 0.0, 0.25, 0.75),  # the last is wrong: nothing is extracted
        ([5, 5, 5, 5], 0.0, 0.25, 0.0),  # the peer reports 1 / 4 after perfect forgetting
        ([7], 0.0, 1.0, 0.0),
    ],
)
def test_extraction_strength_and_exact_memorization(ranks, strength, floor, exact) -> None:
    found = row([-1.0] * len(ranks), ranks)
    assert memorization.extraction_strength(found) == strength
    assert memorization.extraction_strength(found, floor=True) == floor
    assert memorization.exact_memorization(found) == exact


def test_extraction_strength_equals_a_search() -> None:
    for ranks in itertools.product((0, 1), repeat=5):
        k = next(k for k in range(6) if not any(ranks[k:]))
        assert memorization.extraction_strength(row([-1.0] * 5, list(ranks))) == 1 - k / 5


def test_tokens_at_k() -> None:
    found = row([-1.0] * 4, [0, 4, 5, 100])
    assert [memorization.tokens_at_k(found, k) for k in (1, 5, 6, 101)] == [0.25, 0.5, 0.75, 1.0]


def test_membership_scores_by_hand() -> None:
    found = row([-1.0, -2.0, -3.0, -6.0], means=[-2.0] * 4, variances=[1.0, 4.0, 1.0, 0.0])
    assert membership.loss_score(found) == -3.0
    text = "some text some text"
    assert membership.zlib_score(found, text) == pytest.approx(-3.0 / len(zlib.compress(text.encode())))
    assert membership.reference_score(found, -5.0) == 2.0
    assert membership.min_k_score(found, 0.5) == -4.5
    assert membership.min_k_score(found, 0.1) == -6.0  # one token at least
    assert membership.min_k_score(found, 1.0) == -3.0
    # standardised: 1, 0, -1, and a variance of nothing counts as 1e-6
    assert membership.min_k_plus_plus_score(found, 0.5) == pytest.approx((-4000.0 - 1.0) / 2)
    with pytest.raises(ValueError):
        membership.zlib_score(found, "")


def test_auc_and_its_interval() -> None:
    assert membership.auc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert membership.auc([0.0, 1.0], [2.0, 3.0]) == 0.0
    assert membership.auc([1.0, 1.0], [1.0]) == 0.5
    assert membership.auc([1.0, 3.0], [2.0, 0.0]) == 0.75
    with pytest.raises(ValueError):
        membership.auc([], [1.0])
    draw = random.Random(0)
    a, b = [draw.gauss(0.5, 1) for _ in range(60)], [draw.gauss(0, 1) for _ in range(50)]
    names = [str(i) for i in range(60)]

    def interval(clusters):
        return membership.auc_interval(
            a, b, clusters, names[:50], confidence=0.95, resamples=400, key=("x", 0)
        )

    low, high = interval(names)
    assert low < membership.auc(a, b) < high and high - low < 0.3
    assert interval(names) == (low, high)
    assert interval(["one"] * 60) is None


@pytest.mark.parametrize("up", [True, False])
def test_sets_that_are_told_apart_perfectly_have_an_open_end(up: bool) -> None:
    """Five pairs that all agree say as much as five draws that all agree, however many texts there are."""
    from scipy.stats import binomtest

    high, low = [2.0] * 10, [1.0, 0.0] * 6
    members, others = (high, low) if up else (low, high)
    subjects = {10: [str(i // 2) for i in range(10)], 12: [str(i) for i in range(12)]}
    found = membership.auc_interval(
        members,
        others,
        subjects[len(members)],
        subjects[len(others)],
        confidence=0.95,
        resamples=20,
        key=("x",),
    )
    exact = binomtest(5 if up else 0, 5).proportion_ci(0.95, method="exact")
    assert found == pytest.approx((exact.low, exact.high))


def test_auc_interval_equals_a_slow_bootstrap() -> None:
    from harmonize.evaluation.intervals import cluster_weights

    a, b = [0.0, 1.0, 3.0, 2.0], [1.0, 0.5, -1.0]
    ca, cb = ["x", "x", "y", "z"], ["u", "v", "v"]
    left, right = (cluster_weights(c, 50, ("k", s)).astype(int) for c, s in ((ca, "members"), (cb, "others")))
    slow = [
        membership.auc(
            [v for v, n in zip(a, w, strict=True) for _ in range(n)],
            [v for v, n in zip(b, u, strict=True) for _ in range(n)],
        )
        for w, u in zip(left, right, strict=True)
    ]
    found = membership.auc_interval(a, b, ca, cb, confidence=0.9, resamples=50, key=("k",))
    assert found == pytest.approx(tuple(np.quantile(slow, [0.05, 0.95])), abs=1e-12)


@pytest.mark.parametrize(
    ("area", "reference", "expected"),
    # in MUSE's words: AUC 0.5 of the retrained model; 1 - 1 = 0 of a model that remembers all
    [(0.5, 0.5, 0.0), (1.0, 0.5, -100.0), (0.0, 0.5, 100.0), (0.75, 0.5, -50.0), (1.0, 1.0, 0.0)],
)
def test_priv_leak(area, reference, expected) -> None:
    assert membership.priv_leak(area, reference) == pytest.approx(expected)
    assert membership.priv_leak(0.5, 1.0) == math.inf


def test_truth_ratio_by_hand() -> None:
    true, wrong = math.log(0.5), [math.log(0.1), math.log(0.4)]
    assert tofu.truth_ratio(true, wrong) == pytest.approx(0.2 / 0.5)  # sqrt(0.1 * 0.4) = 0.2
    assert tofu.truth_ratio(true, wrong, "arithmetic") == pytest.approx(0.25 / 0.5)
    assert tofu.closeness_to_one(0.4) == tofu.closeness_to_one(2.5) == 0.4
    assert tofu.closeness_to_one(0.0) == 0.0
    assert tofu.preference_for_truth(0.4) == 0.6 and tofu.preference_for_truth(3.0) == 0.0
    assert tofu.truth_ratio(-5000.0, [0.0]) > 1e300  # no overflow
    with pytest.raises(ValueError):
        tofu.truth_ratio(true, [])
    with pytest.raises(ValueError, match="mean=median"):
        tofu.truth_ratio(true, wrong, "median")


def test_option_probability_by_hand() -> None:
    assert tofu.option_probability(math.log(0.3), [math.log(0.1), math.log(0.2)]) == pytest.approx(0.5)
    assert tofu.option_probability(-2000.0, [-2000.0] * 3) == pytest.approx(0.25)


def test_forget_quality_is_scipys_test_in_decades() -> None:
    draw = np.random.default_rng(0)
    one, two = draw.normal(size=40).tolist(), draw.normal(0.8, size=40).tolist()
    expected = stats.ks_2samp(one, two)
    found = tofu.forget_quality(one, two)
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.log10_p == pytest.approx(math.log10(expected.pvalue))
    assert tofu.forget_quality(one, one) == (0.0, 0.0)
    # any monotone form of the ratios gives the same
    other = tofu.forget_quality([math.exp(-v) for v in one], [math.exp(-v) for v in two])
    assert other.log10_p == pytest.approx(found.log10_p)
    with pytest.raises(ValueError):
        tofu.forget_quality([], two)


def test_forget_quality_where_p_is_no_number_any_more(monkeypatch) -> None:
    low, high = list(range(400)), [v + 1000 for v in range(400)]
    exact = math.log10(stats.ks_2samp(low, high).pvalue)
    assert tofu.forget_quality(low, high).log10_p == pytest.approx(exact) and exact < -200
    monkeypatch.setattr(
        "scipy.stats.ks_2samp", lambda *_: type("Found", (), {"statistic": 1.0, "pvalue": 0.0})
    )
    # 2 exp(-2 * 200 * 1)
    assert tofu.forget_quality(low, high).log10_p == pytest.approx((math.log(2) - 400) / math.log(10))


def test_model_utility_is_the_harmonic_mean() -> None:
    assert tofu.model_utility([0.5, 1.0]) == pytest.approx(2 / 3)
    assert tofu.model_utility([0.9] * 9) == pytest.approx(0.9)
    assert tofu.model_utility([0.9] * 8 + [0.0]) == 0.0
    draws = tofu.model_utility_draws([np.array([0.5, 0.0]), np.array([1.0, 1.0])])
    assert draws == pytest.approx([2 / 3, 0.0])
    with pytest.raises(ValueError):
        tofu.model_utility([])


def test_ngram_entropy_and_repetition_by_hand() -> None:
    # four different bigrams (2 bits), three different trigrams (log2 3)
    assert fluency.ngram_entropy("a b c d e") == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2)
    assert fluency.ngram_entropy("a a a a a") == 0.0
    assert fluency.ngram_entropy("word") == fluency.ngram_entropy("") == 0.0
    assert fluency.repetition("a b c a b c") == pytest.approx(1 / 4)  # abc bca cab abc
    assert fluency.repetition("a b") == 0.0 and fluency.repetition("a a a a") == 0.5
