"""Controllers: the weight of each term over the run. The `controller` group chooses.

A controller's state is a dict of primitives and travels in the resume checkpoint. It may also have a static
`problems(cfg) -> list[str]`: sentences on what it cannot work with, asked when the configuration is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

from harmonize.config.instantiate import to_plain
from harmonize.config.rules import at_least, finite, positive, present
from harmonize.errors import did_you_mean


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

    Formula: weight x factor, the factor linear between the given steps

    Args:
        points: Term name to {step: factor}; the factor multiplies the configured weight, linearly interpolated
            between the given steps and constant outside them.
    """

    def __init__(self, points: Mapping[str, Mapping[int, float]]) -> None:
        self.points = {name: sorted((int(s), float(f)) for s, f in p.items()) for name, p in points.items()}

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        """The configured weights times the factor at this step."""
        return {name: w * _at(self.points.get(name, []), step) for name, w in base.items()}

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Names of terms."""
        return _unknown_terms(cfg, "controller.points", present(cfg.controller).get("points", {}))


class DualAscent:
    """Weights of terms as multipliers of constraints `term <= limit`, raised while the constraint is violated.

    Formula: mu <- max(0, mu + rate (mean of the term - limit))

    The term's own value is constrained, unweighted and averaged over its roles; to keep a forget loss from below, use a
    term that is minus it (`gradient_ascent`) and minus its limit.

    Args:
        constraints: Term name to {limit, rate, start}; `start` defaults to the configured weight.
        every: Optimizer steps between updates, over which the values are averaged; a pass over the data for updates by
            epoch.
        warmup_steps: Steps before the multipliers begin to move.
        max_weight: Upper bound of a multiplier; None = none.

    Source: PDU, arXiv 2506.05314, as in open-unlearning (code): on TOFU limit 0.3, start 100, rate 5, five warm-up
        epochs; a limit a little above the retain loss of the start model. Roles' average and upper bound: our choice.
    """

    def __init__(
        self,
        *,
        constraints: Mapping[str, Mapping[str, float]],
        every: int = 1,
        warmup_steps: int = 0,
        max_weight: float | None = None,
    ) -> None:
        self.constraints = {
            str(n): {k: v for k, v in c.items() if v is not None} for n, c in constraints.items()
        }
        self.every, self.warmup_steps, self.max_weight = every, warmup_steps, max_weight
        self.multipliers: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        """The multipliers in place of the configured weights."""
        for name, constraint in self.constraints.items():
            if name in base and name not in self.multipliers:
                self.multipliers[name] = float(constraint.get("start", base[name]))
        return {name: self.multipliers.get(name, weight) for name, weight in base.items()}

    def update(self, raw: Mapping[tuple[str, str], float], step: int) -> None:
        """Gathers the step's values, and moves the multipliers when it is time."""
        if step < self.warmup_steps:
            return
        for name in self.constraints:
            values = [value for (term, _), value in raw.items() if term == name]
            if values:  # a step without rows of the term's roles says nothing of it
                self._sums[name] = self._sums.get(name, 0.0) + sum(values) / len(values)
                self._counts[name] = self._counts.get(name, 0) + 1
        if (step + 1 - self.warmup_steps) % self.every:
            return
        for name, total in self._sums.items():
            constraint = self.constraints[name]
            excess = total / self._counts[name] - float(constraint["limit"])
            moved = max(0.0, self.multipliers[name] + float(constraint["rate"]) * excess)
            self.multipliers[name] = moved if self.max_weight is None else min(moved, self.max_weight)
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Multipliers, and what was gathered since they last moved."""
        return {"multipliers": dict(self.multipliers), "sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self.multipliers = dict(state.get("multipliers", {}))
        self._sums, self._counts = dict(state.get("sums", {})), dict(state.get("counts", {}))

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Names of terms, and the numbers of each constraint."""
        node = present(cfg.controller)
        at, constraints = "controller.constraints", node.get("constraints") or {}
        if not constraints:
            name = next(reversed(to_plain(cfg.method.objectives)), "keep")
            return [
                f"{at} is empty, so no weight would move. For example '+{at}.{name}={{limit: 1.0, rate: 1.0}}'."
            ]
        problems = _unknown_terms(cfg, at, constraints)
        for name, constraint in constraints.items():
            entry = constraint if isinstance(constraint, Mapping) else {}
            here = f"{at}.{name}"
            for key in entry:
                if key not in ("limit", "rate", "start"):
                    near = did_you_mean(str(key), ("limit", "rate", "start"))
                    problems.append(f"{here}.{key} is unknown. {near} Correct it in {here}.")
            problems += finite(f"{here}.limit", entry.get("limit"))
            problems += positive(f"{here}.rate", entry.get("rate"))
            if entry.get("start") is not None:
                problems += at_least(f"{here}.start", entry["start"], 0)
        problems += at_least("controller.every", node.get("every", 1), 1)
        problems += at_least("controller.warmup_steps", node.get("warmup_steps", 0), 0)
        if node.get("max_weight") is not None:
            problems += positive("controller.max_weight", node["max_weight"])
        return problems


def _unknown_terms(cfg: Any, at: str, names: Mapping[str, Any]) -> list[str]:
    terms = [str(n) for n, entry in to_plain(cfg.method.objectives).items() if entry is not None]
    return [
        f"{at}: the method has no term '{name}'. {did_you_mean(str(name), terms)} Correct it in {at}."
        for name in names
        if str(name) not in terms
    ]


def _at(points: list[tuple[int, float]], step: int) -> float:
    if not points:
        return 1.0
    if step <= points[0][0]:
        return points[0][1]
    for (s0, f0), (s1, f1) in pairwise(points):
        if step <= s1:
            return f0 + (f1 - f0) * (step - s0) / (s1 - s0)
    return points[-1][1]
