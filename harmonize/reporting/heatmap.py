"""Heat maps of figures in [-1, 1], side by side, with the numbers written in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harmonize.reporting.escape import clean
from harmonize.reporting.figure import write_figure

DPI = 120
COLOURS = "RdBu"  # red below zero, blue above; distinct for colour-blind readers
_CELL = (0.95, 0.42)  # inches
_DARK = 0.6
_FAINT = 0.005  # what is printed as 0.00 has no sign


@dataclass(frozen=True)
class Panel:
    """One heat map.

    Attributes:
        title: Above it.
        rows, columns: Labels.
        mean, spread: [rows][columns]; NaN cells stay grey and empty.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    mean: Sequence[Sequence[float]]
    spread: Sequence[Sequence[float]]


def draw_heatmaps(
    panels: Sequence[Panel],
    paths: Sequence[str | Path],
    title: str = "",
    label: str = "cosine",
    across: int | None = None,
) -> list[Path]:
    """Draws panels of one colour scale, from -1 to 1, to PNG and SVG files, by their suffixes.

    Cells below zero are hatched, so that they can be told from those above it in grey.

    Args:
        panels: At least one.
        paths, title, label: Of the files, the figure and the colour bar.
        across: Panels in a row; None for all.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    across = min(across or len(panels), len(panels))
    down = math.ceil(len(panels) / across)
    wide = max(len(p.columns) for p in panels) * _CELL[0] * across + 1.3 * across + 1.2
    if down == 1:
        wide = sum(len(p.columns) for p in panels) * _CELL[0] + 1.3 * len(panels) + 1.2
    high = down * (max(len(p.rows) for p in panels) * _CELL[1] + 0.9) + 1.0

    def draw(figure: Figure) -> None:
        places: Any = figure.subplots(down, across, squeeze=False)
        flat = [axes for line in places for axes in line]
        image: Any = None
        for axes, panel in zip(flat, panels, strict=False):
            image = _draw(axes, panel)
        for axes in flat[len(panels) :]:
            axes.set_axis_off()
        figure.colorbar(image, ax=flat, label=label, fraction=0.03, pad=0.02)
        if title:
            figure.suptitle(clean(title, 110).replace("$", r"\$"), fontsize=11, x=0.01, ha="left")

    return write_figure(draw, paths, (wide, high), DPI, constrained=True)


def _draw(axes: Any, panel: Panel) -> Any:
    axes.set_facecolor("#dddddd")
    image = axes.imshow(panel.mean, cmap=COLOURS, vmin=-1, vmax=1, aspect="auto")
    axes.set_title(clean(panel.title, 60).replace("$", r"\$"), fontsize=10)
    axes.set_xticks(range(len(panel.columns)), panel.columns, fontsize=8)
    axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
    axes.tick_params(length=0)
    for i, row in enumerate(panel.mean):
        for j, value in enumerate(row):
            if math.isfinite(value):
                colour = "white" if abs(value) > _DARK else "black"
                if value < -_FAINT:
                    axes.add_patch(
                        Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", linewidth=0, alpha=0.28)
                    )
                text = f"{round(value, 2) + 0.0:.2f}\n±{panel.spread[i][j]:.2f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour, linespacing=0.9)
    return image
