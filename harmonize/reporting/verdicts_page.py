"""The page of verdicts, in Markdown, LaTeX, CSV and HTML, with a figure of the effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harmonize.reporting.estimates import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from harmonize.reporting.figure import FORMATS, write_figure
from harmonize.reporting.grid import to_latex, to_markdown
from harmonize.reporting.markup.document import page, picture
from harmonize.reporting.markup.elements import tag
from harmonize.reporting.markup.tables import of_grid
from harmonize.reporting.radar import plain
from harmonize.reporting.verdicts import Claim, Finding, details, summary, verdicts_csv
from harmonize.tracking.files import write_text

TITLE = "The paper's claims on our own runs"
ABOUT = (
    "Claims of arXiv 2604.15482, tested on studies of this tool alone; no figure of the paper is compared with.",
    "Supported: the interval lies on the claimed side of 0 and the mean reaches the margin. Not supported: the whole "
    "interval falls short of the margin. Else undecided. Intervals: t, 95 %, over worlds and seeds; seeds of a world "
    "share it. Margins and the tests that decide are our choice.",
)
# Okabe and Ito's colours, a marker each, so that they are told apart in grey
_MARKS = {SUPPORTED: ("#0072B2", "o"), NOT_SUPPORTED: ("#D55E00", "s"), UNDECIDED: ("#777777", "D")}
_ROW = 0.34  # inches

Judged = Sequence[tuple[Claim, list[Finding]]]


def write_verdicts(judged: Judged, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Writes the page in each format.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    grids = [summary(judged), *details(judged)]
    figures = draw_effects(judged, [folder / f"verdicts.{kind}" for kind in FORMATS if kind in formats])
    shown = [p for p in figures if p.suffix == ".svg"] or figures
    drawn = [picture("Effects with 95 % intervals", path) for path in shown[:1]]
    about = [tag("p", line, class_="note") for line in ABOUT]
    writers: dict[str, Callable[[], str]] = {
        "md": lambda: (
            "\n".join([f"# {TITLE}", "", *ABOUT, "", *(x for g in grids for x in to_markdown(g))]).rstrip()
            + "\n"
        ),
        "tex": lambda: (
            "\n".join(["% Needs \\usepackage{booktabs,graphicx}.", *(x for g in grids for x in to_latex(g))])
            + "\n"
        ),
        "csv": lambda: verdicts_csv(judged),
        "html": lambda: page(TITLE, [*about, of_grid(grids[0]), *drawn, *map(of_grid, grids[1:])]),
    }
    paths = [
        write_text(folder / f"verdicts.{kind}", write()) for kind, write in writers.items() if kind in formats
    ]
    return [*paths, *figures]


def draw_effects(judged: Judged, paths: Sequence[Path]) -> list[Path]:
    """Every effect with its interval, turned so that right is what is claimed; tests beside the claim are hollow.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    rows = [(claim, f) for claim, findings in judged for f in findings]
    return write_figure(lambda figure: _draw(figure, rows), paths, (9.5, 1.3 + _ROW * len(rows)))


def _draw(figure: Any, rows: Sequence[tuple[Claim, Finding]]) -> None:
    from matplotlib.lines import Line2D

    from harmonize.reporting.verdicts import EXPECT

    high = float(figure.get_size_inches()[1])
    axes = figure.add_axes((0.47, 0.55 / high, 0.5, 1 - 1.25 / high))
    for i, (_, found) in enumerate(rows):
        sign, side = EXPECT[found.test.expect]
        colour, marker = _MARKS[found.verdict]
        axes.plot(
            [side * found.test.margin] * 2,
            [i - 0.38, i + 0.38],
            color="#999999",
            linewidth=1.2,
            linestyle=":",
        )
        if found.effect is None:
            axes.text(0.0, i, f"  {found.why}", fontsize=7.5, color="#777777", va="center")
            continue
        effect = found.effect
        if effect.low is not None and effect.high is not None:
            axes.plot([sign * effect.low, sign * effect.high], [i, i], color=colour, linewidth=1.6)
        face = colour if found.test.decides else "white"
        axes.plot([sign * effect.mean], [i], marker=marker, markersize=6, color=colour, markerfacecolor=face)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-1.05, 1.05)
    axes.set_yticks(
        range(len(rows)), [f"{claim.id}  {plain(found.test.text, 62)}" for claim, found in rows], fontsize=8
    )
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("effect, right is as claimed; dotted: the margin", fontsize=8.5)
    axes.grid(axis="x", color="#E2E2E2", linewidth=0.7)
    axes.set_axisbelow(True)
    for name in ("top", "right", "left"):
        axes.spines[name].set_visible(False)
    for i in range(1, len(rows)):
        if rows[i][0] is not rows[i - 1][0]:
            axes.axhline(i - 0.5, color="#CCCCCC", linewidth=0.8)
    handles = [Line2D([], [], color=c, marker=m, linewidth=1.6, markersize=6) for c, m in _MARKS.values()]
    handles.append(
        Line2D([], [], color="#777777", marker="o", linewidth=0, markerfacecolor="white", markersize=6)
    )
    figure.legend(
        handles,
        [*_MARKS, "beside the claim"],
        loc="upper right",
        ncols=4,
        frameon=False,
        fontsize=8.5,
        bbox_to_anchor=(0.98, 1 - 0.05 / high),
    )
    figure.text(0.01, 1 - 0.25 / high, TITLE, fontsize=11, fontweight="bold")
