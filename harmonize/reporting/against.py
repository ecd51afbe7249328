"""Our figures against published ones: a difference where it means something, else the order of the methods.

A difference is taken only in the profile that has the published table's kind of model and data. On the sandbox it would
say nothing, but whether the same method comes out ahead can be asked of any data.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from harmonize.reporting.columns import GAP, Cell, Column
from harmonize.reporting.grid import Grid
from harmonize.reporting.published import Counterparts, Published
from harmonize.reporting.table import Row, Table
from harmonize.tracking.direction import DOWN, UP, Direction

WITHIN, OUTSIDE = "within", "outside"


@dataclass(frozen=True)
class Delta:
    """One published figure and ours, in their unit.

    row, column: Of the published table. text: The figure as printed. ours: Mean and spread, None if we have none.
    tolerance: None where none is stated.
    """

    row: str
    column: str
    text: str
    ours: Cell | None
    tolerance: float | None

    @property
    def difference(self) -> float | None:
        """Ours less theirs."""
        return None if self.ours is None else self.ours.mean - float(self.text)

    @property
    def verdict(self) -> str:
        """Within or outside of the tolerance; nothing where either is missing."""
        if self.difference is None or self.tolerance is None:
            return ""
        return WITHIN if abs(self.difference) <= self.tolerance else OUTSIDE


def deltas(block: Published, table: Table, profile: str) -> list[Delta]:
    """Every published figure that has a counterpart of ours in this profile."""
    part = _counterparts(block, profile)
    if part is None or block.ours is None:
        return []
    found = []
    for row in block.rows:
        own = _row(table, block.ours.rows.get(row.label))
        for column, text in zip(block.columns, row.values, strict=True):
            if column in part.columns and text is not None and row.label in block.ours.rows:
                cell = own.cells.get(part.columns[column]) if own else None
                found.append(
                    Delta(row.label, column, text, _scaled(cell, part.scale), part.tolerance.get(column))
                )
    return found


def _counterparts(block: Published, profile: str) -> Counterparts | None:
    return block.ours.profiles.get(profile) if block.ours else None


def _scaled(cell: Cell | None, by: float) -> Cell | None:
    return cell and Cell(cell.mean * by, None if cell.sd is None else cell.sd * by, cell.n)


def _row(table: Table, label: str | None) -> Row | None:
    return next((row for row in table.rows if row.label == label), None)


@dataclass(frozen=True)
class Order:
    """Whether two methods stand in the published order here too, over all pairs that both tables have.

    agree, differ: Pairs of published rows. open: Pairs that either table, or the noise of our seeds, leaves undecided.
    """

    column: str
    metric: str
    agree: tuple[tuple[str, str], ...]
    differ: tuple[tuple[str, str], ...]
    open: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        n = len(self.agree) + len(self.differ) + len(self.open)
        head = f"Order by {self.column} (ours: {self.metric}): of {n} pair{'' if n == 1 else 's'} of methods"
        text = f"{head} {len(self.agree)} stand as published"
        for word, pairs in (("the other way round", self.differ), ("undecided", self.open)):
            if pairs:
                text += f", {len(pairs)} {word} ({', '.join(f'{a} and {b}' for a, b in pairs)})"
        return f"{text}."


def orders(block: Published, table: Table) -> list[Order]:
    """The order of the methods by each published column that has a metric of ours to order by."""
    from harmonize.reporting.standing import within_noise

    if block.ours is None:
        return []
    columns = {c.key: c for c in table.columns}
    found = []
    for column, metric in block.ours.order.items():
        place = block.columns.index(column)
        rows = [
            (row.label, float(text), own)
            for row in block.rows
            if (text := row.values[place]) is not None
            and (own := _row(table, block.ours.rows.get(row.label))) is not None
            and not own.is_reference
            and own.cells.get(metric) is not None
        ]
        agree: list[tuple[str, str]] = []
        differ: list[tuple[str, str]] = []
        undecided: list[tuple[str, str]] = []
        way = Direction.at_end_of(column) or DOWN
        by = columns.get(metric, Column(metric, metric, metric, UP))
        for (a, x, left), (b, y, right) in itertools.combinations(rows, 2):
            first, second = left.merit(by), right.merit(by)
            assert first is not None and second is not None
            theirs, ours = way.merit(x) - way.merit(y), first - second
            seeds = left.merits(by), right.merits(by)
            told = len(seeds[0].keys() & seeds[1].keys()) > 1 and not within_noise(*seeds)
            side = undecided if not told or theirs * ours == 0 else agree if theirs * ours > 0 else differ
            side.append((a, b))
        if rows[1:]:
            found.append(Order(column, metric, tuple(agree), tuple(differ), tuple(undecided)))
    return found


def against(
    published: Sequence[Published], tables: Sequence[Table], profile: str
) -> tuple[list[Grid], list[str]]:
    """Differences as grids, and sentences: the order of methods, and why there is no difference where there is none."""
    grids: list[Grid] = []
    lines: list[str] = []
    for block in published:
        for table in tables:
            found = deltas(block, table, profile)
            part = _counterparts(block, profile)
            if found and part:
                grids.append(_grid(block, table, found, part))
            lines += [f"{block.title}. {order}" for order in orders(block, table)]
        if not _counterparts(block, profile):
            where = sorted(block.ours.profiles) if block.ours else []
            which = (
                f"--profile {' or '.join(where)} prints one"
                if where
                else "no figure of ours is its counterpart"
            )
            lines.append(f"{block.title}. No difference is printed here: {which}.")
    if tables and not published:
        lines.append(
            "No published figure of this table is known to this project, so nothing is set against one."
        )
    return grids, lines


def _grid(block: Published, table: Table, found: Sequence[Delta], part: Counterparts) -> Grid:
    rows = []
    for delta in found:
        difference = delta.difference
        rows.append(
            [
                delta.row,
                delta.column,
                delta.text,
                GAP if delta.ours is None else delta.ours.text(""),
                GAP if difference is None else f"{difference:+.2f}",
                GAP if delta.tolerance is None else f"±{delta.tolerance:g}",
                delta.verdict or GAP,
            ]
        )
    judged = [d.verdict for d in found if d.verdict]
    notes = [
        f"{judged.count(WITHIN)} of {len(judged)} figures lie within the tolerance, {len(found) - len(judged)} could "
        f"not be compared. Certainty of the published ones: {block.certainty} ({block.source}).",
        *part.notes,
    ]
    heads = ["", "figure", "published", "ours", "delta", "tolerance", ""]
    return Grid(f"Against {block.title} ({table.title})", heads, rows, notes, left=2)
