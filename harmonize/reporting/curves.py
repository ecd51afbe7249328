"""The curves of a sequence of deletion requests: what is known of each request, and what is kept, after every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harmonize.reporting.escape import clean
from harmonize.reporting.figure import write_figure
from harmonize.reporting.radar import COLOURS, MARKERS
from harmonize.reporting.sequence import labels, title
from harmonize.tracking.sequence import SequenceResults

SIZE_INCHES = (11.0, 4.2)
DPI = 120
MOST = 12  # requests that can be told apart
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
_WIDTHS = (3.8, 2.8, 1.9)
_OWN = 3  # where the colours, markers and dashes of what is kept begin
_KEPT = (("retain_accuracy", "retain"), ("neighbor_accuracy", "neighbor"), ("utility_accuracy", "utility"))


def draw_curves(record: SequenceResults, path: str | Path) -> Path:
    """Draws three panels to a PNG (1320 x 504 pixels): forget accuracy, ASR worst, and what is kept.

    Lines differ in colour, marker and dashes, so that they can be told apart in grey. A request's line is thin and
    its markers are hollow until it is asked for, thick and filled from there.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    named, shown = labels(record.order), record.order[:MOST]

    def draw(figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3, sharey=True)
        for axes, metric, words in (
            (left, "forget_accuracy", "forget accuracy"),
            (middle, "asr_worst", "ASR, worst prefill"),
        ):
            for i, request in enumerate(shown):
                _request(
                    axes, record.curve(request, metric), i, record.order.index(request) + 1, named[request]
                )
            _panel(axes, f"{words} of each request", record, named)
        for i, (metric, label) in enumerate(_KEPT):
            _line(right, range(len(record.steps)), record.curve(None, metric), i + _OWN, label, True)
        _panel(right, "accuracy on what is kept", record, named)
        left.set_ylabel("share of questions")
        figure.suptitle(_plain(title(record), 120), fontsize=11, x=0.01, ha="left", fontweight="bold")
        note = "Thin, hollow: not asked for yet."
        if len(record.order) > MOST:
            note += f" The first {MOST} of {len(record.order)} requests are drawn; sequence.json has all."
        figure.supxlabel(note, fontsize=8.5, color="#444444", x=0.01, ha="left")

    return write_figure(draw, [path], SIZE_INCHES, DPI, constrained=True)[0]


def _request(axes: Any, curve: Sequence[float | None], i: int, own: int, label: str) -> None:
    """One request: before it is asked for (up to the step in front), and from there."""
    steps = range(len(curve))
    asked = own < len(curve)
    _line(axes, steps[: own + 1], curve[: own + 1], i, None if asked else label, False)
    if asked:
        _line(axes, steps[own:], curve[own:], i, label, True)


def _line(
    axes: Any, steps: Sequence[int], curve: Sequence[float | None], i: int, label: str | None, asked: bool
) -> None:
    colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
    axes.plot(
        list(steps),
        [math.nan if v is None else v for v in curve],
        color=colour,
        linestyle=_DASHES[i % len(_DASHES)],
        linewidth=_WIDTHS[i % len(_WIDTHS)] if asked else 0.8,  # lines that coincide show beside each other
        marker=marker,
        markersize=6.5,
        markerfacecolor=colour if asked else "white",
        markeredgecolor=colour,
        markeredgewidth=1.4,
        label=None if label is None else _plain(label, 20),
        zorder=3 if asked else 2,
        clip_on=False,
    )


def _panel(axes: Any, heading: str, record: SequenceResults, named: dict[str, str]) -> None:
    n = len(record.order)
    axes.set_title(heading, fontsize=10)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.15, n + 0.15)
    if n <= 8:
        axes.set_xticks(range(n + 1), ["none", *(_plain(named[r], 8) for r in record.order)], fontsize=9)
        axes.set_xlabel("after request", fontsize=9)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("requests so far", fontsize=9)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles, texts = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles, texts, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=min(len(texts), 4), frameon=False,
            fontsize=9, handlelength=3.4,
        )  # fmt: skip


def _plain(text: str, limit: int) -> str:
    """A label without mathematics; a leading underscore would hide a line from the legend."""
    short = clean(text, limit).replace("$", r"\$")
    return f" {short}" if short.startswith("_") else short
