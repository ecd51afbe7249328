"""Curves over layers (or over replaced tokens): a long table, and a figure of those that say most."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonize.reporting.escape import clean, csv_cell
from harmonize.tracking.files import write_text
from harmonize.tracking.results import CURVES, Results

RESULT = "result"
TABLE, PLOT = "curves.csv", "curves"
DPI = 120
_COLUMNS = 3
_PANEL = (4.4, 3.1)  # inches
_SHARES = ("probability", "accuracy", "CKA")  # drawn from 0 to 1
_CONTROLS = ("_control", "_chance", "_projected", "_random_init")
_ROLE_DASHES: dict[str, Any] = {"forget": "-", "neighbor": (0, (1, 1.2)), "retain": (0, (5, 2))}
_BESIDE = {"target": "#444444", "gold": "#E69F00"}
_OWN, _CONTROL = "#0072B2", "#999999"


def write_curves(results: Results, folder: str | Path) -> list[Path]:
    """Writes curves.csv, curves.png and curves.svg of a run that has curves.

    Returns:
        What was written; nothing for a run without curves.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    curves = results.extra.get(CURVES)
    if not curves:
        return []
    folder = Path(folder)
    return [write_text(folder / TABLE, to_csv(curves)), *draw_panels(curves, folder / PLOT)]


def to_csv(curves: Mapping[str, Any]) -> str:
    """Long form, full precision: a line for every point of every curve of every model."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "curve", "x_name", "x", "value", "ci_low", "ci_high", "n"])
    for model, found in curves.items():
        for name, each in found.items():
            for x, value, low, high, n in each["points"]:
                ends = ["" if v is None else v for v in (low, high)]
                writer.writerow([csv_cell(model), csv_cell(name), csv_cell(each["x"]), x, value, *ends, n])
    return text.getvalue()


def draw_panels(curves: Mapping[str, Any], path: str | Path) -> list[Path]:
    """Draws a panel for each group of curves, as PNG and as SVG.

    The measured model has all its curves; the models beside it those of forget alone, without controls.

    Args:
        curves: Model to its curves, the measured one as `result`. path: Without a suffix.

    Returns:
        The two files; none where no curve is to be drawn.
    """
    panels = list(
        dict.fromkeys(c["panel"] for found in curves.values() for c in found.values() if c["panel"])
    )
    if not panels:
        return []
    from harmonize.reporting.figure import FORMATS, write_figure

    rows = math.ceil(len(panels) / _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    size = (_PANEL[0] * columns, _PANEL[1] * rows + 0.7)

    def draw(figure: Any) -> None:
        places: Any = figure.subplots(rows, columns, squeeze=False)
        for place, panel in zip(places.flat, panels, strict=False):
            _draw(place, panel, curves)
        for place in places.flat[len(panels) :]:
            place.set_axis_off()
        _legend(figure, curves)

    files = [Path(path).with_suffix(f".{kind}") for kind in FORMATS]
    return write_figure(draw, files, size, DPI, constrained=True)


def _draw(axes: Any, panel: str, curves: Mapping[str, Any]) -> None:
    x_name = y_name = ""
    for model, found in curves.items():
        for name, each in found.items():
            if each["panel"] != panel or not each["points"]:
                continue
            x_name, y_name = each["x"], each["y"]
            control = any(part in name for part in _CONTROLS)
            role = name.partition("_")[0] if not name.startswith("remind_") else name.split("_")[1]
            if model != RESULT and (control or role != "forget"):
                continue
            _line(axes, each["points"], model, role, control)
    axes.set_title(clean(panel, 40), fontsize=10)
    axes.set_xlabel(clean(x_name, 30), fontsize=9)
    axes.set_ylabel(clean(y_name, 30), fontsize=9)
    if y_name in _SHARES:
        axes.set_ylim(-0.03, 1.03)
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _line(axes: Any, points: Sequence[Sequence[Any]], model: str, role: str, control: bool) -> None:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    colour = _CONTROL if control else _BESIDE.get(model, _OWN)
    own = model == RESULT
    axes.plot(
        xs,
        ys,
        color=colour,
        linestyle=":" if control else _ROLE_DASHES.get(role, "-."),
        linewidth=1.2 if control else 2.2 if own else 1.6,
        marker=None if control else {"target": "s", "gold": "^"}.get(model, "o"),
        markersize=4.5,
        zorder=3 if own and not control else 2,
    )
    if own and role == "forget" and not control and all(p[2] is not None for p in points):
        axes.fill_between(
            xs, [p[2] for p in points], [p[3] for p in points], color=colour, alpha=0.15, linewidth=0
        )


def _legend(figure: Any, curves: Mapping[str, Any]) -> None:
    from matplotlib.lines import Line2D

    def key(label: str, **style: Any) -> Any:
        return Line2D([], [], label=label, **style)

    handles = [key("this model", color=_OWN, linewidth=2.2, marker="o", markersize=4.5)]
    marks = {"target": "s", "gold": "^"}
    handles += [
        key(
            model, color=_BESIDE.get(model, _OWN), linewidth=1.6, marker=marks.get(model, "o"), markersize=4.5
        )
        for model in curves
        if model != RESULT
    ]
    handles += [key(role, color="#000000", linestyle=dash) for role, dash in _ROLE_DASHES.items()]
    handles.append(key("control", color=_CONTROL, linestyle=":"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
