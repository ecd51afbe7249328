"""Figures as inline SVG. Colours come from the page's style sheet, so that they suit light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harmonize.reporting.escape import clean
from harmonize.reporting.markup.elements import join, tag
from harmonize.reporting.page.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Point,
    Scale,
    Who,
    bottom,
    drawing,
    frame,
    grid_lines,
    mark,
    path,
    rank,
    shape,
    short,
    three,
    ticks,
)  # fmt: skip
from harmonize.tracking.direction import DOWN, UP, Direction

_CORNERS = {(DOWN, UP): "↖", (UP, UP): "↗", (DOWN, DOWN): "↙", (UP, DOWN): "↘"}
_LETTER = 5.7  # pixels, of a label


@dataclass(frozen=True)
class Line:
    """A line of a figure: points in order, and the range over runs at the same places."""

    who: Who
    points: Sequence[Point]
    band: Sequence[tuple[float, float]] = ()


def lines(
    found: Sequence[Line],
    *,
    label: str,
    x: str,
    y_range: tuple[float, float] | None = (0.0, 1.0),
    even: bool = False,
    dots: bool = False,
) -> Markup:
    """Lines over a number (steps, depths).

    Args:
        found: What is drawn, the last on top.
        label: What a reader who does not see the figure is told. x: Title of the axis.
        y_range: None fits the axis to the values.
        even: Places are as far apart as their numbers in order, where they grow by factors. dots: Marks every place.
    """
    places = sorted({px for line in found for px, _ in line.points})
    values = [v for line in found for _, v in line.points] + [
        v for line in found for b in line.band for v in b
    ]
    low, high = y_range if y_range is not None else _padded(values)
    at = {p: float(i) for i, p in enumerate(places)} if even else {p: p for p in places}
    across = Scale(at[places[0]], at[places[-1]], LEFT, WIDTH - RIGHT)
    up = Scale(low, high, HEIGHT - BOTTOM, TOP)
    marks = []
    for line in _in_order(found):
        where = [(across(at[px]), up(py)) for px, py in line.points]
        if line.band and not line.who.is_quiet:
            upper = [(x0, up(b[1])) for (x0, _), b in zip(where, line.band, strict=True)]
            lower = [(x0, up(b[0])) for (x0, _), b in zip(where, line.band, strict=True)]
            marks.append(mark("polygon", line.who, "band", points=path([*upper, *reversed(lower)])))
        marks.append(mark("polyline", line.who, "line", title=line.who.label, points=path(where)))
        if dots or len(where) == 1:
            marks += [shape(line.who, px, py, 3.0) for px, py in where]
    if even or len(places) <= 6:
        shown = places if len(places) <= 8 else places[:: math.ceil(len(places) / 8)]
        named = [(across(at[p]), short(p)) for p in shown]
    else:
        named = [(across(t), short(t)) for t in ticks(places[0], places[-1])]
    return frame(label, [*grid_lines(up, low, high), *bottom(named, x), *marks])


def scatter(
    points: Sequence[tuple[Who, Point, Sequence[Point]]],
    *,
    label: str,
    x: str,
    y: str,
    better: tuple[Direction, Direction],
    labelled: bool = True,
) -> Markup:
    """Means as shapes, single runs as dots; the border of what nobody beats as a dashed line.

    An axis runs from 0 to 1, or over the half or less of it in which all values lie.

    Args:
        points: Who, mean, the values of single runs.
        label, x, y: As in `lines`.
        better: Where better lies on each axis.
        labelled: Names stand beside those with a colour, where there is room.
    """
    left, right = _shares([a for _, (a, _), _ in points])
    low, high = _shares([b for _, (_, b), _ in points])
    across = Scale(left, right, LEFT + 16, WIDTH - RIGHT)
    up = Scale(low, high, HEIGHT - BOTTOM, TOP)
    own = [p for who, p, _ in points if who.look.startswith("s")]
    corners = border(own, better)
    marks: list[Markup] = []
    if len(corners) > 1:
        marks.append(tag("polyline", class_="border", points=path([(across(a), up(b)) for a, b in corners])))
    placed: list[tuple[float, float, float, float]] = []
    named: list[Markup] = []
    for who, (a, b), single in sorted(points, key=lambda p: rank(p[0])):
        if len(single) > 1 and not who.is_quiet:
            marks += [mark("circle", who, "dot", cx=across(u), cy=up(v), r=1.8) for u, v in single]
        marks.append(shape(who, across(a), up(b), 4.6, f"{who.label}: {x} {a:.3f}, {y} {b:.3f}"))
        if not who.is_quiet:
            placed.append((across(a) - 4, up(b) - 4, across(a) + 4, up(b) + 4))
    for who, (a, b), _ in points if labelled else ():
        if not who.is_quiet and (text := _beside(who, across(a), up(b), placed)) is not None:
            named.append(text)
    corner = f"better {_CORNERS.get(better) or ' '.join(way.symbol for way in better)}"
    note_x, anchor = (LEFT + 20, "start") if better[0] == DOWN else (WIDTH - RIGHT - 4, "end")
    note = tag("text", corner, class_="corner", x=note_x, y=HEIGHT - BOTTOM - 8, text_anchor=anchor)
    wide = [(across(t), short(t)) for t in ticks(left, right, 6)]
    return frame(label, [*grid_lines(up, low, high, y), *bottom(wide, x), note, *marks, *named])


def radar(
    shapes: Sequence[tuple[Who, Sequence[float]]], names: Sequence[str], *, label: str, small: bool = False
) -> Markup:
    """Closed polygons, outward is better; small ones carry no names. Where a figure is missing the line stays open."""
    size = 150 if small else HEIGHT + 20
    width = 150 if small else WIDTH
    cx, cy, radius = width / 2, size / 2 + (0 if small else 4), size / 2 - (12 if small else 44)
    turn = [2 * math.pi * i / len(names) - math.pi / 2 for i in range(len(names))]

    def at(i: int, value: float) -> Point:
        share = radius * min(max(value, 0.0), 1.0)
        return cx + share * math.cos(turn[i]), cy + share * math.sin(turn[i])

    parts = [
        tag("polygon", class_="grid", points=path([at(i, ring) for i in range(len(names))]))
        for ring in ((0.5, 1.0) if small else (0.25, 0.5, 0.75, 1.0))
    ]
    parts += [
        tag("line", class_="grid", x1=cx, y1=cy, x2=at(i, 1)[0], y2=at(i, 1)[1]) for i in range(len(names))
    ]
    for who, values in sorted(shapes, key=lambda s: rank(s[0])):
        told = ", ".join(f"{n} {v:.2f}" for n, v in zip(names, values, strict=True) if math.isfinite(v))
        where = [at(i, v) for i, v in enumerate(values) if math.isfinite(v)]
        whole = len(where) == len(names)
        parts.append(
            mark(
                "polygon" if whole else "polyline",
                who,
                "area" if whole and (small or len(shapes) <= 4) and who.look.startswith("s") else "line",
                title=f"{who.label}: {told}",
                points=path(where),
            )
        )
    if not small:
        for i, name in enumerate(names):
            x0, y0 = at(i, 1.0)
            dx, dy = math.cos(turn[i]), math.sin(turn[i])
            anchor = "middle" if abs(dx) < 0.2 else "start" if dx > 0 else "end"
            for row, text in enumerate(name.split("\n")):
                down = y0 + 12 * dy + 4 + 12 * (row - (0.9 if dy < -0.5 else 0.3))
                parts.append(tag("text", text, x=x0 + 9 * dx, y=down, text_anchor=anchor))
        parts += [
            tag("text", ring, class_="tick", x=cx + 3, y=cy - radius * float(ring) + 9)
            for ring in ("0.5", "1")
        ]
    return drawing(label, parts, width, size)


def parallel(rows: Sequence[tuple[Who, Sequence[float]]], names: Sequence[str], *, label: str) -> Markup:
    """One vertical axis for each name, from 0 to 1, up is better; a row is a line across all of them."""
    gap = (WIDTH - 2 * 40) / max(1, len(names) - 1)
    up = Scale(0, 1, HEIGHT - BOTTOM, TOP)
    across = [40 + gap * i for i in range(len(names))]
    parts: list[Markup] = []
    for x0, name in zip(across, names, strict=True):
        parts.append(tag("line", class_="axis", x1=x0, y1=up(0), x2=x0, y2=up(1)))
        for row, text in enumerate(name.split("\n")):
            parts.append(tag("text", text, x=x0, y=HEIGHT - BOTTOM + 16 + 13 * row, text_anchor="middle"))
    for t in (0.0, 0.5, 1.0):
        parts.append(tag("line", class_="grid", x1=across[0], y1=up(t), x2=across[-1], y2=up(t)))
        parts.append(tag("text", short(t), class_="tick", x=across[0] - 8, y=up(t) + 4, text_anchor="end"))
    for who, values in sorted(rows, key=lambda r: rank(r[0])):
        where = [(x0, up(v)) for x0, v in zip(across, values, strict=True)]
        told = ", ".join(f"{n} {v:.2f}" for n, v in zip(names, values, strict=True)).replace("\n", " ")
        parts.append(mark("polyline", who, "line", title=f"{who.label}: {told}", points=path(where)))
        if not who.is_quiet:
            parts += [shape(who, px, py, 3.4) for px, py in where]
    return frame(label, parts)


def spark(found: Sequence[tuple[str, Sequence[Point]]], *, label: str) -> Markup:
    """A small figure of its own scale: one or several lines over steps, with the extremes written beside."""
    width, height, left = 220, 92, 44
    values = [v for _, points in found for _, v in points]
    steps = [s for _, points in found for s, _ in points]
    low, high = _padded(values)
    across = Scale(min(steps), max(steps), left, width - 6)
    up = Scale(low, high, height - 16, 8)
    parts = [
        tag("line", class_="grid", x1=left, y1=up(v), x2=width - 6, y2=up(v))
        for v in (min(values), max(values))
    ]
    for i, (name, points) in enumerate(found):
        where = path([(across(s), up(v)) for s, v in points])
        parts.append(
            tag("polyline", tag("title", clean(name, 80)), class_=f"line t{min(i, 4)}", points=where)
        )
    parts += [
        tag("text", three(v), class_="tick", x=left - 5, y=up(v) + 4, text_anchor="end")
        for v in dict.fromkeys((min(values), max(values)))
    ]
    parts.append(tag("text", short(max(steps)), class_="tick", x=width - 6, y=height - 3, text_anchor="end"))
    return drawing(label, parts, width, height)


def _beside(who: Who, x: float, y: float, taken: list[tuple[float, float, float, float]]) -> Markup | None:
    """A name where it covers nothing, or None."""
    text = clean(who.label, 22)
    wide = _LETTER * len(text)
    places = [(x + 8, y + 4, "start"), (x - 8, y + 4, "end"), (x + 6, y - 8, "start"), (x + 6, y + 15, "start"),
              (x - 6, y - 8, "end"), (x - 6, y + 15, "end")]  # fmt: skip
    for px, py, anchor in places:
        left = px if anchor == "start" else px - wide
        box = (left, py - 9, left + wide, py + 3)
        inside = box[0] >= LEFT + 16 and box[2] <= WIDTH - 2 and box[1] >= 2 and box[3] <= HEIGHT - BOTTOM
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return tag(
                "text", text, class_=f"name {who.look}", data_m=who.key, x=px, y=py, text_anchor=anchor
            )
    return None


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def border(points: Sequence[Point], better: tuple[Direction, Direction]) -> list[Point]:
    """Corners of the staircase through the points that no other beats in both figures."""
    best = [
        p
        for p in set(points)
        if not any(
            q != p and all(way.merit(a) >= way.merit(b) for a, b, way in zip(q, p, better, strict=True))
            for q in points
        )
    ]
    best.sort(key=lambda p: -better[0].merit(p[0]))  # from the best in x to the best in y
    corners: list[Point] = []
    for p in best:
        if corners:
            corners.append((p[0], corners[-1][1]))
        corners.append(p)
    return corners


def _in_order(found: Sequence[Line]) -> list[Line]:
    return sorted(found, key=lambda line: rank(line.who))


def _shares(values: Sequence[float]) -> tuple[float, float]:
    low = math.floor(min(values) * 10 - 0.5) / 10
    high = math.ceil(max(values) * 10 + 0.5) / 10
    low, high = (0.0, high) if high <= 0.5 else (low, 1.0)
    return (0.0 if 0 < low < 0.5 else max(low, 0.0)), high


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    return low - room, high + room


def chart_grid(figures: Sequence[Markup], kind: str = "") -> Markup:
    """Figures side by side, as many as fit."""
    return tag("div", join(figures), class_=f"grid-of {kind}".strip())


def figure(title: object, chart: Markup, caption: object = None, kind: str | None = None) -> Markup:
    """A figure with its title above and what to know below."""
    head = tag("figcaption", title)
    return tag("figure", head, chart, tag("p", caption, class_="note") if caption else None, class_=kind)
