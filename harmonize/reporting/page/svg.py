"""What figures are made of: who a mark stands for, scales, marks and frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harmonize.reporting.escape import clean
from harmonize.reporting.markup.elements import number, tag

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 12, 38
SLOTS = 8  # colours that can be told apart
Point = tuple[float, float]


@dataclass(frozen=True)
class Who:
    """What a mark stands for.

    Attributes:
        key: The same in all figures of a page, so that they can be highlighted together.
        label: Its name.
        look: Class of its colour: `s0` to `s7`, `sx` for one among many, or a reference's name.
    """

    key: str
    label: str
    look: str

    @property
    def is_quiet(self) -> bool:
        """One among many, drawn grey."""
        return self.look == "sx"


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        share = min(max((value - self.low) / span, -0.02), 1.02)
        return self.start + (self.end - self.start) * share


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values from low to high, at most so many."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough = span / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A tick's label."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.6g}"


def three(value: float) -> str:
    """A figure of any size in few letters."""
    return (
        f"{value:.2f}"
        if 0.01 <= abs(value) < 1000 or value == 0
        else f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-")
    )


def swatch(who: Who) -> Markup:
    """What a legend shows before a name."""
    parts = [mark("line", who, "line", x1=1, y1=7, x2=25, y2=7), shape(who, 13, 7, 3.6)]
    return tag("svg", *parts, class_="swatch", viewBox="0 0 26 14", width=26, height=14, aria_hidden="true")


def drawing(label: str, parts: Iterable[object], width: float, height: float) -> Markup:
    """A figure; what it shows is said to readers who do not see it."""
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_label=clean(label, 200),
        class_="chart" if width >= WIDTH else "chart small",
    )


def frame(label: str, parts: Iterable[object]) -> Markup:
    """A figure of the common size."""
    return drawing(label, parts, WIDTH, HEIGHT)


def grid_lines(up: Scale, low: float, high: float, title: str = "") -> list[Markup]:
    """Horizontal lines at round values, with the values, and the title of the axis turned beside them."""
    parts = []
    left = LEFT + (16 if title else 0)
    for t in ticks(low, high):
        parts.append(tag("line", class_="grid", x1=left, y1=up(t), x2=WIDTH - RIGHT, y2=up(t)))
        parts.append(tag("text", short(t), class_="tick", x=left - 7, y=up(t) + 4, text_anchor="end"))
    if title:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        turned = f"rotate(-90 12 {number(middle)})"
        parts.append(tag("text", title, x=12, y=middle, text_anchor="middle", transform=turned))
    return parts


def bottom(named: Sequence[tuple[float, str]], title: str) -> list[Markup]:
    """Labels of the axis below (pixel, text), and its title."""
    parts = [
        tag("text", text, class_="tick", x=px, y=HEIGHT - BOTTOM + 15, text_anchor="middle")
        for px, text in named
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*parts, tag("text", title, x=middle, y=HEIGHT - 6, text_anchor="middle")]


def mark(name: str, who: Who, kind: str, title: str | None = None, **attributes: object) -> Markup:
    """An element that stands for a row: its class is its kind and colour, and the pointer is told the title."""
    told = None if title is None else tag("title", clean(title, 200))
    return tag(name, told, class_=f"{kind} {who.look}", data_m=who.key, **attributes)


def shape(who: Who, x: float, y: float, r: float, title: str | None = None) -> Markup:
    """A marker whose form follows the colour, so that colour alone says nothing."""
    slot = int(who.look[1:]) if who.look[1:].isdigit() else -1
    if slot <= 0:
        return mark("circle", who, "mark", title, cx=x, cy=y, r=r if slot == 0 else r * 0.85)
    corners = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        3: [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        4: [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
        5: [(-0.45, -1.2), (0.45, -1.2), (0.45, -0.45), (1.2, -0.45), (1.2, 0.45), (0.45, 0.45),
            (0.45, 1.2), (-0.45, 1.2), (-0.45, 0.45), (-1.2, 0.45), (-1.2, -0.45), (-0.45, -0.45)],
        6: [(-0.6, -1.1), (0.6, -1.1), (1.2, 0), (0.6, 1.1), (-0.6, 1.1), (-1.2, 0)],
        7: [(-1.2, -0.7), (1.2, -0.7), (1.2, 0.7), (-1.2, 0.7)],
    }[slot]  # fmt: skip
    return mark("polygon", who, "mark", title, points=path([(x + r * u, y + r * v) for u, v in corners]))


def rank(who: Who) -> tuple[int, int]:
    """What is drawn first: one among many, references, then those with a colour, the first on top."""
    slot = int(who.look[1:]) if who.look[1:].isdigit() else 0
    return (0 if who.is_quiet else 2 if who.look.startswith("s") else 1), -slot


def path(where: Iterable[Point]) -> str:
    """Points as an attribute."""
    return " ".join(f"{number(x)},{number(y)}" for x, y in where)
