"""The five-axis table: mean and spread over seeds, the target, the instructed teacher and gold first."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from functools import cached_property

from harmonize.reporting.columns import (
    BLOCKS,
    COLUMNS,
    COSTS,
    DECIMALS,
    GAP,
    MEMORY,
    OWN_BLOCK,
    TARGET,
    TIME,
    Cell,
    Column,
)
from harmonize.reporting.footnotes import commits, footnotes, measured
from harmonize.reporting.standing import FRONT_AXES, SHIFT, pareto_front, shift, within_noise
from harmonize.reporting.study import Group, Study, StudyRun
from harmonize.tracking.metric import Metric, Metrics
from harmonize.tracking.results import Results


@dataclass
class Row:
    """One line: a reference (target, teacher, gold) or a method.

    seeds: Column to the value of each run, by its seeds. front: On the Pareto front of methods; None where not judged.
    """

    label: str
    is_reference: bool
    prefill: str
    n: int
    cells: dict[str, Cell | None]
    extra: dict[str, Cell | None] = field(default_factory=dict)
    method: str | None = None
    seeds: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)
    front: bool | None = None

    def merits(self, column: Column) -> dict[tuple[str, ...], float]:
        """The value of each run on a scale where more is better, by its seeds."""
        return {seeds: column.better.merit(v) for seeds, v in self.seeds.get(column.key, {}).items()}

    def merit(self, column: Column) -> float | None:
        """The mean merit of its runs: of a figure with a best value, minus their mean distance from it."""
        cell, runs = self.cells.get(column.key), self.merits(column)
        if cell is None:
            return None
        return statistics.fmean(runs.values()) if runs else column.better.merit(cell.mean)


@dataclass
class Table:
    """The table of one setting (data set, model)."""

    title: str
    setting: tuple[str, str]
    rows: list[Row]
    footnotes: list[str]
    columns: tuple[Column, ...] = COLUMNS

    @cached_property
    def measured(self) -> tuple[Column, ...]:
        """The columns with a figure in some row: what is shown. The CSV holds all of them."""
        return measured(self.columns, self.rows)

    @property
    def blocks(self) -> tuple[tuple[str, tuple[Column, ...]], ...]:
        """The measured columns in blocks that fit a terminal: the table's own first."""
        own = tuple(c for c in self.measured if c not in COLUMNS)
        shared = [(title, [COLUMNS[i] for i in places]) for title, places in BLOCKS]
        found = [(title, tuple(c for c in block if c in self.measured)) for title, block in shared]
        return tuple((title, block) for title, block in [(OWN_BLOCK, own), *found] if block)

    def is_best(self, row: Row, column: Column) -> bool:
        """Whether a method's figure is the best of all methods', as printed (ties all count)."""
        return id(row) in self._best[column.key]

    def within_noise(self, row: Row, column: Column) -> bool:
        """Whether a method that is not the best cannot be told from one that is, over the seeds they share."""
        if row.is_reference or column.key in COSTS or self.is_best(row, column):
            return False
        own = row.merits(column)
        return any(within_noise(best, own) for best in self._rivals[column.key])

    @cached_property
    def _best(self) -> dict[str, dict[int, Row]]:
        """The best methods of every column by identity: found once, for a study of a thousand rows is a table too."""
        found: dict[str, dict[int, Row]] = {}
        methods = [row for row in self.rows if not row.is_reference]
        for column in self.columns:
            printed = {id(r): round(m, DECIMALS) for r in methods if (m := r.merit(column)) is not None}
            judged = bool(printed) and len(methods) > 1 and column.key not in COSTS
            best = max(printed.values()) if judged else None
            found[column.key] = {id(r): r for r in methods if judged and printed.get(id(r)) == best}
        return found

    @cached_property
    def _rivals(self) -> dict[str, list[dict[tuple[str, ...], float]]]:
        """The merits by seed of the best of every column, those that are equal once."""
        rivals: dict[str, list[dict[tuple[str, ...], float]]] = {}
        for column in self.columns:
            best = self._best[column.key].values()
            distinct = {tuple(sorted(row.merits(column).items())) for row in best}
            rivals[column.key] = [dict(seeds) for seeds in sorted(distinct)]
        return rivals

    def mark(self, row: Row, column: Column) -> str:
        """`best`, `noise` or nothing."""
        if self.is_best(row, column):
            return "best"
        return "noise" if self.within_noise(row, column) else ""


