"""Figures to files: PNG to look at, SVG to print; the same bytes for the same figures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harmonize.tracking.files import write_bytes

DPI = 150
FORMATS = ("png", "svg")


def write_figure(
    draw: Callable[[Figure], None],
    path: str | Path,
    size: tuple[float, float],
    dpi: int = DPI,
    constrained: bool = False,
) -> Path:
    """Draws a figure and writes it in the format of the path's suffix.

    Args:
        draw: Draws on the empty figure.
        path: Ends in .png or .svg.
        size: Inches.
        dpi: Of the PNG.
        constrained: Whether matplotlib arranges the panels.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    kind = Path(path).suffix.removeprefix(".")
    # A configuration of the user's (fonts, styles, TeX) must not change or break the figure.
    own = {"backend": "agg", "svg.hashsalt": "harmonize"}
    with matplotlib.rc_context(dict(matplotlib.rcParamsDefault) | own):
        figure = Figure(
            figsize=size, dpi=dpi, facecolor="white", layout="constrained" if constrained else None
        )
        canvas = FigureCanvasAgg(figure)
        draw(figure)
        out = io.BytesIO()
        undated = {"Date": None} if kind == "svg" else None
        canvas.print_figure(out, format=kind, dpi=dpi, metadata=undated)
    return write_bytes(path, out.getvalue())
