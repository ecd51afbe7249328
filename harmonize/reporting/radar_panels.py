"""The radar of many methods: a panel each, with target and gold in every one, so that no line hides another.

All panels stand on one plane whose unit is an inch: an axes object of matplotlib a panel takes a hundred times as long.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from harmonize.reporting.figure import write_figure
from harmonize.reporting.radar import (
    ANGLES,
    AXES,
    BORDER,
    COLOURS,
    GRID,
    REFERENCE_STYLES,
    RINGS,
    SUBTITLE,
    plain,
    radar_values,
)
from harmonize.reporting.table import Row, Table

_ACROSS = 5
_PANEL = (2.15, 2.3)  # inches
_RADIUS = 0.33 * _PANEL[0]
_HEAD = 0.75
_MOST = 40  # more panels than these are no figure
_SHOWN = ("target", "gold")  # the start and the goal; the teacher would be a third line in every panel
_SHORT = ("forget", "retain", "neighbor", "resistance", "utility")


@dataclass(frozen=True)
class _Place:
    """The middle of a panel, in inches from the lower left corner."""

    x: float
    y: float

    def at(self, angle: float, share: float) -> tuple[float, float]:
        """A point: clockwise from the top, at a share of the radius."""
        reach = _RADIUS * share
        return self.x + reach * math.sin(angle), self.y + reach * math.cos(angle)


def draw_panels(table: Table, paths: Sequence[str | Path]) -> list[Path]:
    """Draws a panel a method to PNG and SVG files, by their suffixes.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    methods = [row for row in table.rows if not row.is_reference]
    across = min(_ACROSS, len(methods))
    down = math.ceil(len(methods[:_MOST]) / across)
    size = (across * _PANEL[0] + 0.5, down * _PANEL[1] + _HEAD)
    return write_figure(lambda figure: _draw(figure, table, methods, across), paths, size)


def _draw(figure: Figure, table: Table, methods: Sequence[Row], across: int) -> None:
    width, height = figure.get_size_inches()
    references = [row for name in _SHOWN for row in table.rows if row.is_reference and row.label == name]
    plane: Any = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    plane.set_axis_off()
    for i, row in enumerate(methods[:_MOST]):
        x = 0.25 + (i % across + 0.5) * _PANEL[0]
        y = height - _HEAD - (i // across) * _PANEL[1] - 0.5 - _RADIUS
        _panel(plane, _Place(x, y), row, references)
    _words(figure, table, references, len(methods))


def _panel(plane: Any, place: _Place, row: Row, references: Sequence[Row]) -> None:
    for ring in RINGS:
        edge = BORDER if ring == RINGS[-1] else GRID
        circle = Circle((place.x, place.y), ring * _RADIUS, facecolor="none", edgecolor=edge, linewidth=0.8)
        plane.add_patch(circle)
    spokes = [[place.at(angle, 0), place.at(angle, 1)] for angle in ANGLES]
    plane.add_collection(LineCollection(spokes, colors=GRID, linewidths=0.8), autolim=False)
    for reference in references:
        colour, dash = REFERENCE_STYLES[reference.label]
        _polygon(plane, place, reference, color=colour, linestyle=dash, linewidth=1.1, zorder=2)
    _polygon(plane, place, row, color=COLOURS[0], linewidth=1.8, marker="o", markersize=3.5, zorder=3)
    values = radar_values(row)
    if not any(map(math.isnan, values)):
        corners = zip(*(place.at(a, v) for a, v in zip(ANGLES, values, strict=True)), strict=True)
        plane.fill(*corners, color=COLOURS[0], alpha=0.18, zorder=1)
    _spoke_names(plane, place)
    text = "\n".join(textwrap.wrap(plain(row.label, 78), 26)) or " "
    plane.text(
        place.x,
        place.y + _RADIUS + 0.208,
        text,
        fontsize=8.5,
        fontweight="bold",
        linespacing=1.0,
        ha="center",
        va="baseline",
    )


def _polygon(plane: Any, place: _Place, row: Row, **style: Any) -> None:
    values = radar_values(row)
    corners = [place.at(a, v) for a, v in zip([*ANGLES, ANGLES[0]], [*values, values[0]], strict=True)]
    plane.plot(*zip(*corners, strict=True), scalex=False, scaley=False, **style)


def _spoke_names(plane: Any, place: _Place) -> None:
    """Names of the axes, close to their spokes and clear of one another."""
    for angle, name in zip(ANGLES, _SHORT, strict=True):
        side = math.sin(angle)
        low = math.cos(angle) < -0.5
        beside = "left" if side > 0.1 else "right" if side < -0.1 else "center"
        plane.text(
            *place.at(angle, 1.22 if low else 1.08),
            name,
            fontsize=6.5,
            color="#333333",
            ha="center" if low else beside,  # beside the circle they would run into the next panel
            va="bottom" if math.cos(angle) > 0.9 else "center",
        )


def _words(figure: Figure, table: Table, references: Sequence[Row], total: int) -> None:
    """Title, legend and note above the panels."""
    width, height = figure.get_size_inches()
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
    if total > _MOST:
        note += f" The first {_MOST} of {total} rows; radar.csv has all."
    lines = textwrap.wrap(note, max(40, int(width * 16)))
    figure.text(0.25 / width, 1 - 0.4 / height, "\n".join(lines), fontsize=8, color="#444444", va="top")


assert len(_SHORT) == len(AXES)
