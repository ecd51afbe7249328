"""What a page shows of a study: rows with their colours, curves over training, cosines of gradients, what was run."""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harmonize.reporting.columns import Column
from harmonize.reporting.page.svg import SLOTS, Point, Who
from harmonize.reporting.standing import SHIFT
from harmonize.reporting.study import Group, Study, StudyRun
from harmonize.reporting.table import Row, Table, build_tables
from harmonize.tracking.loggers import read_metrics
from harmonize.tracking.run_folder import METRICS_CSV

FEW = 6  # rows with a colour where not all can have one
MOST_TERMS = 4  # of a row, in one figure
MOST_POINTS = 120  # of a curve
DIAGNOSE = "diagnose"
_COSINE = re.compile(r"(?:gradient/)?cosine/(.+)\|(.+)")
_TERM = "term_weighted/"
Series = dict[str, list[Point]]


@dataclass
class Member:
    """A row of the table with its runs.

    Attributes:
        who: How it is drawn.
        row, group: Its figures and runs.
        curves: Name of a logged figure to (step, mean over runs).
        bands: The same to (least, most) over runs.
        cosines: Pair of terms to all its values, over steps and runs.
    """

    who: Who
    row: Row
    group: Group
    curves: Series = field(default_factory=dict)
    bands: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    cosines: dict[tuple[str, str], list[float]] = field(default_factory=dict)


@dataclass
class Chapter:
    """One setting (data set, model): its table, and what is drawn of it. common: What all rows' names begin with."""

    key: str
    table: Table
    references: list[tuple[Who, Row]]
    members: list[Member]
    common: str = ""

    @property
    def loud(self) -> list[Member]:
        """Those with a colour."""
        return sorted((m for m in self.members if not m.who.is_quiet), key=lambda m: m.who.look)


@dataclass
class Diagnosed:
    """What one `harmonize diagnose` found for one data set: cosines by layer and pair, mean over draws."""

    title: str
    layers: list[str]
    pairs: list[str]
    means: list[list[float | None]]


@dataclass
class Gathered:
    """Everything a page is made of, apart from single questions."""

    study: Study
    chapters: list[Chapter]
    diagnosed: list[Diagnosed]


def gather(study: Study, own: tuple[Column, ...] = ()) -> Gathered:
    """Reads what the runs logged. Runs without metrics.csv have their looks at val from results.json.

    Args:
        own: Columns that stand before those that every table has.
    """
    diagnosed = [d for run in study.runs for d in _diagnoses(run)]
    groups = [g for g in study.groups if any(r.results.command != DIAGNOSE for r in g.runs)]
    shown = Study(study.path, groups)
    chapters = [_chapter(i, table, shown) for i, table in enumerate(build_tables(shown, own))]
    for chapter in chapters:
        for member in chapter.members:
            _read(member)
    return Gathered(study, chapters, diagnosed)


def _chapter(number: int, table: Table, study: Study) -> Chapter:
    groups = [group for group in study.groups if group.setting == table.setting]
    rows = [row for row in table.rows if not row.is_reference]
    looks = _looks(rows)
    common = _common([row.label for row in rows])
    members = [
        Member(Who(f"{number}-{i}", row.label.removeprefix(common), looks[i]), row, group)
        for i, (row, group) in enumerate(zip(rows, groups, strict=True))
    ]
    references = [
        (Who(f"{number}-{row.label}", row.label, row.label), row) for row in table.rows if row.is_reference
    ]
    return Chapter(str(number), table, references, members, common.strip())


def _common(labels: Sequence[str]) -> str:
    """The whole words that all labels begin with, where each goes on after them."""
    if len(labels) < 2:
        return ""
    shared = []
    for same in zip(*(label.split(" ")[:-1] for label in labels), strict=False):
        if len(set(same)) > 1:
            break
        shared.append(same[0])
    return "".join(f"{word} " for word in shared)


def _looks(rows: Sequence[Row]) -> list[str]:
    """A colour for every row where there are enough; else for the front first, then by shift."""
    looks = ["sx"] * len(rows)
    order = list(range(len(rows)))
    if len(rows) > SLOTS:
        order.sort(key=lambda i: (not rows[i].front, -_shift(rows[i])))
        order = order[:FEW]
    for slot, i in enumerate(order):
        looks[i] = f"s{slot}"
    return looks


def _shift(row: Row) -> float:
    cell = row.cells.get(SHIFT)
    return -math.inf if cell is None else cell.mean


