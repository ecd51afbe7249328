"""Figures to files: PNG to look at, SVG to print; the same bytes for the same figures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harmonize.tracking.files import write_bytes

DPI = 150
FORMATS = ("png", "svg")


def write_figure(
    draw: Callable[[Figure], None],
    paths: Sequence[str | Path],
    size: tuple[float, float],
    dpi: int = DPI,
    constrained: bool = False,
) -> list[Path]:
    """Draws a figure once and writes it to every path, in the format of its suffix.

    Args:
        draw: Draws on the empty figure.
        paths: Each ends in .png or .svg.
        size: Inches.
        dpi: Of the PNG.
        constrained: Whether matplotlib arranges the panels.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    # A configuration of the user's (fonts, styles, TeX) must not change or break the figure.
    own = {"backend": "agg", "svg.hashsalt": "harmonize"}
    written = []
    with matplotlib.rc_context(dict(matplotlib.rcParamsDefault) | own):
        figure = Figure(
            figsize=size, dpi=dpi, facecolor="white", layout="constrained" if constrained else None
        )
        canvas = FigureCanvasAgg(figure)
        draw(figure)
        if constrained:  # once: laid out anew for every file, one would depend on those before it
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        for path in paths:
            kind = Path(path).suffix.removeprefix(".")
            out = io.BytesIO()
            undated = {"Date": None} if kind == "svg" else None
            canvas.print_figure(out, format=kind, dpi=dpi, metadata=undated)
            written.append(write_bytes(path, out.getvalue()))
    return written
