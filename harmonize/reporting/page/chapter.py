"""The sections of one setting: table, trade-offs, curves, attacks, gradients."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from markupsafe import Markup

from harmonize.reporting.columns import COLUMNS, DECIMALS, FRONT
from harmonize.reporting.markup.elements import join, tag, words
from harmonize.reporting.markup.tables import plain
from harmonize.reporting.page import charts, tables
from harmonize.reporting.page.charts import Line, chart_grid, figure
from harmonize.reporting.page.gather import Chapter, Member, matrix, terms
from harmonize.reporting.page.svg import Who, swatch
from harmonize.reporting.radar import AXES, radar_values
from harmonize.reporting.standing import FRONT_AXES
from harmonize.reporting.table import Row
from harmonize.tracking.metric import METRIC_NAMES

MOST_SMALL = 60  # small figures of one kind
MOST_LISTED = 20  # on the front
_HEADERS = {column.key: column.header for column in COLUMNS}
_AT = re.compile(r"(.+)@(\d+(?:\.\d+)?)")
_ATTACK = re.compile(r"asr_.*|relearn_.*|.*_leak@\d+")
_SCATTERS = (
    ("forget_accuracy", "utility_accuracy"),
    ("asr_worst", "neighbor_accuracy"),
    ("forget_heldout_accuracy", "retain_accuracy"),
)
_LOOKS = (
    *("forget_accuracy", "forget_heldout_accuracy", "asr_worst"),
    *("neighbor_accuracy", "retain_accuracy", "utility_accuracy"),
)


def legend(chapter: Chapter) -> Markup:
    """Every row with its colour; the page's script highlights a row in all figures."""
    loud = [member.who for member in chapter.loud]
    quiet = [member.who for member in chapter.members if member.who.is_quiet]
    chips = [_chip(who) for who in (*(w for w, _ in chapter.references), *loud)]
    more = None
    if quiet:
        more = tag(
            "details",
            tag("summary", f"{len(quiet)} more, drawn grey"),
            tag("div", *(_chip(who) for who in quiet), class_="chips"),
        )
    return tag("div", tag("div", *chips, class_="chips"), more, class_="legend")


def _chip(who: Who) -> Markup:
    return tag("button", swatch(who), words(who.label, 60), class_="chip", type="button", data_m=who.key)


def trade_offs(chapter: Chapter) -> Markup:
    """Radar, Pareto front, scatters, then every row's radar by itself."""
    front = _front(chapter)
    first = [f for f in (_radar(chapter), *front) if f is not None]
    return join([chart_grid(first) if first else None, _scatters(chapter), _one_by_one(chapter)])


def _radar(chapter: Chapter) -> Markup | None:
    references = [(who, radar_values(row)) for who, row in chapter.references]
    loud = [(m.who, radar_values(m.row)) for m in chapter.loud]
    if not any(math.isfinite(v) for _, values in loud for v in values):
        return None
    shapes = [(who, values) for who, values in [*references, *loud] if any(map(math.isfinite, values))]
    big = charts.radar(shapes, [axis.label for axis in AXES], label="Radar of the five axes")
    some = "" if len(loud) == len(chapter.members) else ", the rows with a colour"
    return figure(f"Five axes{some}", big, "Means over runs; outward is better on every axis.")


def _one_by_one(chapter: Chapter) -> Markup | None:
    """A small radar of every row, where one figure would be crowded."""
    if len(chapter.members) <= 3:
        return None
    flat = [axis.label.replace("\n", " ") for axis in AXES]
    beside = [(who, radar_values(row)) for who, row in chapter.references if row.label in ("gold", "target")]
    small = [
        figure(
            tag("span", swatch(m.who), words(m.who.label, 60), class_="named", data_m=m.who.key),
            charts.radar([*beside, (m.who, values)], flat, label=f"Radar of {m.who.label}", small=True),
            kind="small",
        )
        for m in chapter.members[:MOST_SMALL]
        if any(map(math.isfinite, values := radar_values(m.row)))
    ]
    if not small:
        return None
    note = (
        "Clockwise from the top: forgetting, retain, neighbor, resistance to the worst prefill, utility. Dashed: the "
        f"target; dotted: gold, where there is one. {_left_out(len(chapter.members), MOST_SMALL)}"
    )
    return join([tag("h3", "One by one"), tag("p", note, class_="note"), chart_grid(small, "smalls")])


