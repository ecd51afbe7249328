"""Does a data set tell methods apart? The range over methods against the noise over seeds, metric by metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harmonize.reporting.table import Table


@dataclass(frozen=True)
class Spread:
    """How far methods lie apart on one metric.

    metric: Its name. width: Largest minus smallest mean over methods. noise: Pooled standard deviation over
    seeds, None where no method has two runs. apart: Whether both demands are met.
    """

    metric: str
    width: float
    noise: float | None
    apart: bool

    def __str__(self) -> str:
        noise = "unknown" if self.noise is None else f"{self.noise:.3f}"
        verdict = "apart" if self.apart else "not apart"
        return f"{self.metric}: range {self.width:.2f}, seed deviation {noise}: {verdict}"


def spread(table: Table, metric: str, by: float, deviations: float) -> Spread | None:
    """The spread of a metric over the methods of a table; None with fewer than two methods that have it.

    Args:
        table: Means and deviations over seeds.
        metric: Name of the metric.
        by: Least range.
        deviations: Least range in pooled standard deviations over seeds.
    """
    cells = [c for row in table.rows if not row.is_reference and (c := row.cells.get(metric)) is not None]
    if len(cells) < 2:
        return None
    means = [c.mean for c in cells]
    width = max(means) - min(means)
    weights = [(c.n - 1, c.sd) for c in cells if c.sd is not None and c.n > 1]
    freedom = sum(n for n, _ in weights)
    noise = math.sqrt(sum(n * sd**2 for n, sd in weights) / freedom) if freedom else None
    return Spread(metric, width, noise, noise is not None and width >= by and width >= deviations * noise)


def spread_lines(demand: Mapping[str, Any] | None, tables: list[Table]) -> list[str]:
    """What an experiment's `spread` demand says about the tables: a line a metric, then the verdict.

    Args:
        demand: metrics, by, deviations, at_least (how many metrics must lie apart); None for no demand.
        tables: Of the study.
    """
    lines: list[str] = []
    for table in tables if demand else []:
        assert demand is not None
        found = [
            s
            for m in demand["metrics"]
            if (s := spread(table, m, float(demand["by"]), float(demand["deviations"])))
        ]
        lines += [f"Spread over methods, {s}." for s in found]
        apart, needed = sum(s.apart for s in found), int(demand["at_least"])
        verdict = "tells methods apart" if apart >= needed else "does not tell methods apart"
        lines.append(f"{table.title}: {apart} of {len(demand['metrics'])} metrics lie apart; it {verdict}.")
    return lines
