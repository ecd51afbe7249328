"""Controllers: the weight of each term over the run. The `controller` group chooses.

A controller's state is a dict of primitives and travels in the resume checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol


class Controller(Protocol):
    """What the training step asks before, and tells after, each optimizer step."""

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        """Weight of every term at a step, given those of the configuration."""
        ...

    def update(self, raw: Mapping[tuple[str, str], float], step: int) -> None:
        """Sees the unweighted (term, role) means of the step that was just taken."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State for the checkpoint."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        ...


class Fixed:
    """The configured weights, unchanged."""

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        """The configured weights."""
        return dict(base)

    def update(self, raw: Mapping[tuple[str, str], float], step: int) -> None:
        """Ignores the losses."""

    def state_dict(self) -> dict[str, Any]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """No state."""


class Scheduled(Fixed):
    """Weights that move on a straight line between steps.

    Args:
        points: Term name to {step: factor}; the factor multiplies the configured weight, linearly interpolated
            between the given steps and constant outside them.
    """

    def __init__(self, points: Mapping[str, Mapping[int, float]]) -> None:
        self.points = {name: sorted((int(s), float(f)) for s, f in p.items()) for name, p in points.items()}

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        """The configured weights times the factor at this step."""
        return {name: w * _at(self.points.get(name, []), step) for name, w in base.items()}


def _at(points: list[tuple[int, float]], step: int) -> float:
    if not points:
        return 1.0
    if step <= points[0][0]:
        return points[0][1]
    for (s0, f0), (s1, f1) in pairwise(points):
        if step <= s1:
            return f0 + (f1 - f0) * (step - s0) / (s1 - s0)
    return points[-1][1]
