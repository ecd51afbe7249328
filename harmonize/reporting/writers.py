"""The table in the terminal (80 columns), Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harmonize.reporting.columns import FRONT, GAP, NOISE, Column
from harmonize.reporting.effects import EffectTable, effects_markdown
from harmonize.reporting.escape import clean, csv_cell, latex, markdown
from harmonize.reporting.footnotes import views_note
from harmonize.reporting.grid import Grid, latex_close, latex_open
from harmonize.reporting.grid import to_latex as grid_latex
from harmonize.reporting.grid import to_markdown as grid_markdown
from harmonize.reporting.published import Published
from harmonize.reporting.study import Study
from harmonize.reporting.table import Row, Table

if TYPE_CHECKING:
    from rich.console import Console

NOT_OURS = (
    "Published figures. They are other people's, from other models and data; none of them was measured here."
)

_CSV_UNITS = {"time": "time_s", "memory": "memory_bytes"}


def cell_text(row: Row, column: Column) -> str:
    """A cell as it is shown."""
    cell = row.cells.get(column.key)
    if cell is None:
        return "" if row.is_reference and column.key in ("time", "memory") else GAP
    return cell.text(column.key)


def label(row: Row) -> str:
    """A row's label with its mark."""
    return f"{row.label}{FRONT}" if row.front else row.label


def print_tables(tables: list[Table], console: Console) -> None:
    """Prints every table as stacked blocks that fit 80 columns.

    The best method of a column is bold, and marked with * where there is no bold (a file, a pipe).
    """
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in tables:
        console.print(Text(clean(table.title), style="bold"))
        for title, columns in table.blocks:
            block = RichTable(
                box=None,
                padding=(0, 1, 0, 0),
                pad_edge=False,
                title=title,
                title_justify="left",
                title_style="italic",
            )
            block.add_column("", width=18, overflow="fold")
            block.add_column("n", justify="right")
            for column in columns:
                block.add_column(f"{column.short}{column.arrow}", justify="right", no_wrap=True)
            for row in table.rows:
                cells = []
                for column in columns:
                    text = cell_text(row, column)
                    mark = table.mark(row, column)
                    if mark == "best":
                        cells.append(Text(text, style="bold") if console.is_terminal else Text(f"{text}*"))
                    else:
                        cells.append(Text(text + (NOISE if mark else "")))
                style = "dim" if row.is_reference else ""
                block.add_row(Text(clean(label(row)), style=style), Text(str(row.n)), *cells)
            console.print(block)
        for note in (*table.footnotes, views_note(table.rows)):
            console.print(Text(clean(note), style="dim"))
        console.print()


def print_published(published: list[Published], console: Console) -> None:
    """Prints the published figures, apart from ours and labelled."""
    from rich.text import Text

    if not published:
        return
    console.print(Text("Published, not ours", style="bold"))
    for block in published:
        console.print(Text(clean(f"{block.title} [{block.certainty}: {block.source}]"), style="italic"))
        width = max(len(row.label) for row in block.rows)
        widths = [max(len(name), 6) + 1 for name in block.columns]
        header = "".join(f"{clean(name):>{w}}" for name, w in zip(block.columns, widths, strict=True))
        console.print(Text(f"{'':<{width}}{header}", style="dim"))
        for row in block.rows:
            values = "".join(
                f"{clean(GAP if v is None else v):>{w}}" for v, w in zip(row.values, widths, strict=True)
            )
            console.print(Text(f"{clean(row.label):<{width}}{values}"))
        for note in block.notes:
            console.print(Text(clean(note), style="dim"))
    console.print()


