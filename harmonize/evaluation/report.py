"""What an evaluation returns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize.tracking.files import write_text
from harmonize.tracking.metric import Metric


@dataclass
class Report:
    """Figures, every judged answer, and what was not measured.

    Attributes:
        metrics: Name to metric; a value of None was asked for but could not be measured.
        samples: One mapping per judged answer (see `Record.as_sample`).
        outcomes: Axis to the shares of correct, refused, wrong and degenerate answers.
        notes: Sentences a reader should see.
        costs: Attack to what it declared (`declared`) and spent.
        rows: Figures of single rows, by part of the suite: figure -> row -> value. Without any text, so that a record
            of a reference model can be handed on.
        curves: Figures over something, such as the layers of the model, by name (`curve`).
        failures: Part to the error that stopped it; the figures of the others are whole.
    """

    metrics: dict[str, Metric]
    samples: list[dict[str, Any]] = field(default_factory=list)
    outcomes: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Measured values by name."""
        return measured(self.metrics)

    def write_samples(self, path: str | Path, **columns: Any) -> Path:
        """Writes the samples as JSON Lines, atomically and readable by their owner alone (mode 0600).

        Args:
            columns: Written with every sample, such as which model answered.

        Raises:
            RunError: The place cannot be written.
        """
        lines = [json.dumps({**columns, **s}, ensure_ascii=False, allow_nan=False) for s in self.samples]
        return write_text(path, "".join(f"{line}\n" for line in lines))


def curve(panel: str, x: str, y: str, points: Iterable[tuple[float, Metric]]) -> dict[str, Any]:
    """A curve as `results.json` keeps it: `points` of x, value, interval and n, without those not measured.

    Args:
        panel: What it is drawn with; empty = it is not drawn.
        x: What it runs over, such as `layer`. y: What is measured, such as `accuracy`.
        points: (x, figure).
    """
    found = [[at, m.value, m.ci_low, m.ci_high, m.n] for at, m in points if m.value is not None]
    return {"panel": panel, "x": x, "y": y, "points": found}


def measured(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Values by name, without what could not be measured."""
    return {name: m.value for name, m in metrics.items() if m.value is not None}
