"""The radar of many methods: a panel each, with target and gold in every one, so that no line hides another."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harmonize.reporting.figure import write_figure
from harmonize.reporting.radar import (
    ANGLES,
    AXES,
    COLOURS,
    REFERENCE_STYLES,
    SUBTITLE,
    frame,
    plain,
    radar_values,
)
from harmonize.reporting.table import Row, Table

_ACROSS = 5
_PANEL = (2.15, 2.3)  # inches
_HEAD = 0.75
_MOST = 40  # more panels than these are no figure
_SHOWN = ("target", "gold")  # the start and the goal; the teacher would be a third line in every panel
_SHORT = ("forget", "retain", "neighbor", "resistance", "utility")


def draw_panels(table: Table, path: str | Path) -> Path:
    """Draws a panel a method to a PNG or SVG.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    methods = [row for row in table.rows if not row.is_reference]
    shown = methods[:_MOST]
    across = min(_ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    size = (across * _PANEL[0] + 0.5, down * _PANEL[1] + _HEAD)
    return write_figure(lambda figure: _draw(figure, table, shown, across, down, len(methods)), path, size)


def _draw(figure: Figure, table: Table, shown: list[Row], across: int, down: int, total: int) -> None:
    width, height = figure.get_size_inches()
    references = [row for name in _SHOWN for row in table.rows if row.is_reference and row.label == name]
    for i, row in enumerate(shown):
        left = (0.25 + (i % across + 0.17) * _PANEL[0]) / width
        top = (_HEAD + (i // across) * _PANEL[1] + 0.5) / height
        side = 0.66 * _PANEL[0]
        axes: Any = figure.add_axes(
            (left, 1 - top - side / height, side / width, side / height), projection="polar"
        )
        frame(axes, 7, 2, values=False)
        _spokes(axes)
        for reference in references:
            colour, dash = REFERENCE_STYLES[reference.label]
            _polygon(axes, reference, {"color": colour, "linestyle": dash, "linewidth": 1.1, "zorder": 2})
        values = radar_values(row)
        _polygon(
            axes,
            row,
            {
                "color": COLOURS[0],
                "linewidth": 1.8,
                "marker": "o",
                "markersize": 3.5,
                "zorder": 3,
                "clip_on": False,
            },
        )
        if not any(map(math.isnan, values)):
            axes.fill(ANGLES, values, color=COLOURS[0], alpha=0.18, zorder=1)
        text = "\n".join(textwrap.wrap(plain(row.label, 78), 26)) or " "
        axes.set_title(text, fontsize=8.5, fontweight="bold", pad=15, linespacing=1.0)
    handles = [Line2D([], [], color=COLOURS[0], linewidth=1.8, marker="o", markersize=3.5)]
    for reference in references:
        colour, dash = REFERENCE_STYLES[reference.label]
        handles.append(Line2D([], [], color=colour, linestyle=dash, linewidth=1.2))
    figure.legend(
        handles,
        ["the method", *(row.label for row in references)],
        loc="upper right",
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        bbox_to_anchor=(1 - 0.15 / width, 1 - 0.1 / height),
    )
    figure.text(0.25 / width, 1 - 0.32 / height, plain(table.title, 60), fontsize=11, fontweight="bold")
    note = f"{SUBTITLE} The rings stand for 0.25, 0.5, 0.75 and 1; forget: 1 - accuracy, resistance: 1 - worst ASR."
    if total > len(shown):
        note += f" The first {len(shown)} of {total} rows; radar.csv has all."
    lines = textwrap.wrap(note, max(40, int(width * 16)))
    figure.text(0.25 / width, 1 - 0.4 / height, "\n".join(lines), fontsize=8, color="#444444", va="top")


def _spokes(axes: Any) -> None:
    """Names of the axes, close to their spokes and clear of one another."""
    for angle, name in zip(ANGLES, _SHORT, strict=True):
        side = math.sin(angle)
        lower = math.cos(angle) < -0.5
        beside = "left" if side > 0.1 else "right" if side < -0.1 else "center"
        axes.text(
            angle,
            1.22 if lower else 1.08,
            name,
            fontsize=6.5,
            color="#333333",
            ha="center" if lower else beside,  # beside the circle they would run into the next panel
            va="bottom" if math.cos(angle) > 0.9 else "center",
        )


def _polygon(axes: Any, row: Row, style: dict[str, Any]) -> None:
    values = radar_values(row)
    axes.plot([*ANGLES, ANGLES[0]], [*values, values[0]], **style)


assert len(_SHORT) == len(AXES)
