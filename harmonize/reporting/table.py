"""The five-axis table: mean and spread over seeds, the target, the instructed teacher and gold first."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from harmonize.evaluation.proof import ATTACKS, WORKS_FROM
from harmonize.reporting.standing import FRONT_AXES, SHIFT, pareto_front, shift, within_noise
from harmonize.reporting.study import Group, Study, StudyRun
from harmonize.tracking.metric import Metric, Metrics
from harmonize.tracking.results import Results

TIME = "time"
MEMORY = "memory"
_COSTS = (TIME, MEMORY)  # columns that are no figure of the model: nobody is the best in them
GAP = "–"
TARGET = "target"
FRONT = "†"
NOISE = "≈"
DECIMALS = 2


@dataclass(frozen=True)
class Column:
    """A column: a metric (or the time), its header, and whether higher is better."""

    key: str
    header: str
    short: str
    up: bool

    @property
    def arrow(self) -> str:
        """The direction of better."""
        return "↑" if self.up else "↓"


COLUMNS = (
    Column("forget_accuracy", "forget", "forget", False),
    Column("forget_heldout_accuracy", "forget held out", "held out", False),
    Column("retain_accuracy", "retain", "retain", True),
    Column("neighbor_accuracy", "neighbor", "neighbor", True),
    Column("neighbor_refusal_rate", "neighbor refusal", "refusal", False),
    Column("asr_opener", "ASR opener", "opener", False),
    Column("asr_answer_prefix", "ASR prefix", "prefix", False),
    Column("asr_worst", "ASR worst", "worst", False),
    Column("asr_heldout_worst", "ASR held-out worst", "held out", False),
    Column("utility_accuracy", "utility", "utility", True),
    Column("relearn_accuracy", "relearn", "relearn", False),
    Column(SHIFT, "shift", "shift", True),
    Column(TIME, "time", "time", False),
    Column(MEMORY, "memory", "memory", False),
)
# Blocks of six columns fit 80 characters; the ASR figures stand together.
BLOCKS = (
    ("Axes (held out: facts not unlearned; refusal: of neighbor questions)", (0, 1, 2, 3, 4, 9)),
    ("Attack success rate (ASR), relearning", (5, 6, 7, 8, 10)),
    ("Shift, time, peak memory", (11, 12, 13)),
)


OWN_BLOCK = "What this table is about"


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation (None for one value) of `n` runs."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Cell | None:
        """The cell of the values that are there, or None."""
        found = [float(v) for v in values if v is not None]
        if not found:
            return None
        sd = statistics.stdev(found) if len(found) > 1 else None
        return cls(statistics.fmean(found), sd, len(found))

    def text(self, key: str) -> str:
        """As printed: `0.97±.01`, a time with its unit."""
        if key == TIME:
            return duration(self.mean)
        if key == MEMORY:
            return size(self.mean)
        mean = fixed(self.mean)
        if key == SHIFT and float(mean) > 0:
            mean = f"+{mean}"
        return mean if self.sd is None else f"{mean}±{fixed(self.sd).removeprefix('0')}"


def fixed(value: float) -> str:
    """A figure as printed; what rounds to nothing has no sign."""
    text = f"{value:.{DECIMALS}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def bracketed(text: str, unproven: bool) -> str:
    """A figure that proves nothing stands in brackets."""
    return f"({text})" if unproven else text


def duration(seconds: float) -> str:
    """Seconds as `42s`, `3.5m` or `2.1h`."""
    if seconds < 99.5:
        return f"{seconds:.0f}s"
    if seconds < 3570:
        return f"{seconds / 60:.1f}m"
    return f"{seconds / 3600:.1f}h"


def size(count: float) -> str:
    """Bytes as `512M` or `1.4G` (powers of 1,024)."""
    return f"{count / 2**20:.0f}M" if count < 1000 * 2**20 else f"{count / 2**30:.1f}G"


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


@dataclass
class Table:
    """The table of one setting (data set, model)."""

    title: str
    setting: tuple[str, str]
    rows: list[Row]
    footnotes: list[str]
    columns: tuple[Column, ...] = COLUMNS

    @property
    def blocks(self) -> tuple[tuple[str, tuple[Column, ...]], ...]:
        """The columns in blocks that fit a terminal: the table's own first."""
        own = tuple(c for c in self.columns if c not in COLUMNS)
        found = [(title, tuple(COLUMNS[i] for i in places)) for title, places in BLOCKS]
        return ((OWN_BLOCK, own), *found) if own else tuple(found)

    def is_best(self, row: Row, column: Column) -> bool:
        """Whether a method's figure is the best of all methods', as printed (ties all count)."""
        return id(row) in self._best[column.key]

    def within_noise(self, row: Row, column: Column) -> bool:
        """Whether a method that is not the best cannot be told from one that is, over the seeds they share."""
        if row.is_reference or column.key in _COSTS or self.is_best(row, column):
            return False
        own = row.seeds.get(column.key, {})
        return any(within_noise(best, own) for best in self._rivals[column.key])

    @cached_property
    def _best(self) -> dict[str, dict[int, Row]]:
        """The best methods of every column by identity: found once, for a study of a thousand rows is a table too."""
        found: dict[str, dict[int, Row]] = {}
        methods = [row for row in self.rows if not row.is_reference]
        for column in self.columns:
            printed = {id(r): round(c.mean, DECIMALS) for r in methods if (c := r.cells.get(column.key))}
            judged = bool(printed) and len(methods) > 1 and column.key not in _COSTS
            best = (max if column.up else min)(printed.values()) if judged else None
            found[column.key] = {id(r): r for r in methods if judged and printed.get(id(r)) == best}
        return found

    @cached_property
    def _rivals(self) -> dict[str, list[dict[tuple[str, ...], float]]]:
        """The values by seed of the best of every column, those that are equal once."""
        rivals: dict[str, list[dict[tuple[str, ...], float]]] = {}
        for key, best in self._best.items():
            distinct = {tuple(sorted(row.seeds.get(key, {}).items())) for row in best.values()}
            rivals[key] = [dict(seeds) for seeds in sorted(distinct)]
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
        tables.append(Table(title, setting, rows, [*_footnotes(rows, columns), *_commits(groups)], columns))
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
    up = {column.key: 1 if column.up else -1 for column in COLUMNS}
    judged, points = [], []
    for row in rows:
        cells = [row.cells.get(key) for key in FRONT_AXES]
        if not row.is_reference and all(c is not None for c in cells):
            judged.append(row)
            points.append(
                [up[k] * round(c.mean, DECIMALS) for k, c in zip(FRONT_AXES, cells, strict=True) if c]
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


def _footnotes(rows: list[Row], columns: tuple[Column, ...]) -> list[str]:
    notes = ["Mean±sd over n runs (seeds); a reference counts once for each model. Best method marked."]
    methods = [row for row in rows if not row.is_reference]
    if methods and all(row.n == 1 for row in methods):
        notes.append(
            "One run a row: no spread and no test, so no difference between rows is more than one draw."
        )
    if any(len(row.seeds.get(key, {})) > 1 for row in rows for key in row.seeds):
        notes.append(
            f"{NOISE} within noise of the best: a paired t test over the seeds that both have does not tell them apart "
            "(p >= .05, not corrected for the number of methods)."
        )
    if any(row.front is not None for row in rows):
        names = ", ".join(c.header for key in FRONT_AXES for c in COLUMNS if c.key == key)
        notes.append(
            f"{FRONT} on the Pareto front of {names}: no method is as good in all four and better in one."
        )
    if any(row.cells.get(SHIFT) for row in rows):
        notes.append(
            "Shift: changes from the target in forget, retain, neighbor, ASR worst and utility, summed so that better "
            "is positive; it hides which axis paid."
        )
    weak = [
        f"{column.header} ({fixed(cell.mean)})"
        for row in rows
        for column in COLUMNS
        if row.label == TARGET
        and column.key.startswith(ATTACKS)
        and (cell := row.cells.get(column.key)) is not None
        and cell.mean < WORKS_FROM
    ]
    if weak:
        notes.append(
            f"The target itself is below {WORKS_FROM:g} in {', '.join(weak)}: low figures there prove nothing."
        )
    missing: dict[str, list[str]] = {}
    for row in rows:
        for column in columns:
            cell = row.cells.get(column.key)
            if cell is None and column.key != SHIFT and not (row.is_reference and column.key in _COSTS):
                missing.setdefault(column.header, []).append(row.label)
            elif cell is not None and cell.n < row.n:
                notes.append(f"{row.label}, {column.header}: {cell.n} of {row.n} runs.")
    if missing:
        named = "; ".join(f"{header} ({', '.join(labels)})" for header, labels in missing.items())
        notes.append(f"{GAP} not measured: {named}.")
    views: dict[str, list[str]] = {}
    for row in rows:
        if not row.is_reference:
            views.setdefault(row.prefill, []).append(row.label)
    named = "; ".join(f"{mode}: {', '.join(labels)}" for mode, labels in sorted(views.items()))
    notes.append(f"Prefilled views in training: {named}.")
    notes.append(
        "Time: teacher or reference, training with its looks at val, edits; CPU seconds without a GPU. Memory: the "
        "process's peak, measuring included."
    )
    return notes


def _commits(groups: list[Group]) -> list[str]:
    """Which code made the runs; a plus marks uncommitted changes."""
    found = Counter(
        f"{git['commit'][:7]}{'+' if git.get('dirty') else ''}"
        for group in groups
        for run in group.runs
        if (git := run.results.git) and git.get("commit")
    )
    named = ", ".join(f"{commit} ({n} runs)" for commit, n in found.most_common())
    return [f"Commits: {named}."] if found else []


def compare(table: Table, metric: str, method: str, against: str, lower: bool) -> str:
    """Whether `method` is below (or above) `against` on `metric`, in words with the seed deviations.

    A difference below twice its standard error over seeds counts as undecided (our choice).
    """
    rows = [_row(table, name, metric) for name in (method, against)]
    if rows[0] is None or rows[1] is None:
        lacking = method if rows[0] is None else against
        return f"not tested: no single row '{lacking}' with {metric}"
    left, right = rows[0].cells[metric], rows[1].cells[metric]
    assert left is not None and right is not None
    if rows[0].prefill != rows[1].prefill:
        return f"not tested: trained on different views ({rows[0].prefill} and {rows[1].prefill})"
    difference = right.mean - left.mean if lower else left.mean - right.mean
    figures = f"{fixed(left.mean)} against {fixed(right.mean)}"
    if left.sd is None or right.sd is None:
        return f"undecided (one seed): {figures}"
    error = math.sqrt(left.sd**2 / left.n + right.sd**2 / right.n)
    if abs(difference) <= 2 * error or difference == 0:
        return f"undecided (within two standard errors): {figures}"
    return f"{'holds' if difference > 0 else 'does not hold'}: {figures}"


def _row(table: Table, method: str, metric: str) -> Row | None:
    """The one row of a method that has the figure, or of several the one without changes; None where there is none."""
    rows = [row for row in table.rows if row.method == method]
    rows = [row for row in rows if row.label == method] or rows
    return rows[0] if len(rows) == 1 and rows[0].cells.get(metric) is not None else None
