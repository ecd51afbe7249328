"""The keep-best rule."""

from __future__ import annotations

import math

import pytest

from harmonize.evaluation.selection import kept_sum, select_score, shortfall
from harmonize.tracking.metric import Metric

TARGET = {"neighbor_accuracy": 1.0, "neighbor_accuracy_trained": 1.0, "utility_accuracy": 0.8}


def _state(**changes: float | None) -> dict[str, Metric]:
    values = {
        "forget_accuracy": 0.2,
        "forget_heldout_accuracy": 0.4,
        "asr_worst": 0.1,
        "neighbor_accuracy": 0.95,
        "neighbor_accuracy_trained": 0.2,
        "utility_accuracy": 0.75,
    }
    return {k: Metric(v, 10) for k, v in {**values, **changes}.items()}


def test_score_is_forget_plus_attack_success() -> None:
    assert select_score(_state(), TARGET) == (True, pytest.approx(0.4))
    assert select_score(_state(forget_heldout_accuracy=None), TARGET) == (True, pytest.approx(0.3))
    assert select_score(_state(asr_worst=None), TARGET) == (True, pytest.approx(0.3))
    assert select_score({}, TARGET) == (False, math.inf)


def test_floors_are_shares_of_the_targets_own_figures() -> None:
    assert select_score(_state(neighbor_accuracy=0.9), TARGET, 0.9, 0.9)[0]
    assert not select_score(_state(neighbor_accuracy=0.89), TARGET, 0.9, 0.9)[0]
    assert not select_score(_state(utility_accuracy=0.7), TARGET, 0.9, 0.9)[0]
    assert select_score(_state(utility_accuracy=0.1), TARGET, 0.9, 0.1)[0]


def test_what_is_not_measured_bars_nothing() -> None:
    assert not select_score(_state(neighbor_accuracy=None), TARGET)[0]  # the trained-on ones stand in
    assert select_score(_state(neighbor_accuracy=None, neighbor_accuracy_trained=None), TARGET)[0]
    assert select_score(_state(utility_accuracy=0.0), {"neighbor_accuracy": 1.0})[0]


def test_held_out_retain_stands_for_neighbors_before_trained_on_neighbors() -> None:
    target = {**TARGET, "retain_accuracy": 1.0}
    kept = _state(neighbor_accuracy=None, retain_accuracy=0.95)
    lost = _state(neighbor_accuracy=None, retain_accuracy=0.5, neighbor_accuracy_trained=1.0)
    assert select_score(kept, target)[0] and not select_score(lost, target)[0]
    assert shortfall(kept, target) == 0.0 and shortfall(lost, target) == pytest.approx(0.4)
    assert kept_sum(lost) == pytest.approx(0.5 + 0.75)
    assert select_score(_state(retain_accuracy=0.1), target)[0]  # measured neighbors speak for themselves


def test_values_alone_do() -> None:
    plain = {k: m.value for k, m in _state().items()}
    assert select_score(plain, TARGET) == select_score(_state(), {k: Metric(v, 1) for k, v in TARGET.items()})
