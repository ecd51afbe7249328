"""Tables of the page: the five axes, heat maps of figures, and plain ones. All sort at a click."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from harmonize.reporting.columns import FRONT, GAP, MEMORY, NOISE, TIME, Cell, Column, fixed
from harmonize.reporting.page.gather import Chapter
from harmonize.reporting.page.html import tag, words
from harmonize.reporting.page.svg import Who, swatch
from harmonize.reporting.table import Row


def five_axes(chapter: Chapter) -> Markup:
    """The study's table: references first, the best of a column bold, marks as in the terminal."""
    shown = [c for c in chapter.table.columns if any(row.cells.get(c.key) for row in chapter.table.rows)]
    head = [_th(""), _th("prefill"), _th("n", True), *(_th(f"{c.header} {c.arrow}", True) for c in shown)]
    body = []
    for who, row in chapter.references:
        body.append(_row(chapter, who, row, shown, "reference"))
    for member in chapter.members:
        body.append(_row(chapter, member.who, member.row, shown, None))
    return scrolled(tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="figures"))


def _row(chapter: Chapter, who: Who, row: Row, shown: Sequence[Column], kind: str | None) -> Markup:
    cells = [
        name_cell(who, FRONT if row.front else ""),
        tag("td", words(row.prefill)),
        tag("td", row.n, class_="r"),
    ]
    for column in shown:
        cell = row.cells.get(column.key)
        mark = chapter.table.mark(row, column)
        blank = row.is_reference and column.key in (TIME, MEMORY)
        cells.append(_figure(cell, column.key, mark, "" if blank else GAP))
    return tag("tr", *cells, class_=kind, data_m=who.key)


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


def name_cell(who: Who, mark: str = "") -> Markup:
    """The first cell of a row: its line and its name."""
    return tag("th", tag("span", swatch(who), words(who.label, 90), mark, class_="named"), scope="row")


def heat(rows: Sequence[tuple[Who, Mapping[str, float]]], columns: Sequence[tuple[str, str]]) -> Markup:
    """Shares from 0 (nothing) to 1 (all) as colours with the figure written in; (key, header) for each column."""
    head = [_th(""), *(_th(name, True) for _, name in columns)]
    body = []
    for who, values in rows:
        cells = [name_cell(who)]
        for key, _ in columns:
            cells.append(_heated(values.get(key)))
        body.append(tag("tr", *cells, data_m=who.key))
    return scrolled(tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="heat"))


def _heated(value: float | None) -> Markup:
    if value is None or not math.isfinite(value):
        return tag("td", GAP, class_="none", data_v="")
    share = min(max(value, 0.0), 1.0)
    kind = "deep" if share > 0.6 else None
    return tag("td", fixed(value), class_=kind, style=f"--v:{share:.3f}", data_v=f"{value:.6g}")


def diverging(
    rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[tuple[float, str] | None]]
) -> Markup:
    """Figures from -1 to 1: blue above zero, red below; (value, what a pointer is told) for each cell."""
    head = [_th("", sorts=False), *(tag("th", words(name, 40), scope="col") for name in columns)]
    body = []
    for name, row in zip(rows, cells, strict=True):
        shown = []
        for cell in row:
            if cell is None:
                shown.append(tag("td", "", class_="none"))
                continue
            value, told = cell
            kind = ("pos" if value >= 0 else "neg") + (" deep" if abs(value) > 0.6 else "")
            style = f"--v:{min(abs(value), 1.0):.3f}"
            shown.append(tag("td", fixed(value), class_=kind, style=style, title=told))
        body.append(tag("tr", tag("th", words(name, 60), scope="row"), *shown))
    return scrolled(tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="heat cosines"))


def plain(heads: Sequence[tuple[str, bool]], rows: Sequence[Sequence[object]], kind: str = "list") -> Markup:
    """(title, is a number) for each column; cells are text, Markup, or (shown, value to sort by)."""
    body = []
    for row in rows:
        cells = []
        for (_, right), cell in zip(heads, row, strict=True):
            shown, value = cell if isinstance(cell, tuple) else (cell, None)
            cells.append(tag("td", shown, class_="r" if right else None, data_v=value))
        body.append(tag("tr", *cells))
    head = tag("tr", *(_th(name, right) for name, right in heads))
    return scrolled(tag("table", tag("thead", head), tag("tbody", *body), class_=kind))


def scrolled(table: Markup) -> Markup:
    """A table that scrolls sideways by itself where the page is narrow."""
    return tag("div", table, class_="scroll", tabindex="0")


def _th(name: str, right: bool = False, sorts: bool = True) -> Markup:
    """A heading; the page's script makes it a button."""
    return tag(
        "th", name, class_="r" if right else None, scope="col", data_sort="" if sorts and name else None
    )