def _front(chapter: Chapter) -> list[Markup]:
    """The four figures of every row as lines, and who is on the front."""
    judged = [m for m in chapter.members if m.row.front is not None]
    if not judged:
        return []
    on = [m for m in judged if m.row.front]
    names = [f"{_HEADERS[k]}\n{METRIC_NAMES[k].turning}" for k in FRONT_AXES]
    lines = charts.parallel([(m.who, _turned(m.row)) for m in judged], names, label="Pareto front")
    listed = tag(
        "ul",
        *(tag("li", swatch(m.who), words(m.who.label, 80), data_m=m.who.key) for m in on[:MOST_LISTED]),
        class_="plain",
    )
    off = [m for m in judged if not m.row.front]
    beaten = [(tag("span", words(m.who.label, 80), data_m=m.who.key), _beaten_by(m, on)) for m in off]
    heads = [("row", False), ("as good in all four, better in one", False)]
    title = f"Why {len(off)} {'is' if len(off) == 1 else 'are'} not on it"
    why = tag("details", tag("summary", title), plain(heads, beaten)) if off else None
    told = f"{len(on)} of {len(judged)} rows: nobody is as good in all four figures and better in one."
    text = tag("div", tag("p", told), listed, why)
    return [
        figure("The four figures of the front, up is better", lines),
        figure(f"On the Pareto front {FRONT}", text),
    ]


def _turned(row: Row) -> list[float]:
    """The figures of the front as printed, each so that 1 is best."""
    found = []
    for key in FRONT_AXES:
        cell = row.cells[key]
        assert cell is not None
        found.append(METRIC_NAMES[key].turned(round(cell.mean, DECIMALS)))
    return found


def _beaten_by(member: Member, front: Sequence[Member]) -> Markup:
    own = _turned(member.row)
    beating = [m for m in front if all(a >= b for a, b in zip(_turned(m.row), own, strict=True))]
    return join([tag("span", words(m.who.label), " ", data_m=m.who.key) for m in beating[:4]])


def _scatters(chapter: Chapter) -> Markup | None:
    figures = []
    for x, y in _SCATTERS:
        points = []
        for who, row in [*chapter.references, *((m.who, m.row) for m in chapter.members)]:
            a, b = row.cells.get(x), row.cells.get(y)
            if a is not None and b is not None:
                across, up = row.seeds.get(x, {}), row.seeds.get(y, {})
                points.append(
                    (who, (a.mean, b.mean), [(across[s], up[s]) for s in across.keys() & up.keys()])
                )
        if any(not who.look.isalpha() for who, _, _ in points):
            better = METRIC_NAMES[x], METRIC_NAMES[y]
            names = _HEADERS[x], _HEADERS[y]
            label = f"{names[0]} against {names[1]}"
            chart = charts.scatter(points, label=label, x=names[0], y=names[1], better=better)
            figures.append(figure(f"{label[0].upper()}{label[1:]}", chart))
    if not figures:
        return None
    note = "Shapes: means; dots: single runs; dashed: what no row beats in these two figures."
    return join([tag("h3", "One against another"), tag("p", note, class_="note"), chart_grid(figures)])


def curves(chapter: Chapter) -> Markup | None:
    """The axes on val over training, then the losses of every row."""
    panels = []
    for key in _LOOKS:
        found = [
            Line(m.who, m.curves[f"val/{key}"], m.bands[f"val/{key}"])
            for m in chapter.members
            if f"val/{key}" in m.curves
        ]
        if found:
            chart = charts.lines(found, label=f"{_HEADERS[key]} on val", x="step", dots=False)
            panels.append(figure(f"{_HEADERS[key]} {METRIC_NAMES[key].symbol}", chart))
    losses = [_losses(member) for member in chapter.members[:MOST_SMALL] if terms(member)]
    if not panels and not losses:
        return None
    parts: list[Markup | None] = []
    if panels:
        text = "Looks at val: mean over runs, shaded from the lowest to the highest run. None is a figure of the table."
        parts += [tag("p", text, class_="note"), chart_grid(panels)]
    if losses:
        note = (
            f"Mean over runs, every row on a scale of its own. {_left_out(len(chapter.members), MOST_SMALL)}"
        )
        parts += [tag("h3", "Losses"), tag("p", note, class_="note"), chart_grid(losses, "smalls")]
    return join(parts)


