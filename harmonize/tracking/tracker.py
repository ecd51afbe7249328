"""What every logger offers, and what all of them need: numbers, and text without the user's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

STEP = "trainer/global_step"


class Tracker:
    """Interface of a logger, and the logger that drops everything. Use as a context manager, or call
    `close`.
    """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers under stable names at optimizer step `step`."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Records a run's final numbers (a `Metric` counts as its value)."""

    def close(self) -> list[str]:
        """Finishes; safe to call twice. Returns the lines a user should see."""
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def without_home(value: Any) -> Any:
    """`value` with the home directory in its strings replaced by `~` (a home directory carries the user's
    name).
    """
    home = str(Path.home())
    if isinstance(value, str):
        return value.replace(home, "~") if len(home) > 1 else value
    if isinstance(value, Mapping):
        return {key: without_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_home(item) for item in value]
    return value


def number(value: Any) -> float:
    """A number of Python, numpy or torch."""
    return float(value.item() if hasattr(value, "item") else value)
