"""Up, down, and towards a value: merits by hand, names, symbols, and how they are written."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize.tracking.direction import DOWN, UP, Direction, towards
from harmonize.tracking.metric import Metric

HALF = towards(0.5)
tens = st.integers(-80, 80).map(lambda i: i / 8)  # differences of these are exact


def test_merits_by_hand() -> None:
    assert [UP.merit(v) for v in (-0.25, 0.0, 0.75)] == [-0.25, 0.0, 0.75]
    assert [DOWN.merit(v) for v in (-0.25, 0.0, 0.75)] == [0.25, 0.0, -0.75]
    assert [HALF.merit(v) for v in (0.25, 0.5, 1.0)] == [-0.25, 0.0, -0.5]
    assert [towards(0).merit(v) for v in (-40.0, 0.0, 25.0)] == [-40.0, 0.0, -25.0]
    assert [d.turned(0.25) for d in (UP, DOWN, HALF)] == [0.25, 0.75, 0.75]


@given(tens, tens, tens)
def test_merits_order_as_they_should(a: float, b: float, best: float) -> None:
    assert (UP.merit(a) < UP.merit(b)) == (a < b) == (DOWN.merit(a) > DOWN.merit(b))
    assert (towards(best).merit(a) < towards(best).merit(b)) == (abs(a - best) > abs(b - best))


def test_what_it_is_called() -> None:
    ways = (UP, DOWN, HALF, towards(0))
    assert [d.name for d in ways] == ["higher", "lower", "0.5", "0"]
    assert [d.symbol for d in ways] == ["↑", "↓", "→0.5", "→0"]
    assert [d.words for d in ways] == ["higher is better", "lower is better", "0.5 is best", "0 is best"]
    assert [Direction.named(n) for n in ("higher", "lower", 0.5, 0)] == list(ways)
    assert [Direction.of(b) for b in (True, False, HALF)] == [UP, DOWN, HALF]
    for d in ways:
        assert Direction.at_end_of(f"PrivLeak {d.symbol}") == d
    assert Direction.at_end_of("PrivLeak → -5.5") == towards(-5.5)
    assert Direction.at_end_of("ROUGE") is None
    for wrong in ("up", True, None, math.nan, math.inf):
        with pytest.raises(ValueError, match="higher, lower or the best value"):
            Direction.named(wrong)


def test_a_metric_carries_it() -> None:
    area = Metric.of(0.75, 40, 0.5, 1.0, better=HALF)
    assert area.direction == HALF and Metric.of(0.1, 4, better=False) == Metric(
        0.1, 4, higher_is_better=False
    )
    written = json.loads(json.dumps(area.to_dict()))
    assert written["best"] == 0.5 and Metric.from_dict(written) == area
    # of a metric with an arrow nothing is added, and files of before read as they did
    assert "best" not in Metric(0.5, 4).to_dict()
    old = {"value": 0.75, "n": 40, "ci_low": None, "ci_high": None, "higher_is_better": False}
    assert Metric.from_dict(old).direction == DOWN