def _losses(member: Member) -> Markup:
    """The loss and its terms of one row."""
    found = terms(member)
    name = tag("span", words(member.who.label, 60), class_="named", data_m=member.who.key)
    chart = charts.spark(found, label=f"Losses of {member.who.label}")
    return figure(name, chart, _term_names(found), "small wide")


def _term_names(found: Sequence[tuple[str, object]]) -> Markup:
    return join(
        tag("span", tag("i", class_=f"t{min(i, 4)}"), words(name, 30), class_="term")
        for i, (name, _) in enumerate(found)
    )


def attacks(chapter: Chapter) -> Markup | None:
    """Success of every attack, and the curves of those that have a strength."""
    rows = [(who, row) for who, row in [*chapter.references, *((m.who, m.row) for m in chapter.members)]]
    figures = {who.key: _means(row) for who, row in rows}
    names = [n for n in dict.fromkeys(n for f in figures.values() for n in f) if _ATTACK.fullmatch(n)]
    if not names:
        return None
    curved: dict[str, set[float]] = {}
    for name in names:
        if match := _AT.fullmatch(name):
            curved.setdefault(match[1], set()).add(float(match[2]))
    curved = {base: places for base, places in curved.items() if len(places) > 1}
    heads = [n for n in names if not (m := _AT.fullmatch(n)) or m[1] not in curved]
    kinds = list(dict.fromkeys(map(_kind, heads)))
    heads.sort(key=lambda n: (kinds.index(_kind(n)), "heldout" in n))
    columns = [(n, _attack_name(n)) for n in heads]
    heated = tables.heat([(who, figures[who.key]) for who, _ in rows], columns)
    panels = []
    for base, places in curved.items():
        found = [
            Line(who, points)
            for who, _ in rows
            if (
                points := [
                    (p, v) for p in sorted(places) if (v := _at(figures[who.key], base, p)) is not None
                ]
            )
        ]
        if found:
            chart = charts.lines(
                found, label=_attack_name(base), x="strength", even=True, dots=len(rows) <= 12
            )
            panels.append(figure(_attack_name(base), chart))
    note = (
        "Share of questions (or tries) that an attack brings the answer out of; darker is worse. The target shows "
        "whether an attack works at all, gold how often it succeeds by luck."
    )
    parts: list[Markup | None] = [tag("p", note, class_="note"), heated]
    if panels:
        parts += [tag("h3", "By strength"), tag("p", "Share of an answer prefix, optimizer steps of relearning, "
                      "draws, or what else the attack varies.", class_="note"), chart_grid(panels)]  # fmt: skip
    return join(parts)


def _kind(name: str) -> str:
    """An attack's name without the facts that it was tried on, so that both kinds stand side by side."""
    return name.replace("heldout_", "").replace("_heldout", "")


def _means(row: Row) -> dict[str, float]:
    return {name: cell.mean for name, cell in (row.cells | row.extra).items() if cell is not None}


def _at(figures: dict[str, float], base: str, place: float) -> float | None:
    return next(
        (v for n, v in figures.items() if (m := _AT.fullmatch(n)) and m[1] == base and float(m[2]) == place),
        None,
    )


def _attack_name(name: str) -> str:
    text = name.removeprefix("asr_").replace("_accuracy", "").replace("heldout", "held-out").replace("_", " ")
    return text[0].upper() + text[1:] if text else name


def gradients(chapter: Chapter) -> Markup | None:
    """Cosines between the terms' gradients during training, a matrix for every row that logged them."""
    panels = []
    for member in [m for m in chapter.members if m.cosines][:MOST_SMALL]:
        names, found = matrix(member)
        cells = [
            [
                None
                if c is None
                else (c[0], f"mean {c[0]:.3f}; below zero in {c[1]:.0%} of the logged steps")
                for c in row
            ]
            for row in found
        ]
        panels.append(
            figure(tag("span", words(member.who.label, 60), class_="named", data_m=member.who.key),
                   tables.diverging(names, names, cells), kind="fit")
        )  # fmt: skip
    if not panels:
        return None
    note = (
        "Mean cosine between the gradients of two terms over the logged steps: blue where they agree, red where they "
        "are in conflict."
    )
    return join([tag("p", note, class_="note"), chart_grid(panels, "fits")])


def _left_out(n: int, most: int) -> str:
    return f"The first {most} of {n} rows." if n > most else ""
