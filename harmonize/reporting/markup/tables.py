"""Tables and notes in HTML. Headings carry what the page's script needs to sort by them; without it they are text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from harmonize.reporting.columns import GAP, MEMORY, NOISE, TIME, Cell, Column
from harmonize.reporting.grid import Grid
from harmonize.reporting.markup.elements import join, tag, words
from harmonize.reporting.table import Row, Table


class Named(NamedTuple):
    """A row of the five-axis table, its first cell, and the key by which a script finds it."""

    row: Row
    name: Markup
    key: str | None = None


def five_axes(table: Table, rows: Sequence[Named], columns: Sequence[Column]) -> Markup:
    """Rows in the order given: the best of a column bold, marks as in the terminal."""
    head = [heading(""), heading("prefill"), heading("n", True)]
    head += [heading(f"{c.header} {c.arrow}", True) for c in columns]
    body = [_row(table, named, columns) for named in rows]
    return scrolled(tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="figures"))


def _row(table: Table, named: Named, columns: Sequence[Column]) -> Markup:
    row = named.row
    cells = [named.name, tag("td", words(row.prefill)), tag("td", row.n, class_="r")]
    for column in columns:
        blank = row.is_reference and column.key in (TIME, MEMORY)
        cells.append(
            _figure(row.cells.get(column.key), column.key, table.mark(row, column), "" if blank else GAP)
        )
    return tag("tr", *cells, class_="reference" if row.is_reference else None, data_m=named.key)


def _figure(cell: Cell | None, key: str, mark: str, gap: str) -> Markup:
    if cell is None:
        return tag("td", gap, class_="r")
    value, _, spread = cell.text(key).partition("±")
    shown = [tag("b", value) if mark == "best" else value]
    if spread:
        shown.append(tag("small", f"±{spread}"))
    if mark == "noise":
        shown.append(NOISE)
    return tag("td", *shown, class_=f"r {mark}".strip(), data_v=f"{cell.mean:.6g}")


def plain(heads: Sequence[tuple[str, bool]], rows: Sequence[Sequence[object]], kind: str = "list") -> Markup:
    """(title, is a number) for each column; cells are text, Markup, or (shown, value to sort by)."""
    body = []
    for row in rows:
        cells = []
        for (_, right), cell in zip(heads, row, strict=True):
            shown, value = cell if isinstance(cell, tuple) else (cell, None)
            cells.append(tag("td", shown, class_="r" if right else None, data_v=value))
        body.append(tag("tr", *cells))
    head = tag("tr", *(heading(name, right) for name, right in heads))
    return scrolled(tag("table", tag("thead", head), tag("tbody", *body), class_=kind))


def of_grid(grid: Grid, level: int = 2) -> Markup:
    """A grid with its title and notes; its first columns hold words."""
    heads = [(head, i >= grid.left) for i, head in enumerate(grid.heads)]
    rows = [[words(cell, None) for cell in row] for row in grid.rows]
    return join(
        [tag(f"h{level}", words(grid.title, None)), plain(heads, rows, "list grid"), notes(grid.notes)]
    )


def notes(lines: Sequence[str]) -> Markup | None:
    """Notes as a list; nothing without any."""
    return tag("ul", *(tag("li", words(line, 900)) for line in lines), class_="note") if lines else None


def scrolled(table: Markup) -> Markup:
    """A table that scrolls sideways by itself where the page is narrow."""
    return tag("div", table, class_="scroll", tabindex="0")


def heading(name: str, right: bool = False, sorts: bool = True) -> Markup:
    """A heading; the page's script makes it a button."""
    return tag(
        "th", name, class_="r" if right else None, scope="col", data_sort="" if sorts and name else None
    )
