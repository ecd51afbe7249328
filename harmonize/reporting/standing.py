"""Where a row stands among others: the signed total, the Pareto front, and what seeds cannot tell from the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harmonize.evaluation.paired import ALPHA, paired_t
from harmonize.tracking.metric import METRIC_NAMES, Metric

SHIFT = "shift"
SHIFT_AXES = ("forget_accuracy", "retain_accuracy", "neighbor_accuracy", "asr_worst", "utility_accuracy")
FRONT_AXES = ("forget_accuracy", "neighbor_accuracy", "asr_worst", "utility_accuracy")


def shift(metrics: Mapping[str, Metric], target: Mapping[str, Metric] | None) -> float | None:
    """Sum of the changes from the target over the five axes, each counted so that better is positive.

    Formula: sum over axes of m(value) - m(target); m = v where higher is better, -v where lower is

    None where one of the ten figures is missing. A sum weighs the axes alike and hides which of them paid, so it stands
    beside them and never for them.

    Source: DUET's table (arXiv 2601.21283) sums two forget figures, one retain figure and MMLU in this way [checked by
        arithmetic on its published rows]; which axes are summed here is our choice.
    """
    total = 0.0
    for name in SHIFT_AXES:
        own, before = metrics.get(name), (target or {}).get(name)
        if own is None or before is None or own.value is None or before.value is None:
            return None
        merit = METRIC_NAMES[name].merit
        total += merit(own.value) - merit(before.value)
    return total


def pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each point is on the front: no other is at least as good everywhere and better somewhere.

    Args:
        points: Coordinates, higher is better in each. Equal points are on the front together, or not at all.
    """

    def dominates(q: Sequence[float], p: Sequence[float]) -> bool:
        return all(x >= y for x, y in zip(q, p, strict=True)) and any(
            x > y for x, y in zip(q, p, strict=True)
        )

    return [not any(dominates(q, p) for q in points) for p in points]


def within_noise(
    best: Mapping[tuple[str, ...], float], other: Mapping[tuple[str, ...], float], alpha: float = ALPHA
) -> bool:
    """Whether the seeds that two methods share leave it open which of them is better.

    Two-sided paired t test over the values by seed, at `alpha`, not corrected for the number of methods. With fewer
    than two shared seeds nothing is claimed: False.
    """
    p = paired_t([other[seed] - best[seed] for seed in sorted(best.keys() & other.keys())])
    return p is not None and p >= alpha
