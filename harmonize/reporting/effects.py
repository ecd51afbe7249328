"""What one factor of a study adds: differences between runs that agree in every other factor, world and seed."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harmonize.reporting.columns import COLUMNS, GAP
from harmonize.reporting.escape import clean, markdown
from harmonize.reporting.grid import Grid
from harmonize.reporting.study import Study, StudyRun

if TYPE_CHECKING:
    from rich.console import Console

MISSING = "<missing>"  # the level of a run whose configuration lacks the key
ANY = "*"  # any level but the others of its factor


@dataclass(frozen=True)
class Factor:
    """A factor of two levels.

    name: As shown, such as `push`. key: Of the flattened configuration. base, changed: Values there; `<missing>`
    where the key is absent, `*` for anything but the other level.
    """

    name: str
    key: str
    base: str
    changed: str

    def level(self, run: StudyRun) -> str | None:
        """base, changed, or None for a run that has neither."""
        value = run.flat.get(self.key, MISSING)
        for name, other in (("base", "changed"), ("changed", "base")):
            want = getattr(self, name)
            if value == want or (want == ANY and value != getattr(self, other)):
                return name
        return None


@dataclass(frozen=True)
class Effect:
    """Mean difference changed - base of one metric over matched pairs of runs, and its standard error over pairs."""

    mean: float
    error: float | None
    pairs: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> Effect | None:
        """The effect in these differences; None without any."""
        if not differences:
            return None
        n = len(differences)
        error = statistics.stdev(differences) / math.sqrt(n) if n > 1 else None
        return cls(statistics.fmean(differences), error, n)

    def __str__(self) -> str:
        error = "" if self.error is None else f"±{self.error:.2f}".replace("0.", ".")
        return f"{self.mean:+.2f}{error}"


@dataclass(frozen=True)
class EffectTable:
    """Effects of every factor on every metric, in one setting and method."""

    title: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Effect | None, ...]], ...]


def factors_of(spec: Sequence[Mapping[str, Any]] | None) -> list[Factor]:
    """Factors of an experiment's `effects`."""
    return [Factor(str(f["name"]), str(f["key"]), str(f["base"]), str(f["changed"])) for f in spec or []]


def effects(study: Study, factors: Sequence[Factor]) -> list[EffectTable]:
    """A table of effects for each (setting, method) of the study in which a factor varies.

    Two runs are a pair where they agree in data set, model, method, seeds and the levels of all other factors.
    """
    metrics = tuple(c.key for c in COLUMNS if c.key not in ("time", "memory"))
    places: dict[tuple[str, ...], list[StudyRun]] = defaultdict(list)
    for run in study.runs:
        places[(*run.setting, run.method)].append(run)
    tables = []
    for (dataset, model, method), runs in places.items():
        rows = []
        for factor in factors:
            pairs = _pairs(runs, factor, factors)
            found = tuple(
                Effect.of(
                    [
                        b - a
                        for base, changed in pairs
                        if (a := base.get(m)) is not None and (b := changed.get(m)) is not None
                    ]
                )
                for m in metrics
            )
            if pairs:
                rows.append((factor.name, len(pairs), found))
        if rows:
            tables.append(EffectTable(f"{method} on {dataset}, {model}", metrics, tuple(rows)))
    return tables


def _pairs(
    runs: Sequence[StudyRun], factor: Factor, factors: Sequence[Factor]
) -> list[tuple[dict[str, float | None], dict[str, float | None]]]:
    cells: dict[tuple[Any, ...], dict[str, StudyRun]] = defaultdict(dict)
    for run in runs:
        level = factor.level(run)
        if level is not None:
            others = tuple(f.level(run) for f in factors if f is not factor)
            cells[(*run.seeds, *others)][level] = run
    return [
        (_values(cell["base"]), _values(cell["changed"]))
        for _, cell in sorted(cells.items(), key=lambda item: str(item[0]))
        if len(cell) == 2
    ]


def _values(run: StudyRun) -> dict[str, float | None]:
    return {name: metric.value for name, metric in run.results.metrics.items()}


NOTE = "Mean of changed minus base over pairs of runs that agree in everything else ± standard error over the pairs."


def _grid(table: EffectTable) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: a metric a line, a factor a column."""
    columns = {c.key: f"{c.header} {c.arrow}" for c in COLUMNS}
    heads = ["", *(f"{name} ({n})" for name, n, _ in table.rows)]
    rows = []
    for i, metric in enumerate(table.metrics):
        found = [effects[i] for _, _, effects in table.rows]
        if any(e is not None for e in found):
            rows.append([columns[metric], *(GAP if e is None else str(e) for e in found)])
    return heads, rows


def effect_grids(tables: Sequence[EffectTable]) -> list[Grid]:
    """The tables as grids."""
    return [Grid(f"What it adds: {table.title}", *_grid(table), [NOTE]) for table in tables]


def print_effects(tables: Sequence[EffectTable], console: Console) -> None:
    """Prints the tables, which fit 80 columns with up to five factors."""
    from rich.table import Table
    from rich.text import Text

    for table in tables:
        heads, rows = _grid(table)
        shown = Table(
            box=None, padding=(0, 1, 0, 0), pad_edge=False, title=Text(f"What it adds: {clean(table.title)}")
        )
        shown.title_justify = "left"
        for i, head in enumerate(heads):
            shown.add_column(Text(clean(head)), justify="right" if i else "left", overflow="fold")
        for row in rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
    if tables:
        console.print(Text(NOTE))


def effects_markdown(tables: Sequence[EffectTable]) -> list[str]:
    """The tables in Markdown."""
    lines: list[str] = []
    for table in tables:
        heads, rows = _grid(table)
        lines += [f"### {markdown(table.title)}", ""]
        lines.append(f"| {' | '.join(markdown(h) for h in heads)} |")
        lines.append(f"| --- |{' ---: |' * (len(heads) - 1)}")
        lines += [f"| {' | '.join(markdown(cell) for cell in row)} |" for row in rows] + [""]
    return [*lines, NOTE, ""] if lines else []


def shown(table: EffectTable) -> tuple[list[str], list[list[str]]]:
    """Headers and rows as text: a metric a line, a factor a column."""
    return _grid(table)
