"""Heat maps of figures in [-1, 1], side by side, with the numbers written in."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harmonize.reporting.escape import clean
from harmonize.tracking.files import write_bytes

DPI = 120
COLOURS = "RdBu"  # red below zero, blue above; distinct for colour-blind readers
_CELL = (0.95, 0.42)  # inches
_DARK = 0.6


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


def draw_heatmaps(panels: Sequence[Panel], path: str | Path, title: str = "", label: str = "cosine") -> Path:
    """Draws panels of one colour scale, from -1 to 1, to a PNG.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    wide = sum(len(p.columns) for p in panels) * _CELL[0] + 1.3 * len(panels) + 1.2
    high = max(len(p.rows) for p in panels) * _CELL[1] + 1.9
    # A configuration of the user's (fonts, styles, TeX) must not change or break the figure.
    with matplotlib.rc_context(dict(matplotlib.rcParamsDefault) | {"backend": "agg"}):
        figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white", layout="constrained")
        canvas = FigureCanvasAgg(figure)
        places: Any = figure.subplots(1, len(panels), squeeze=False)
        image: Any = None
        for axes, panel in zip(places[0], panels, strict=True):
            image = _draw(axes, panel)
        figure.colorbar(image, ax=list(places[0]), label=label, fraction=0.03, pad=0.02)
        if title:
            figure.suptitle(clean(title, 110).replace("$", r"\$"), fontsize=11, x=0.01, ha="left")
        out = io.BytesIO()
        canvas.print_figure(out, format="png", dpi=DPI)
    return write_bytes(path, out.getvalue())


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
                text = f"{round(value, 2) + 0.0:.2f}\n±{panel.spread[i][j]:.2f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour, linespacing=0.9)
    return image
