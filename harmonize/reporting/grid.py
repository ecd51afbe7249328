"""A plain table of text in the terminal, Markdown, LaTeX and CSV (in HTML: `markup`): what is no five-axis table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harmonize.reporting.escape import clean, csv_cell, latex, markdown

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Grid:
    """A title, column heads, rows of as many cells, and notes below; `left`: how many columns hold words."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)
    left: int = 1


def print_grid(grid: Grid, console: Console) -> None:
    """Prints it; words wrap, figures do not."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title=Text(clean(grid.title), style="bold"))
    shown.title_justify = "left"
    for i, head in enumerate(grid.heads):
        words = i < grid.left
        shown.add_column(
            Text(clean(head)), justify="left" if words else "right", overflow="fold", no_wrap=not words
        )
    for row in grid.rows:
        shown.add_row(*(Text(clean(cell)) for cell in row))
    console.print(shown)
    for note in grid.notes:
        console.print(Text(clean(note), style="dim"))
    console.print()


def to_markdown(grid: Grid, level: int = 2) -> list[str]:
    """Its lines, an empty one last."""
    lines = [f"{'#' * level} {markdown(grid.title)}", "", _line(map(markdown, grid.heads))]
    lines.append(_line("---" if i < grid.left else "---:" for i in range(len(grid.heads))))
    lines += [_line(map(markdown, row)) for row in grid.rows]
    return [*lines, "", *(f"- {markdown(note)}" for note in grid.notes), *([""] if grid.notes else [])]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def to_latex(grid: Grid) -> list[str]:
    """Its lines; they need booktabs and graphicx."""
    align = "l" * grid.left + "r" * (len(grid.heads) - grid.left)
    return [
        *latex_open(align, " & ".join(map(latex, grid.heads))),
        *(" & ".join(map(latex, row)) + r" \\" for row in grid.rows),
        *latex_close(" ".join([f"{grid.title}.", *grid.notes])),
    ]


def latex_open(columns: str, heads: str) -> list[str]:
    """The beginning of a table as wide as the text."""
    return [
        r"\begin{table}",
        r"\centering",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        heads + r" \\",
        r"\midrule",
    ]


def latex_close(caption: str) -> list[str]:
    """Its end."""
    return [r"\bottomrule", r"\end{tabular}}", rf"\caption{{{latex(caption)}}}", r"\end{table}", ""]


def to_csv(grid: Grid) -> str:
    """Heads and rows as they are shown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(grid.heads)
    writer.writerows([csv_cell(cell) for cell in row] for row in grid.rows)
    return text.getvalue()