def to_markdown(
    study: Study,
    tables: list[Table],
    published: list[Published],
    claims: list[str],
    effects: Sequence[EffectTable] = (),
    grids: Sequence[Grid] = (),
    title: str = "",
    said: Sequence[str] = (),
) -> str:
    """The report as Markdown: our tables, what could be said of the claims, what was left out, what was published.

    `grids` are what else is shown, such as the differences from published figures, and `said` sentences on those.
    """
    lines = [f"# {markdown(title or f'Study {study.path.name}')}", ""]
    for table in tables:
        heads = ["", "prefill", "n", *(f"{c.header} {c.arrow}" for c in table.measured)]
        lines += [f"## {markdown(table.title)}", "", _markdown_row(heads)]
        lines.append(_markdown_row(["---", "---", *("---:" for _ in heads[2:])]))
        for row in table.rows:
            cells = [markdown(label(row)), markdown(row.prefill), str(row.n)]
            for column in table.measured:
                text, mark = cell_text(row, column), table.mark(row, column)
                cells.append(f"**{text}**" if mark == "best" else text + (NOISE if mark else ""))
            lines.append(_markdown_row(cells))
        lines += ["", *(f"- {markdown(note)}" for note in table.footnotes), ""]
    if claims:
        lines += ["## Claims", "", *(f"- {markdown(claim)}" for claim in claims), ""]
    if effects:
        lines += ["## What each factor adds", "", *effects_markdown(effects)]
    lines += [line for grid in grids for line in grid_markdown(grid)]
    if said:
        lines += ["## Against the published figures", "", *(f"- {markdown(line)}" for line in said), ""]
    if study.problems or study.notes:
        lines += ["## Not in the table", ""]
        lines += [f"- {markdown(note)}" for note in study.notes]
        lines += [
            f"- {markdown(_relative(study, path))}: {markdown(reason)}" for path, reason in study.problems
        ]
        lines.append("")
    if published:
        lines += ["## Published, not ours", "", markdown(NOT_OURS), ""]
        for block in published:
            lines += [f"### {markdown(block.title)}", "", _markdown_row(["", *map(markdown, block.columns)])]
            lines.append(_markdown_row(["---", *("---:" for _ in block.columns)]))
            for published_row in block.rows:
                values = [markdown(GAP if v is None else v) for v in published_row.values]
                lines.append(_markdown_row([markdown(published_row.label), *values]))
            lines += ["", f"Source: {markdown(block.source)}. Certainty: {markdown(block.certainty)}."]
            lines += [markdown(note) for note in block.notes] + [""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _relative(study: Study, path: object) -> str:
    return str(path).removeprefix(f"{study.path}/")


def to_latex(tables: list[Table], published: list[Published], grids: Sequence[Grid] = ()) -> str:
    """Tables for a paper; they need the packages booktabs and graphicx."""
    lines = ["% Needs \\usepackage{booktabs,graphicx}."]
    for table in tables:
        heads = " & ".join(
            ["method", "prefill", "$n$", *(latex(f"{c.header} {c.arrow}") for c in table.measured)]
        )
        lines += latex_open("ll" + "r" * (len(table.measured) + 1), heads)
        was_reference = False
        for row in table.rows:
            if was_reference and not row.is_reference:
                lines.append(r"\midrule")
            was_reference = row.is_reference
            cells = [latex(label(row)), latex(row.prefill), str(row.n)]
            for column in table.measured:
                text, mark = latex(cell_text(row, column)), table.mark(row, column)
                cells.append(
                    rf"\textbf{{{text}}}" if mark == "best" else text + (latex(NOISE) if mark else "")
                )
            lines.append(" & ".join(cells) + r" \\")
        notes = " ".join(table.footnotes).replace("marked", "in bold")
        lines += latex_close(f"{table.title}. {notes}")
    lines += [line for grid in grids for line in grid_latex(grid)]
    for block in published:
        heads = " & ".join(["", *map(latex, block.columns)])
        lines += latex_open("l" + "r" * len(block.columns), heads)
        for published_row in block.rows:
            values = [latex(GAP if v is None else v) for v in published_row.values]
            lines.append(" & ".join([latex(published_row.label), *values]) + r" \\")
        lines += latex_close(
            f"Published, not ours: {block.title}. Source: {block.source}; {block.certainty}. "
            + " ".join(block.notes)
        )
    return "\n".join(lines) + "\n"


def to_csv(tables: list[Table]) -> str:
    """Long form, full precision, every metric of every row: our own figures only.

    `standing`: best, noise (within noise of the best) or nothing. `front`: 1 on the Pareto front, 0 off it, nothing
    where it was not judged.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = ["dataset", "model", "row", "kind", "prefill", "metric", "mean", "sd", "runs", "runs_of"]
    writer.writerow([*heads, "standing", "front"])
    for table in tables:
        dataset, model = table.setting
        columns = {column.key: column for column in table.columns}
        for row in table.rows:
            front = "" if row.front is None else int(row.front)
            for name, cell in (row.cells | row.extra).items():
                kind = "reference" if row.is_reference else "method"
                figures = (
                    ["", "", 0] if cell is None else [cell.mean, "" if cell.sd is None else cell.sd, cell.n]
                )
                writer.writerow(
                    [
                        *map(csv_cell, (dataset, model, row.label)),
                        kind,
                        csv_cell(row.prefill),
                        csv_cell(_CSV_UNITS.get(name, name)),
                        *figures,
                        row.n,
                        table.mark(row, columns[name]) if name in columns else "",
                        front,
                    ]
                )
    return text.getvalue()
