"""Where better lies on a metric's scale: up, down, or towards a value.

Standard library only, so that reading a study stays fast.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

_SYMBOL = re.compile(r"(↑|↓|→ ?(-?\d+(?:\.\d+)?))\s*$")


@dataclass(frozen=True)
class Direction:
    """A direction by the best value of its scale: infinite where more, or less, is always better."""

    best: float

    @classmethod
    def of(cls, better: Better) -> Direction:
        """A direction as it is declared: True is up, False is down."""
        return better if isinstance(better, Direction) else UP if better else DOWN

    @classmethod
    def named(cls, name: Any) -> Direction:
        """A direction as a YAML file says it: `higher`, `lower`, or the best value.

        Raises:
            ValueError: None of these.
        """
        if name in ("higher", "lower"):
            return UP if name == "higher" else DOWN
        if isinstance(name, bool) or not isinstance(name, int | float) or not math.isfinite(name):
            raise ValueError(f"expected higher, lower or the best value (such as 0.5), found {name!r}")
        return towards(name)

    @classmethod
    def at_end_of(cls, header: str) -> Direction | None:
        """The direction whose symbol a header ends with; None without one."""
        found = _SYMBOL.search(header)
        if found is None:
            return None
        return towards(float(found[2])) if found[2] else UP if found[1] == UP.symbol else DOWN

    @property
    def name(self) -> str:
        """`higher`, `lower`, or the best value."""
        return {math.inf: "higher", -math.inf: "lower"}.get(self.best, f"{self.best:g}")

    @property
    def symbol(self) -> str:
        """An arrow, with the value that it leads to where there is one."""
        return {math.inf: "↑", -math.inf: "↓"}.get(self.best, f"→{self.best:g}")

    @property
    def words(self) -> str:
        """`higher is better`, `lower is better`, `0.5 is best`."""
        return f"{self.name} is {'best' if math.isfinite(self.best) else 'better'}"

    @property
    def superlative(self) -> str:
        """What the best of several figures is called."""
        return {math.inf: "Highest", -math.inf: "Lowest"}.get(self.best, f"Nearest to {self.best:g}:")

    def merit(self, value: float) -> float:
        """A figure on a scale where more is better.

        Formula: v upwards, -v downwards, -|v - best| towards a value
        """
        return math.copysign(1, self.best) * value if math.isinf(self.best) else -abs(value - self.best)

    def turned(self, share: float) -> float:
        """A share turned so that 1 is best.

        Formula: v upwards, 1 - v downwards, 1 - |v - best| towards a value
        """
        return share if self.best == math.inf else 1 + self.merit(share)

    @property
    def turning(self) -> str:
        """What `turned` does, as a formula."""
        return {math.inf: "value", -math.inf: "1 - value"}.get(self.best, f"1 - |value - {self.best:g}|")


UP, DOWN = Direction(math.inf), Direction(-math.inf)
Better = bool | Direction  # as metrics are declared


def towards(best: float) -> Direction:
    """Better is what lies nearer to `best`, on either side."""
    return Direction(float(best))
