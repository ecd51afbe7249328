"""A plain table of text in the terminal, Markdown, LaTeX, CSV and HTML: what is no five-axis table is one of these."""

from __future__ import annotations

import csv
import html
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


def to_html(grid: Grid, level: int = 2) -> list[str]:
    """Its elements, escaped."""
    lines = [f"<h{level}>{escaped(grid.title)}</h{level}>", '<div class="wide"><table>', "<thead><tr>"]
    lines += [f"<th{_side(i, grid)}>{escaped(head)}</th>" for i, head in enumerate(grid.heads)]
    lines.append("</tr></thead><tbody>")
    for row in grid.rows:
        cells = "".join(f"<td{_side(i, grid)}>{escaped(cell)}</td>" for i, cell in enumerate(row))
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</tbody></table></div>")
    return [*lines, *html_notes(grid.notes)]


def _side(i: int, grid: Grid) -> str:
    return ' class="words"' if i < grid.left else ""


def html_notes(notes: Sequence[str]) -> list[str]:
    """Notes as a list."""
    return ["<ul>", *(f"<li>{escaped(note)}</li>" for note in notes), "</ul>"] if notes else []


def escaped(text: object) -> str:
    """For HTML: no markup."""
    return html.escape(clean(text))


STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --soft: #666; --line: #ddd; --best: #e8f1fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #161616; --soft: #a0a0a0; --line: #3a3a3a; --best: #1d3346; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 92rem; padding: 0 1rem; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } h3 { font-size: 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem }
th, td { padding: .28rem .55rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th.words, td.words { text-align: left; white-space: normal }
td.name { min-width: 14rem }
thead th { border-bottom: 2px solid var(--soft) }
td.best { font-weight: 700; background: var(--best) }
tr.reference td { color: var(--soft) }
ul, p.about { color: var(--soft); font-size: .85rem } code { font-size: .85rem }
figure { margin: 1rem 0 } figure img { max-width: 100%; background: #fff; padding: .5rem; border-radius: 4px }
"""


def html_page(title: str, body: Sequence[str]) -> str:
    """A whole page that needs nothing but itself."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>{STYLE}</style></head><body>",
            f"<h1>{escaped(title)}</h1>",
            *body,
            "</body></html>",
            "",
        ]
    )
