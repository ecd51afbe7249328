"""A sequence of deletion requests as a table: a row a step, in the terminal (80 columns) and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.reporting.escape import clean, markdown
from harmonize.tracking.direction import Direction
from harmonize.tracking.files import write_text
from harmonize.tracking.sequence import SEQUENCE_PLOT, SEQUENCE_TABLE, Measured, SequenceResults, Step

if TYPE_CHECKING:
    from rich.console import Console

GAP = "–"
WIDTH = 78
_LABEL = 12  # of a row
_CELL = 6  # the widest cell: (1.00)
_SHORT = 6  # an id up to this length heads its own column; longer ones are called by their number
NOT_ASKED = "In brackets: not asked for yet, so it should be high. ↓ lower, ↑ higher is better."


@dataclass(frozen=True)
class SequenceColumn:
    """One column: its group, its header below that, and how a row fills it."""

    group: str
    header: str
    cell: Callable[[SequenceRow], str]

    @property
    def width(self) -> int:
        """As printed, with the gap to its neighbor."""
        return max(len(self.group), len(self.header), _CELL) + 1


@dataclass(frozen=True)
class SequenceRow:
    """One model: a step of the sequence, or gold (`step` None: everything counts as asked for)."""

    label: str
    measured: Measured
    step: Step | None
    asked: tuple[str, ...]


def labels(order: Sequence[str]) -> dict[str, str]:
    """How a table calls each request: by its id, or all by their numbers where an id is long."""
    shown = {r: clean(r) for r in order}
    if all(len(s) <= _SHORT for s in shown.values()):
        return shown
    return {r: str(i) for i, r in enumerate(order, 1)}


def rows(record: SequenceResults) -> list[SequenceRow]:
    """The steps so far, then gold."""
    named = labels(record.order)
    found = []
    for step in record.steps:
        after = "untouched" if step.request is None else named[step.request]
        label = (
            f"{step.number} {after}"
            if after != str(step.number)
            else f"{step.number} {clean(step.request, 24)}"
        )
        found.append(SequenceRow(label, step.measured, step, tuple(record.asked(step.number))))
    if record.gold is not None:
        found.append(SequenceRow("gold", record.gold, None, tuple(record.order)))
    return found


def columns(record: SequenceResults) -> list[list[SequenceColumn]]:
    """The columns in groups: forget and ASR of every request, what is kept, and what sums a step up."""
    named = labels(record.order)

    def forget(r: str) -> SequenceColumn:
        return SequenceColumn("forget", f"{named[r]} ↓", lambda row: _forget_cell(row, r))

    def attack(r: str) -> SequenceColumn:
        return SequenceColumn("ASR", f"{named[r]} ↓", lambda row: _attack_cell(row, r))

    def kept(name: str, group: str, header: str) -> SequenceColumn:
        return SequenceColumn(group, header, lambda row: _metric(row, None, name))

    def score(name: str, group: str, header: str) -> SequenceColumn:
        return SequenceColumn(group, header, lambda row: _score(row, name))

    return [
        [forget(r) for r in record.order],
        [attack(r) for r in record.order],
        [
            kept("retain_accuracy", "retain", "acc ↑"),
            kept("neighbor_accuracy", "neighb.", "acc ↑"),
            kept("utility_accuracy", "utility", "acc ↑"),
        ],
        [
            SequenceColumn("forget", "held out ↓", _heldout_cell),
            kept("neighbor_refusal_rate", "neighb.", "refusal ↓"),
            score("deviation", "", "DS ↓"),
            score("forget_degree", "", "F.D. ↑"),
            score("retain_utility", "", "R.U. ↑"),
        ],
    ]


def blocks(record: SequenceResults, width: int = WIDTH) -> list[list[SequenceColumn]]:
    """The columns in blocks that fit `width`: forget, ASR and what is kept side by side if they can be."""
    *main, scores = columns(record)
    together = [c for group in main for c in group]
    if _LABEL + sum(c.width for c in together) <= width:
        return [together, scores]
    found: list[list[SequenceColumn]] = []
    for group in main:
        block: list[SequenceColumn] = []
        for column in group:
            if block and _LABEL + sum(c.width for c in [*block, column]) > width:
                found.append(block)
                block = []
            block.append(column)
        found.append(block)
    return [*found, scores]


def _forget_cell(row: SequenceRow, request: str) -> str:
    text = _metric(row, request, "forget_accuracy")
    return text if request in row.asked or text == GAP else f"({text})"


def _attack_cell(row: SequenceRow, request: str) -> str:
    """Attacks are tried on what has been asked for, and on the untouched model, where they must succeed."""
    text = _metric(row, request, "asr_worst")
    if request in row.asked:
        return text
    return "" if text == GAP else f"({text})"


def _heldout_cell(row: SequenceRow) -> str:
    """Held-out facts of all requests so far, together."""
    from harmonize.evaluation.sequential import pooled

    value = pooled(row.measured.requests[r].get("forget_heldout_accuracy") for r in row.asked)
    return "" if not row.asked else _fixed(value)


def _metric(row: SequenceRow, request: str | None, name: str) -> str:
    return _fixed(row.measured.value(request, name))


def _score(row: SequenceRow, name: str) -> str:
    return "" if row.step is None or row.step.request is None else _fixed(getattr(row.step, name))


def _fixed(value: float | None) -> str:
    return (
        GAP if value is None else f"{value:.2f}".removeprefix("-") if abs(value) < 0.005 else f"{value:.2f}"
    )


def _evidence(summary: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, (summary["evidence"], summary["source"])))


def _name(summary: Mapping[str, Any]) -> str:
    return f"{summary['name']} {Direction.of(summary['higher_is_better']).symbol}"


def title(record: SequenceResults) -> str:
    """What was done: method, data set, the requests and what becomes of earlier ones."""
    config = record.config
    method = config.get("method", {}).get("name", "?")
    data = config.get("dataset", {}).get("name", "?")
    named = labels(record.order)
    shown = " then ".join(
        named[r] if named[r] == clean(r) else f"{named[r]} = {clean(r, 40)}" for r in record.order
    )
    return (
        f"{clean(method)} on {clean(data)}, seed {record.seed}: {shown} (earlier requests: {record.earlier})"
    )


def print_sequence(record: SequenceResults, console: Console | None = None) -> None:
    """Prints the table in blocks that fit 80 columns, then the summaries."""
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    console = console or RichConsole(highlight=False)
    console.print(Text(title(record), style="bold"))
    for block in blocks(record):
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("\nafter", width=_LABEL - 1, overflow="fold")
        before = ""
        for column in block:
            head = column.group if column.group != before else ""
            before = column.group
            table.add_column(Text(f"{head}\n{column.header}"), justify="right", no_wrap=True)
        for row in rows(record):
            table.add_row(Text(row.label), *(Text(column.cell(row)) for column in block))
        console.print(table)
        console.print()
    console.print(Text(NOT_ASKED, style="dim"))
    if not record.complete:
        left = record.order[max(0, len(record.steps) - 1) :]
        console.print(Text(f"Not finished: {', '.join(clean(r, 40) for r in left)} still to be forgotten."))
    if record.summaries:
        table = Table("summary", "value", "evidence, source", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for s in record.summaries:
            table.add_row(_name(s), _fixed(s["value"]), _evidence(s))
        console.print()
        console.print(table)
    for note in record.notes:
        console.print(Text(f"Note: {clean(note)}"))


def to_markdown(record: SequenceResults) -> str:
    """The table, the summaries and the notes as Markdown."""
    flat = [c for group in columns(record) for c in group]
    heads = ["after", *(f"{c.group} {c.header}".strip() for c in flat)]
    lines = [f"## {markdown(title(record))}", ""]
    lines += [_markdown_row(map(markdown, heads)), _markdown_row(["---", *("---:" for _ in flat)])]
    for row in rows(record):
        lines.append(_markdown_row(markdown(text) for text in (row.label, *(c.cell(row) for c in flat))))
    lines += ["", f"- {NOT_ASKED} n and intervals of every figure are in sequence.json."]
    lines += [
        f"- {_name(s)} **{_fixed(s['value'])}**: `{s['formula']}` ({_evidence(s)})." for s in record.summaries
    ]
    lines += [f"- Note: {markdown(note)}" for note in record.notes]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_sequence(record: SequenceResults, folder: str | Path) -> list[Path]:
    """Writes the table and the plot; returns their paths.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    from harmonize.reporting.curves import draw_curves

    place = Path(folder)
    return [
        write_text(place / SEQUENCE_TABLE, to_markdown(record)),
        draw_curves(record, place / SEQUENCE_PLOT),
    ]
