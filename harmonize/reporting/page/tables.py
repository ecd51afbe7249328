"""Tables of the page: the five axes, and heat maps of figures. All sort at a click."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from harmonize.reporting.columns import FRONT, GAP, fixed
from harmonize.reporting.markup import tables as shared
from harmonize.reporting.markup.elements import tag, words
from harmonize.reporting.markup.tables import Named, heading, scrolled
from harmonize.reporting.page.gather import Chapter
from harmonize.reporting.page.svg import Who, swatch


def five_axes(chapter: Chapter) -> Markup:
    """The study's table, references first; columns without any figure are left out."""
    rows = [*chapter.references, *((m.who, m.row) for m in chapter.members)]
    named = [Named(row, name_cell(who, FRONT if row.front else ""), who.key) for who, row in rows]
    return shared.five_axes(chapter.table, named, chapter.table.measured)


def name_cell(who: Who, mark: str = "") -> Markup:
    """The first cell of a row: its line and its name."""
    return tag("th", tag("span", swatch(who), words(who.label, 90), mark, class_="named"), scope="row")


def heat(rows: Sequence[tuple[Who, Mapping[str, float]]], columns: Sequence[tuple[str, str]]) -> Markup:
    """Shares from 0 (nothing) to 1 (all) as colours with the figure written in; (key, header) for each column."""
    head = [heading(""), *(heading(name, True) for _, name in columns)]
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
    head = [heading("", sorts=False), *(tag("th", words(name, 40), scope="col") for name in columns)]
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