def build_tables(study: Study, own: tuple[Column, ...] = ()) -> list[Table]:
    """One table for each (data set, model) of the study; `own` columns stand before those that every table has."""
    columns = (*own, *(c for c in COLUMNS if c.key not in {o.key for o in own}))
    tables = []
    for setting in study.settings:
        groups = [group for group in study.groups if group.setting == setting]
        rows = [*_references(groups, columns), *(_method_row(group, columns) for group in groups)]
        _judge_front(rows)
        dataset, model = setting
        title = f"{dataset}, {model}"
        tables.append(Table(title, setting, rows, [*footnotes(rows, columns), *commits(groups)], columns))
    return tables


def _method_row(group: Group, columns: tuple[Column, ...]) -> Row:
    runs = group.runs
    blocks = [_with_shift(run.results.metrics, run.results) for run in runs]
    cells = {column.key: Cell.of(value_of(block, column.key) for block in blocks) for column in columns}
    seeds = {
        column.key: {
            run.seeds: v
            for run, block in zip(runs, blocks, strict=True)
            if (v := value_of(block, column.key)) is not None
        }
        for column in columns
    }
    cells[TIME] = Cell.of(unlearning_time(run.results) for run in runs)
    cells[MEMORY] = Cell.of(run.results.peak_memory_bytes for run in runs)
    return Row(
        group.label,
        False,
        group.prefill,
        len(runs),
        cells,
        _extra([run.results.metrics for run in runs], columns) | _costs(runs),
        group.method,
        seeds,
    )


def _costs(runs: list[StudyRun]) -> dict[str, Cell | None]:
    """Seconds of every part that the runs timed, for the CSV."""
    parts = sorted({part for run in runs for part in run.results.timing})
    return {f"{part}_s": Cell.of(run.results.timing.get(part) for run in runs) for part in parts}


def _with_shift(block: Metrics, results: Results) -> Metrics:
    """The metrics of one model of a run, and their signed total against the run's own target."""
    total = shift(block, results.target_metrics)
    return block if total is None else {**block, SHIFT: Metric(total, 0)}


def _judge_front(rows: list[Row]) -> None:
    """Says of every method with all four figures whether it is on the front, by means as printed."""
    merit = {column.key: column.better.merit for column in COLUMNS}
    judged, points = [], []
    for row in rows:
        cells = [row.cells.get(key) for key in FRONT_AXES]
        if not row.is_reference and all(c is not None for c in cells):
            judged.append(row)
            points.append(
                [merit[k](round(c.mean, DECIMALS)) for k, c in zip(FRONT_AXES, cells, strict=True) if c]
            )
    if len(judged) > 1:
        for row, on in zip(judged, pareto_front(points), strict=True):
            row.front = on


def unlearning_time(results: Results) -> float | None:
    """Seconds of the method's own work (CPU seconds without a GPU); None where that is not recorded.

    The whole run's time is no stand-in: it holds the making of base models and the waiting for other processes.
    """
    return results.timing.get("unlearning")


def value_of(metrics: Metrics, key: str) -> float | None:
    """The value of a metric; None where it is missing or was not measured."""
    metric = metrics.get(key)
    return None if metric is None else metric.value


def _extra(blocks: list[Metrics], columns: tuple[Column, ...]) -> dict[str, Cell | None]:
    """Metrics that have no column, for the CSV."""
    shown = {column.key for column in columns}
    names = sorted({name for block in blocks for name in block} - shown)
    return {name: Cell.of(value_of(block, name) for block in blocks) for name in names}


_REFERENCES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # The keys are what the figures of a reference depend on besides data set and model.
    (TARGET, "target_metrics", ("dataset.world_seed",)),
    ("teacher", "teacher_metrics", ("dataset.world_seed", "teacher.instruction")),
    ("gold", "gold_metrics", ("dataset.world_seed", "model.gold")),
)


def _references(groups: list[Group], columns: tuple[Column, ...]) -> list[Row]:
    rows = []
    for label, name, keys in _REFERENCES:
        # A reference is the same model in every run of a study: each one counts once, not once a run.
        models: dict[tuple[str, ...], list[Metrics]] = {}
        for run in (run for group in groups for run in group.runs):
            block: Metrics | None = getattr(run.results, name)
            if block:
                place = tuple(run.flat.get(key, "") for key in keys)
                models.setdefault(place, []).append(_with_shift(block, run.results))
        if models:
            merged = list(models.values())
            cells = {column.key: _reference_cell(merged, column.key) for column in columns}
            names = _extra([b for m in merged for b in m], columns)
            extra = {key: _reference_cell(merged, key) for key in names}
            rows.append(Row(label, True, GAP, len(merged), cells, extra))
    return rows


def _reference_cell(models: list[list[Metrics]], key: str) -> Cell | None:
    means = [Cell.of(value_of(block, key) for block in blocks) for blocks in models]
    return Cell.of(None if cell is None else cell.mean for cell in means)
