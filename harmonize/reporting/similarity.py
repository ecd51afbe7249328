"""A study of diagnoses: how much the roles' gradients agree, in each form of the data, over worlds and seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harmonize.errors import RunError
from harmonize.reporting.columns import GAP, fixed
from harmonize.reporting.escape import csv_cell
from harmonize.reporting.estimates import estimated
from harmonize.reporting.grid import Grid
from harmonize.reporting.heatmap import Panel, draw_heatmaps
from harmonize.reporting.study import Study, StudyRun
from harmonize.tracking.files import write_text

TOTAL = "total"
LOSSES = {
    "method": "the method's own losses",
    "value": "likelihood of the scored value",
    "nll": "likelihood of the response",
}
GROUPS = ("forget", "neighbor", "retain", "prefilled")


@dataclass(frozen=True)
class Cosines:
    """Cosines of one loss and one form of the data: pair to its value by the seeds of each run (a mean of draws)."""

    loss: str
    form: str
    pairs: Mapping[tuple[str, str], Mapping[tuple[str, ...], float]]

    def values(self, a: str, b: str) -> tuple[float, ...]:
        """Of a pair in either order; of a group with itself 1."""
        found = self.pairs.get((a, b)) or self.pairs.get((b, a)) or {}
        return (1.0,) if a == b else tuple(found.values())


def forms(run: StudyRun) -> Iterator[tuple[str, dict[tuple[str, str], float]]]:
    """(form, pair to its cosine over all layers) of each form that a run measured, the one compared with first."""
    for found in run.results.extra.get("diagnoses") or []:
        block = (found.get("cosines") or {}).get(TOTAL) or {}
        values = {}
        for name, draws in block.items():
            first, _, second = name.partition("~")
            finite = [v for v in draws if isinstance(v, int | float) and math.isfinite(v)]
            if finite:
                values[first, second] = statistics.fmean(finite)
        yield Path(str(found.get("name"))).name, values


def cosines(study: Study) -> list[Cosines]:
    """By loss and form, in that order.

    Raises:
        RunError: The study has no diagnosis.
    """
    found: dict[tuple[str, str], list[tuple[tuple[str, ...], dict[tuple[str, str], float]]]] = defaultdict(
        list
    )
    for run in study.runs:
        for form, values in forms(run):
            found[run.flat.get("loss", "nll"), form].append((run.seeds, values))
    if not found:
        raise RunError(
            f"{study.path}: no finished diagnosis found. Make some with: harmonize diagnose compare=raw "
            f"study={study.path.name}"
        )
    rank = list(LOSSES)
    ordered = sorted(found, key=lambda key: rank.index(key[0]) if key[0] in rank else len(rank))
    blocks = []
    for loss, form in ordered:
        runs = found[loss, form]
        pairs = list(dict.fromkeys(pair for _, values in runs for pair in values))
        blocks.append(
            Cosines(loss, form, {pair: {seeds: v[pair] for seeds, v in runs if pair in v} for pair in pairs})
        )
    return blocks


def similarity_grid(blocks: Sequence[Cosines], title: str) -> Grid:
    """A row for each loss and pair, a column for each form, and the change from the first form to the last."""
    names = list(dict.fromkeys(block.form for block in blocks))
    rows = []
    for loss in dict.fromkeys(block.loss for block in blocks):
        own = {block.form: block for block in blocks if block.loss == loss}
        for pair in dict.fromkeys(p for block in own.values() for p in block.pairs):
            cells = [_cell(own[name].values(*pair)) if name in own else GAP for name in names]
            if len(names) > 1:
                first, last = (own.get(name) for name in (names[0], names[-1]))
                cells.append(_change(first, last, pair))
            rows.append([loss, f"{pair[0]} and {pair[1]}", *cells])
    runs = max(len(values) for block in blocks for values in block.pairs.values())
    heads = ["loss", "gradients of", *names, *([f"{names[-1]} - {names[0]}"] if len(names) > 1 else [])]
    told = "; ".join(
        f"{name}: {LOSSES[name]}" for name in dict.fromkeys(b.loss for b in blocks) if name in LOSSES
    )
    notes = [
        f"Cosine of the two groups' gradients over all weights, mean±sd over {runs} runs (worlds or seeds), each the "
        "mean of its draws; the change with its 95 % t interval over runs.",
        f"Losses: {told}.",
    ]
    return Grid(title, heads, rows, notes, left=2)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return GAP
    mean = fixed(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean}±{statistics.stdev(values):.2f}".replace("±0.", "±.")


def changes(first: Cosines, last: Cosines, pair: tuple[str, str]) -> dict[tuple[str, ...], float]:
    """The last form less the first for every run that has both, by its seeds."""
    a, b = (c.pairs.get(pair, {}) for c in (first, last))
    return {seeds: b[seeds] - a[seeds] for seeds in a if seeds in b}


def _change(first: Cosines | None, last: Cosines | None, pair: tuple[str, str]) -> str:
    effect = estimated(list(changes(first, last, pair).values())) if first and last else None
    return GAP if effect is None else str(effect)


def similarity_csv(blocks: Sequence[Cosines]) -> str:
    """Every run's cosine, in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["loss", "form", "a", "b", "seed", "world_seed", "cosine"])
    for block in blocks:
        for (a, b), values in block.pairs.items():
            for seeds, value in values.items():
                writer.writerow([*map(csv_cell, (block.loss, block.form, a, b, *seeds)), value])
    return text.getvalue()


def draw_similarity(blocks: Sequence[Cosines], folder: Path, formats: Sequence[str]) -> list[Path]:
    """The cosines as matrices, a row of panels a loss, with their CSV."""
    panels = [_panel(block) for block in blocks]
    across = len({block.form for block in blocks})
    title = "Cosines between the gradients of the roles; mean±sd over runs"
    files = [folder / f"similarity.{kind}" for kind in formats]
    figures = draw_heatmaps(panels, files, title=title, across=across) if files else []
    return [*figures, write_text(folder / "similarity.csv", similarity_csv(blocks))]


def _panel(block: Cosines) -> Panel:
    there = [g for g in GROUPS if any(g in pair for pair in block.pairs)]

    values = block.values

    def spread(found: Sequence[float]) -> float:
        return statistics.stdev(found) if len(found) > 1 else 0.0

    mean = [[statistics.fmean(v) if (v := values(a, b)) else math.nan for b in there] for a in there]
    return Panel(
        f"{LOSSES.get(block.loss, block.loss)}: {block.form}",
        there,
        there,
        mean,
        [[spread(values(a, b)) for b in there] for a in there],
    )
