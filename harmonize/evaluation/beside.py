"""Models that stand beside the measured one, for parts that look into them: gold, and the model before unlearning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
GOLD, TARGET = "gold", "target"


@dataclass(eq=False)
class Beside:
    """A model that is loaded when a part asks for it, and let go when the part has what it needs.

    Attributes:
        digest: Content of its weights.
        open: Loads it: a `LoadedModel`.
    """

    digest: str
    open: Callable[[], Any]
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def look(self, key: str, make: Callable[[Any], T]) -> T:
        """What `make` finds in the model, kept for the next one who asks with the same key."""
        if key not in self._kept:
            self._kept[key] = make(self.open())
        found: T = self._kept[key]
        return found
