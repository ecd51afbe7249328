"""The notes below a five-axis table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harmonize.evaluation.proof import ATTACKS, WORKS_FROM
from harmonize.reporting.columns import COLUMNS, COSTS, FRONT, GAP, NOISE, TARGET, Column, fixed
from harmonize.reporting.standing import FRONT_AXES, SHIFT

if TYPE_CHECKING:
    from harmonize.reporting.study import Group
    from harmonize.reporting.table import Row


def measured(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns with a figure in some row."""
    return tuple(c for c in columns if any(row.cells.get(c.key) for row in rows))


def footnotes(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """What the marks mean, what is missing, and what proves nothing."""
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
    nearest = [c.header for c in columns if math.isfinite(c.better.best)]
    if nearest:
        notes.append(
            f"{', '.join(nearest)}: the best value stands behind the arrow; what counts is a run's distance from it."
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
    there = measured(columns, rows)
    nowhere = [c for c in columns if c.key != SHIFT and c not in there]
    missing: dict[str, list[str]] = {}
    for row in rows:
        for column in (c for c in columns if c not in nowhere):
            cell = row.cells.get(column.key)
            if cell is None and column.key != SHIFT and not (row.is_reference and column.key in COSTS):
                missing.setdefault(column.header, []).append(row.label)
            elif cell is not None and cell.n < row.n:
                notes.append(f"{row.label}, {column.header}: {cell.n} of {row.n} runs.")
    if missing:
        named = "; ".join(f"{header} ({', '.join(labels)})" for header, labels in missing.items())
        notes.append(f"{GAP} not measured: {named}.")
    if nowhere:
        notes.append(f"Measured in no run, and without a column: {', '.join(c.header for c in nowhere)}.")
    notes.append(
        "Time: teacher or reference, training with its looks at val, edits; CPU seconds without a GPU. Memory: the "
        "process's peak, measuring included."
    )
    return notes


def commits(groups: list[Group]) -> list[str]:
    """Which code made the runs; a plus marks uncommitted changes."""
    found = Counter(
        f"{git['commit'][:7]}{'+' if git.get('dirty') else ''}"
        for group in groups
        for run in group.runs
        if (git := run.results.git) and git.get("commit")
    )
    named = ", ".join(f"{commit} ({n} run{'' if n == 1 else 's'})" for commit, n in found.most_common())
    return [f"Commits: {named}."] if found else []


def views_note(rows: Sequence[Row]) -> str:
    """Which prefilled views the methods trained on: for a table that has no column of it."""
    views: dict[str, list[str]] = {}
    for row in rows:
        if not row.is_reference:
            views.setdefault(row.prefill, []).append(row.label)
    if len(views) == 1:
        return f"Prefilled views in training: {next(iter(views))}, in all rows."
    named = "; ".join(f"{mode}: {', '.join(labels)}" for mode, labels in sorted(views.items()))
    return f"Prefilled views in training: {named}."
