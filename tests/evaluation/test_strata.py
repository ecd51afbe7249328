"""Quartiles of the start model's log-probability, by hand and against a slow reference; and the stability gap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from harmonize.evaluation.prior import prior_strength, question_key, with_priors
from harmonize.evaluation.stability import gap, stability
from harmonize.evaluation.strata import by_prior, quartiles


def test_quartiles_by_hand() -> None:
    # limits of 1..8: 2.75, 4.5, 6.25
    assert quartiles([8, 1, 2, 3, 4, 5, 6, 7]) == [3, 0, 0, 1, 1, 2, 2, 3]
    assert quartiles([]) == []


def test_equal_priors_are_never_torn_apart() -> None:
    assert set(quartiles([-1.0] * 9)) == {0}
    mixed = quartiles([-2.0, -2.0, -2.0, -1.0])
    assert len(set(mixed[:3])) == 1 and mixed[3] > mixed[0]


@pytest.mark.parametrize("seed", range(5))
def test_by_prior_against_a_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    priors, values = rng.normal(size=37).tolist(), rng.random(37).tolist()
    found = by_prior(values, priors, [f"s{i % 5}" for i in range(37)], resamples=20)
    limits = [np.percentile(priors, q) for q in (25, 50, 75)]
    for q, stratum in enumerate(found):
        own = [v for v, p in zip(values, priors, strict=True) if sum(p > edge for edge in limits) == q]
        assert stratum.n == len(own)
        assert stratum.value == pytest.approx(sum(own) / len(own), abs=1e-12)
    assert sum(s.n for s in found) == 37
    assert all(a.high < b.low for a, b in pairwise(found))


def test_an_empty_quartile_says_so() -> None:
    found = by_prior([1.0, 0.0], [-1.0, -1.0], ["a", "b"])
    assert [s.n for s in found] == [2, 0, 0, 0] and found[1].value is None


def _samples() -> list[dict]:
    return [
        {"example_id": f"e{i}", "fact": f"f{i}", "question": "q", "role": "forget", "trained": True, "subject": f"s{i}",
         "attack": attack, "verdict": "wrong", "score": score}
        for i in range(8)
        for attack, score in (("none", float(i >= 4)), ("opener", float(i >= 6)))
    ]  # fmt: skip


def test_what_the_start_model_knew_best_comes_back_best() -> None:
    priors = {question_key(f"f{i}", "q"): float(i) for i in range(8)}
    samples = with_priors(_samples(), priors)
    assert [s["prior"] for s in samples[:4]] == [0.0, 0.0, 1.0, 1.0]
    found = prior_strength(samples, confidence=0.95, resamples=20, seed=0)
    assert [s["value"] for s in found["forget_accuracy"]] == [0.0, 0.0, 1.0, 1.0]
    assert [s["value"] for s in found["asr_worst"]] == [0.0, 0.0, 0.0, 1.0]
    assert [s["n"] for s in found["asr_worst"]] == [2, 2, 2, 2]
    assert "forget_heldout_accuracy" not in found
    assert prior_strength(_samples(), confidence=0.95, resamples=20, seed=0) == {}


CURVE = [(0, 1.0), (10, 0.9), (20, 0.4), (30, 0.7), (40, 0.8)]


def test_gap_by_hand() -> None:
    found = gap(CURVE, better=True, window=10)
    assert (found.minimum, found.minimum_step, found.start, found.final) == (0.4, 20, 1.0, 0.8)
    assert found.drop == pytest.approx(0.5) and (found.drop_from, found.drop_to) == (10, 20)
    assert found.recovery == pytest.approx(0.4)
    assert gap(CURVE, better=True, window=20).drop == pytest.approx(0.6)
    # of an axis that should fall, worse is up: 0.4 -> 0.7, and the worst value is the first
    down = gap(CURVE, better=False, window=10)
    assert down.drop == pytest.approx(0.3) and (down.drop_from, down.drop_to) == (20, 30)
    assert down.recovery == pytest.approx(0.2)


def test_gap_at_both_ends() -> None:
    rising = gap([(0, 0.0), (5, 0.5), (9, 1.0)], better=True, window=100)
    assert rising.drop == 0.0 and rising.drop_from is None and rising.recovery == 1.0
    lost = gap([(0, 1.0), (5, 0.0)], better=True, window=5)
    assert lost.drop == 1.0 and lost.recovery == 0.0
    assert gap([(0, 1.0)], better=True, window=5) is None


@pytest.mark.parametrize("seed", range(10))
def test_gap_mirrors_when_the_axis_is_turned(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curve = [(i * 3, float(v)) for i, v in enumerate(rng.random(12))]
    one = gap(curve, better=True, window=9)
    two = gap([(s, 1 - v) for s, v in curve], better=False, window=9)
    assert (one.drop, one.recovery) == pytest.approx((two.drop, two.recovery))
    assert (one.minimum_step, one.drop_from, one.drop_to) == (two.maximum_step, two.drop_from, two.drop_to)
    slow = max(0.0, *(a - b for s, a in curve for t, b in curve if s < t <= s + 9))
    assert one.drop == pytest.approx(slow, abs=1e-12)


def test_looks_of_a_run_start_from_the_target() -> None:
    looks = [
        {"step": 100, "ok": 1.0, "score": 0.3, "utility_accuracy": 0.5, "asr_worst": 0.2},
        {"step": 200, "ok": 1.0, "score": 0.1, "utility_accuracy": 0.9, "asr_worst": 0.6},
    ]
    found = stability(looks, {"utility_accuracy": 1.0, "asr_worst": 1.0}, window=100)
    assert set(found) == {"utility_accuracy", "asr_worst"}
    assert found["utility_accuracy"]["minimum"] == 0.5 and found["utility_accuracy"]["points"] == 3
    assert found["asr_worst"]["drop"] == pytest.approx(0.4) and found["asr_worst"]["drop_to"] == 200
