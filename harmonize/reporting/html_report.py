"""The table as one HTML page that needs no network: tables, figures, differences, what was published."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from harmonize.reporting.columns import GAP, NOISE
from harmonize.reporting.effects import EffectTable, effect_grids
from harmonize.reporting.grid import Grid, escaped, html_notes, html_page, to_html
from harmonize.reporting.published import Published
from harmonize.reporting.study import Study
from harmonize.reporting.table import Table
from harmonize.reporting.writers import NOT_OURS, cell_text, label

_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


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
    body = [f'<p class="about">{escaped(line)}</p>' for line in about]
    for table in tables:
        body += _table(table)
    if lines:
        body += ["<h2>Claims</h2>", *html_notes(lines)]
    for caption, path in figures:
        body += figure_html(caption, path)
    for grid in (*effect_grids(effects), *grids):
        body += to_html(grid)
    if said:
        body += ["<h2>Against the published figures</h2>", *html_notes(said)]
    left = [*study.notes, *(f"{path}: {reason}" for path, reason in study.problems)]
    if left:
        body += ["<h2>Not in the table</h2>", *html_notes(left)]
    if published:
        body += ["<h2>Published, not ours</h2>", f'<p class="about">{escaped(NOT_OURS)}</p>']
        for block in published:
            rows = [[row.label, *(GAP if v is None else v for v in row.values)] for row in block.rows]
            notes = [f"Source: {block.source}. Certainty: {block.certainty}.", *block.notes]
            body += to_html(Grid(block.title, ["", *block.columns], rows, notes), level=3)
    return html_page(title, body)


def _table(table: Table) -> list[str]:
    heads = "".join(f"<th>{escaped(c.header)} {c.arrow}</th>" for c in table.columns)
    lines = [
        f"<h2>{escaped(table.title)}</h2>",
        '<div class="wide"><table>',
        f'<thead><tr><th class="words"></th><th class="words">prefill</th><th>n</th>{heads}</tr></thead><tbody>',
    ]
    for row in table.rows:
        kind = ' class="reference"' if row.is_reference else ""
        cells = [
            f'<td class="words name">{escaped(label(row))}</td><td class="words">{escaped(row.prefill)}</td>'
        ]
        cells.append(f"<td>{row.n}</td>")
        for column in table.columns:
            mark = table.mark(row, column)
            text = escaped(cell_text(row, column)) + (NOISE if mark == "noise" else "")
            cells.append(f'<td class="best">{text}</td>' if mark == "best" else f"<td>{text}</td>")
        lines.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return [*lines, "</tbody></table></div>", *html_notes(table.footnotes)]


def figure_html(caption: str, path: Path) -> list[str]:
    """A figure's file, taken into the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    source = f"data:{_TYPES[path.suffix]};base64,{data}"
    return [
        f'<figure><img alt="{escaped(caption)}" src="{source}"><figcaption>{escaped(caption)}</figcaption></figure>'
    ]
