"""The radar plot: five axes, each turned so that outward is better."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harmonize.reporting.escape import clean, csv_cell
from harmonize.reporting.figure import write_figure
from harmonize.reporting.table import Row, Table
from harmonize.tracking.files import write_text


@dataclass(frozen=True)
class Axis:
    """A spoke: a metric, and whether it is drawn as 1 - value."""

    key: str
    label: str
    inverted: bool

    def turned(self, value: float) -> float:
        """The value with outward as better."""
        return 1 - value if self.inverted else value


AXES = (
    Axis("forget_accuracy", "forget\n1 - accuracy", True),
    Axis("retain_accuracy", "retain\naccuracy", False),
    Axis("neighbor_accuracy", "neighbor\naccuracy", False),
    Axis("asr_worst", "resistance\n1 - worst ASR", True),
    Axis("utility_accuracy", "utility\naccuracy", False),
)
# Okabe and Ito's palette, distinct for colour-blind readers; lines and markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
REFERENCE_STYLES = {"target": ("#444444", "--"), "teacher": ("#888888", "-."), "gold": ("#888888", ":")}
SIZE_INCHES = (8.0, 6.0)
ANGLES = [2 * math.pi * i / len(AXES) for i in range(len(AXES))]
SUBTITLE = "Mean over runs; outward is better on every axis."
RINGS = (0.25, 0.5, 0.75, 1.0)
GRID, BORDER = "#DDDDDD", "#BBBBBB"
TOGETHER = 4  # more methods than these get a panel each


def radar_values(row: Row) -> list[float]:
    """A row's five figures, outward better; NaN where one was not measured."""
    cells = [row.cells.get(axis.key) for axis in AXES]
    return [math.nan if c is None else axis.turned(c.mean) for axis, c in zip(AXES, cells, strict=True)]


def draw_radar(table: Table, paths: Sequence[str | Path]) -> list[Path]:
    """Draws the means of every row to PNG (1200 x 900 pixels) and SVG files, by their suffixes.

    Up to four methods share one radar, in colours, markers and dashes; more get a panel each, or their lines would hide
    one another. References are grey.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    methods = [row for row in table.rows if not row.is_reference]
    if len(methods) <= TOGETHER:
        return write_figure(lambda figure: _draw(figure, table), paths, SIZE_INCHES)
    from harmonize.reporting.radar_panels import draw_panels

    return draw_panels(table, paths)


def _draw(figure: Figure, table: Table) -> None:
    axes: Any = figure.add_axes((0.13, 0.1, 0.5, 0.71), projection="polar")
    angles = ANGLES
    methods = [row for row in table.rows if not row.is_reference]
    for row in table.rows:
        style: dict[str, Any]
        if row.is_reference:
            colour, dash = REFERENCE_STYLES.get(row.label, ("#888888", ":"))
            style = {"color": colour, "linestyle": dash, "linewidth": 1.2, "zorder": 2}
        else:
            i = methods.index(row)
            style = {
                "color": COLOURS[i],
                "linestyle": "-",
                "linewidth": 2.0,
                "marker": MARKERS[i],
                "markersize": 6,
                "markerfacecolor": "white",
                "markeredgewidth": 1.6,
                "zorder": 3,
                "clip_on": False,
            }
        values = radar_values(row)
        axes.plot([*angles, angles[0]], [*values, values[0]], label=_folded(row.label), **style)
        if not row.is_reference and len(methods) <= 3 and not any(map(math.isnan, values)):
            axes.fill(angles, values, color=style["color"], alpha=0.06, zorder=1)
    _frame(axes)
    longest = max((len(row.label) for row in table.rows), default=0)
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.19, 0.5),
        frameon=False,
        fontsize=9.5 if longest <= 24 else 7,
        labelspacing=0.6,
        handlelength=3.2,
    )
    figure.text(0.03, 0.955, plain(table.title, 70), fontsize=12, fontweight="bold")
    figure.text(0.03, 0.92, SUBTITLE, fontsize=9, color="#444444")


def _frame(axes: Any) -> None:
    """The five spokes and the rings."""
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_xticks(ANGLES, [axis.label for axis in AXES], fontsize=11)
    axes.tick_params(axis="x", pad=24)
    axes.set_ylim(0, 1)
    axes.set_yticks(RINGS, ["0.25", "0.5", "0.75", "1"])
    for tick in axes.get_yticklabels():
        tick.set(fontsize=8, color="#555555", zorder=5)
        tick.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85})
    axes.set_rlabel_position(math.degrees(ANGLES[3]))  # along the ASR spoke, where the fewest lines run
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines["polar"].set_color(BORDER)


def _folded(label: str) -> str:
    """A legend label in lines that fit beside the plot."""
    return "\n".join(textwrap.wrap(plain(label, 100), 33)) or " "


def plain(text: str, limit: int = 44) -> str:
    """A label without mathematics; a leading underscore would hide a line from the legend."""
    short = clean(text, limit).replace("$", r"\$")
    return f" {short}" if short.startswith("_") else short


def write_radar_csv(table: Table, path: str | Path) -> Path:
    """The figures behind the plot: as measured, as drawn, spread and number of runs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "kind", "metric", "mean", "drawn", "sd", "runs"])
    for row in table.rows:
        kind = "reference" if row.is_reference else "method"
        for axis in AXES:
            cell = row.cells.get(axis.key)
            figures = ["", "", "", 0]
            if cell is not None:
                sd = "" if cell.sd is None else str(cell.sd)
                figures = [str(cell.mean), str(axis.turned(cell.mean)), sd, cell.n]
            writer.writerow([csv_cell(row.label), kind, axis.key, *figures])
    return write_text(path, text.getvalue())
