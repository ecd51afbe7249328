"""The stability gap: how far an axis falls on the way, and how much of that comes back by the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harmonize.tracking.direction import DOWN, UP, Better, Direction
from harmonize.tracking.metric import direction_of

Point = tuple[int, float]


@dataclass(frozen=True)
class Gap:
    """One metric over a run. Drops and recoveries are counted so that positive means worse, and better again.

    Attributes:
        start, final: First and last value.
        minimum, maximum: Least and greatest value, and the first step at which each was seen.
        drop: Largest worsening between two points at most `window` steps apart; 0 where it never worsens.
        drop_from, drop_to: Steps of these two points; None without a drop.
        recovery: How much better the last value is than the worst one.
        points: Number of points.
    """

    start: float
    final: float
    minimum: float
    minimum_step: int
    maximum: float
    maximum_step: int
    drop: float
    drop_from: int | None
    drop_to: int | None
    recovery: float
    points: int


def gap(curve: Sequence[Point], better: Better, window: int) -> Gap | None:
    """Minimum, windowed drop and recovery of one curve.

    Formula: drop = max over i < j, step_j - step_i <= window of m_i - m_j; recovery = max over i of m_last - m_i;
        m = v where higher is better, -v where lower is, -|v - best| where a value is

    Args:
        curve: (step, value), by step. better: Where better lies. window: Steps.

    Returns:
        None with fewer than two points.

    Source: De Lange et al. 2022 (arXiv 2205.13452, recalled): minimum accuracy and windowed forgetting. That the worst
        value may be the first (of an axis that should fall), and recovery, are our choice.
    """
    if len(curve) < 2:
        return None
    merit = Direction.of(better).merit
    drop, at = 0.0, None
    for j, (to, after) in enumerate(curve):
        for since, before in curve[:j]:
            if to - since <= window and merit(before) - merit(after) > drop:
                drop, at = merit(before) - merit(after), (since, to)
    low, high = min(curve, key=lambda p: p[1]), max(curve, key=lambda p: p[1])
    return Gap(
        start=curve[0][1],
        final=curve[-1][1],
        minimum=low[1],
        minimum_step=low[0],
        maximum=high[1],
        maximum_step=high[0],
        drop=drop,
        drop_from=at[0] if at else None,
        drop_to=at[1] if at else None,
        recovery=merit(curve[-1][1]) - min(merit(v) for _, v in curve),
        points=len(curve),
    )


def stability(
    looks: Iterable[Mapping[str, Any]], start: Mapping[str, float], window: int
) -> dict[str, dict[str, Any]]:
    """`gap` of every metric of a run's looks, as JSON.

    Args:
        looks: Each with `step` and metric values. start: Values before the first step. window: Steps.
    """
    curves: dict[str, list[Point]] = {name: [(0, value)] for name, value in start.items()}
    for look in looks:
        for name, value in look.items():
            if name not in ("step", "ok", "score") and value is not None:
                curves.setdefault(name, []).append((int(look["step"]), float(value)))
    found = {}
    for name, curve in curves.items():
        if (one := gap(curve, _direction(name), window)) is not None:
            found[name] = asdict(one)
    return found


def _direction(name: str) -> Direction:
    """Direction by name: attacks, what the model should no longer know, and refusals of what it should answer."""
    if name.startswith("forget") and "refusal_rate" in name:
        return UP
    lower = name.startswith(("asr", "forget", "relearn")) or "refusal_rate" in name
    return direction_of(name, DOWN if lower else UP)
