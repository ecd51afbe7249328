"""Choosing among states of one run: the keep-best rule."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harmonize.tracking.metric import Metric

Figures = Mapping[str, Metric] | Mapping[str, float]
"""Metrics by name, or their values alone; what was not measured is None or left out."""
NEIGHBORS = ("neighbor_accuracy", "retain_accuracy", "neighbor_accuracy_trained")
"""Whether neighbors are kept: the first figure that is measured. Trained-on ones are kept too easily, so come last."""


def select_score(
    metrics_val: Figures,
    target_val: Figures,
    neighbor_floor: float = 0.9,
    utility_floor: float = 0.9,
) -> tuple[bool, float]:
    """Whether a state may be kept, and its score: lower is better.

    Rule: the lowest forget + ASR among states whose neighbor accuracy and utility are at least the given shares
    of the target's own. Forget is the mean of `forget_accuracy` and `forget_heldout_accuracy`, or the one that
    was measured; ASR is `asr_worst`, left out where not measured. Neighbor accuracy is that of held-out subjects;
    where val has none, the retain accuracy of held-out subjects stands for it, and then that of trained-on neighbors.
    A floor whose figures are not measured is not applied.

    Args:
        metrics_val: Of the state, on the val split. target_val: Of the untouched model, on the same.

    Returns:
        (within the floors, score); (False, inf) where no forget figure was measured. States are compared first
        by the floors, then by score, and the later wins a tie.

    Source: our choice.
    """
    forget = [
        v
        for name in ("forget_accuracy", "forget_heldout_accuracy")
        if (v := _value(metrics_val, name)) is not None
    ]
    if not forget:
        return False, math.inf
    score = sum(forget) / len(forget) + (_value(metrics_val, "asr_worst") or 0.0)
    ok = _above(metrics_val, target_val, NEIGHBORS, neighbor_floor)
    ok = _above(metrics_val, target_val, ("utility_accuracy",), utility_floor) and ok
    return ok, score


def kept_sum(metrics_val: Figures) -> float | None:
    """Neighbor + utility accuracy, the counterpart of `select_score`; None where neither is measured.

    Neighbor accuracy is the first of `NEIGHBORS` that is measured. Our choice.
    """
    neighbor = next((v for name in NEIGHBORS if (v := _value(metrics_val, name)) is not None), None)
    found = [v for v in (neighbor, _value(metrics_val, "utility_accuracy")) if v is not None]
    return sum(found) if found else None


def _above(state: Figures, target: Figures, names: tuple[str, ...], floor: float) -> bool:
    own, before = _compared(state, target, names)
    return own >= floor * before


def _compared(state: Figures, target: Figures, names: tuple[str, ...]) -> tuple[float, float]:
    """The first of these figures that both have, of the state and of the target; (0, 0) where none is."""
    for name in names:
        own, before = _value(state, name), _value(target, name)
        if own is not None and before is not None:
            return own, before
    return 0.0, 0.0


def _value(metrics: Figures, name: str) -> float | None:
    found = metrics.get(name)
    return found.value if isinstance(found, Metric) else found


def shortfall(
    metrics_val: Figures,
    target_val: Figures,
    neighbor_floor: float = 0.9,
    utility_floor: float = 0.9,
) -> float:
    """How far below its floors a state lies: the sum over neighbor accuracy and utility of what is missing; 0 within.

    Orders candidates of which none is within the floors, where their scores alone would praise the most destructive.
    Arguments as in `select_score`. Source: our choice.
    """
    missing = 0.0
    for names, floor in (
        (NEIGHBORS, neighbor_floor),
        (("utility_accuracy",), utility_floor),
    ):
        own, before = _compared(metrics_val, target_val, names)
        missing += max(0.0, floor * before - own)
    return missing