def _read(member: Member) -> None:
    """Curves and cosines of a row's runs."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in member.group.runs:
        logged = read_metrics(run.path / METRICS_CSV)
        if not any(name.startswith("val/") for _, name, _ in logged):
            logged += _val(run)
        last = {(step, name): value for step, name, value in logged if math.isfinite(value)}
        for (step, name), value in last.items():
            if pair := _COSINE.fullmatch(name):
                member.cosines.setdefault((pair[1], pair[2]), []).append(value)
            elif name.startswith(("val/", _TERM)) or name == "train/loss":
                found[name][step].append(value)
    for name, by_step in found.items():
        steps = _thinned(sorted(by_step))
        member.curves[name] = [(float(s), statistics.fmean(by_step[s])) for s in steps]
        member.bands[name] = [(min(by_step[s]), max(by_step[s])) for s in steps]


def _val(run: StudyRun) -> list[tuple[int, str, float]]:
    """The looks at val that results.json keeps."""
    selection = run.results.extra.get("selection")
    looks = selection.get("looks") if isinstance(selection, dict) else None
    return [
        (int(look["step"]), f"val/{name}", float(value))
        for look in (looks if isinstance(looks, list) else [])
        if isinstance(look, dict) and isinstance(look.get("step"), int | float)
        for name, value in look.items()
        if name != "step" and isinstance(value, int | float)
    ]


def _thinned(steps: list[int]) -> list[int]:
    """At most `MOST_POINTS` of them, first and last among them."""
    if len(steps) <= MOST_POINTS:
        return steps
    stride = (len(steps) - 1) / (MOST_POINTS - 1)
    return [steps[round(i * stride)] for i in range(MOST_POINTS)]


def terms(member: Member) -> list[tuple[str, list[Point]]]:
    """The loss and its weighted terms, for a figure of its own scale; many terms are summed over their roles."""
    found = {
        n.removeprefix(_TERM): points for n, points in sorted(member.curves.items()) if n.startswith(_TERM)
    }
    if len(found) > MOST_TERMS:
        summed: dict[str, dict[float, float]] = {}
        for name, points in found.items():
            sums = summed.setdefault(name.partition("/")[0], {})
            for step, value in points:
                sums[step] = sums.get(step, 0.0) + value
        found = {name: sorted(sums.items()) for name, sums in summed.items()}
    loss = [("loss", member.curves["train/loss"])] if "train/loss" in member.curves else []
    return [*loss, *list(found.items())[:MOST_TERMS]]


def matrix(member: Member) -> tuple[list[str], list[list[tuple[float, float] | None]]]:
    """Names of a row's terms, and for each two (mean cosine, share of steps below zero)."""
    names = list(dict.fromkeys(name for pair in member.cosines for name in pair))
    cells: list[list[tuple[float, float] | None]] = []
    for a in names:
        row: list[tuple[float, float] | None] = []
        for b in names:
            values = member.cosines.get((a, b)) or member.cosines.get((b, a))
            row.append(
                (statistics.fmean(values), sum(v < 0 for v in values) / len(values)) if values else None
            )
        cells.append(row)
    return names, cells


def _diagnoses(run: StudyRun) -> list[Diagnosed]:
    """The cosines of a run of `harmonize diagnose`; a malformed record counts as none."""
    found = []
    records = run.results.extra.get("diagnoses")
    for record in records if isinstance(records, list) else []:
        cosines = record.get("cosines") if isinstance(record, dict) else None
        if not isinstance(cosines, dict) or not all(isinstance(block, dict) for block in cosines.values()):
            continue
        layers = sorted(
            cosines, key=lambda layer: layer != "total"
        )  # the total on top, the rest in its order
        pairs = list(dict.fromkeys(pair for block in cosines.values() for pair in block))
        means = [[_mean(cosines[layer].get(pair)) for pair in pairs] for layer in layers]
        seeds = ", ".join(
            f"{key} {value}" for key, value in zip(("seed", "world"), run.seeds, strict=True) if value
        )
        found.append(Diagnosed(f"{record.get('name')} ({seeds})", layers, pairs, means))
    return found


def _mean(values: Any) -> float | None:
    finite = [
        float(v)
        for v in (values if isinstance(values, Iterable) else [])
        if isinstance(v, int | float) and math.isfinite(v)
    ]
    return statistics.fmean(finite) if finite else None
