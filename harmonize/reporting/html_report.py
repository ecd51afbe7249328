"""The table as one HTML page that needs no network: tables, figures, differences, what was published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from harmonize.reporting.columns import GAP
from harmonize.reporting.effects import EffectTable, effect_grids
from harmonize.reporting.grid import Grid
from harmonize.reporting.markup.document import page, picture
from harmonize.reporting.markup.elements import join, tag, words
from harmonize.reporting.markup.tables import Named, five_axes, notes, of_grid
from harmonize.reporting.published import Published
from harmonize.reporting.study import Study
from harmonize.reporting.table import Table
from harmonize.reporting.writers import NOT_OURS, label


def to_html_page(
    title: str,
    about: Sequence[str],
    study: Study,
    tables: Sequence[Table],
    published: Sequence[Published] = (),
    lines: Sequence[str] = (),
    effects: Sequence[EffectTable] = (),
    grids: Sequence[Grid] = (),
    figures: Sequence[tuple[str, Path]] = (),
    said: Sequence[str] = (),
) -> str:
    """The page; `figures` are (caption, file) and are taken into it."""
    left = [*study.notes, *(f"{path}: {reason}" for path, reason in study.problems)]
    return page(
        title,
        [
            *(tag("p", words(line, None), class_="note") for line in about),
            *map(_table, tables),
            _titled("Claims", lines),
            *(picture(caption, path) for caption, path in figures),
            *map(of_grid, effect_grids(effects)),
            against_published(grids, said),
            _titled("Not in the table", left),
            tag("h2", "Published, not ours") if published else None,
            as_published(published),
        ],
    )


def _table(table: Table) -> Markup:
    rows = [Named(row, tag("th", words(label(row)), scope="row")) for row in table.rows]
    drawn = five_axes(table, rows, table.measured)
    return join([tag("h2", words(table.title)), drawn, notes(table.footnotes)])


def _titled(title: str, lines: Sequence[str]) -> Markup | None:
    return join([tag("h2", title), notes(lines)]) if lines else None


def against_published(grids: Sequence[Grid], said: Sequence[str], level: int = 2) -> Markup:
    """Our figures beside published ones with the differences, and what can be said where there is none."""
    title = tag(f"h{level}", "Against the published figures") if said else None
    return join([*(of_grid(grid, level) for grid in grids), title, notes(said)])


def as_published(published: Sequence[Published]) -> Markup | None:
    """Published figures as they were printed, with their source; nothing without any."""
    if not published:
        return None
    found = [tag("p", NOT_OURS, class_="note")]
    for block in published:
        rows = [[row.label, *(GAP if v is None else v for v in row.values)] for row in block.rows]
        told = [f"Source: {block.source}. Certainty: {block.certainty}.", *block.notes]
        found.append(of_grid(Grid(block.title, ["", *block.columns], rows, told), level=3))
    return join(found)
