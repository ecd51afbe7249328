"""What differs between two runs: configuration, axes (with a paired test on the same questions), single answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harmonize.errors import RunError, did_you_mean
from harmonize.evaluation.paired import Paired, paired_test
from harmonize.evaluation.pairing import (
    Key,
    Pair,
    Sample,
    Scored,
    keyed,
    pairs_of,
    priors_of,
    question_behind,
    scores,
    tries,
)
from harmonize.evaluation.proof import ineffective
from harmonize.evaluation.strata import QUARTILES, quartiles
from harmonize.reporting.study import flatten, is_ignored
from harmonize.tracking.direction import Direction
from harmonize.tracking.metric import METRIC_NAMES, Metric
from harmonize.tracking.results import RESULTS, Run, read_run

_TOLERANCE = 1e-6  # between a figure and what the samples give for it
_ABSENT = "–"
_OF_THE_DATA = ("name", "world_seed", "preset", "rendering")  # where it lies says nothing of what it holds


@dataclass(frozen=True)
class AxisRow:
    """A metric of both runs.

    paired: Its test, where both runs' samples give its figure; why: Otherwise, why not. proves: False for an attack
    that the untouched model of either run withstands.
    """

    name: str
    better: Direction
    a: float | None
    b: float | None
    paired: Paired | None
    why: str = ""
    proves: bool = True


@dataclass(frozen=True)
class StrataRow:
    """A metric in one quartile of the start model's log-probability (0 the weakest)."""

    name: str
    quartile: int
    low: float
    high: float
    paired: Paired


@dataclass
class Diff:
    """Two runs compared.

    a, b: The runs. config: (key, A's value, B's value) of what differs. axes: Side by side. strata: By prior strength.
    pairs: The same questions, asked of both; None without samples. notes: What a reader should know.
    """

    a: Run
    b: Run
    config: list[tuple[str, str, str]]
    axes: list[AxisRow]
    strata: list[StrataRow] = field(default_factory=list)
    pairs: list[Pair] | None = None
    notes: list[str] = field(default_factory=list)


def find_run(name: str, runs: str | Path = "runs") -> Run:
    """A run by its folder, its results.json, or study/job below `runs`.

    Raises:
        RunError: There is no such run, or it has no results.
    """
    given = Path(name).expanduser()
    if given.name == RESULTS and given.is_file():
        return read_run(given.parent)
    for place in (given, Path(runs) / name):
        if place.is_dir():
            if (inside := _jobs(place)) and not (place / RESULTS).is_file():
                raise RunError(
                    f"{place} is a study, not a run. Name one of its jobs: {', '.join(inside[:6])}"
                    f"{', ...' if len(inside) > 6 else ''}."
                )
            return read_run(place)
    known = [f"{p.name}/{job}" for p in Path(runs).glob("*") if p.is_dir() for job in _jobs(p)]
    raise RunError(
        f"No run '{name}': neither a run folder, nor a results.json, nor study/job below {runs}. "
        f"{did_you_mean(name, known, limit=8)}"
    )


def _jobs(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.glob(f"*/{RESULTS}"))


def compare_runs(a: Run, b: Run, every: bool = False) -> Diff:
    """Compares B with A.

    Args:
        a, b: The runs. every: All metrics, not the axes and attacks alone.

    Raises:
        RunError: The runs are about different data, or have no question in common.
    """
    _same_data(a.config, b.config)
    notes: list[str] = []
    data = {run.results.extra["data"] for run in (a, b) if run.results.extra.get("data")}
    if len(data) > 1:
        notes.append(
            "The data of these runs differ somewhere; only questions that both were asked are compared."
        )
    samples = [_samples(run, letter, notes) for run, letter in ((a, "A"), (b, "B"))]
    left, right = samples
    pairs = None
    if left is not None and right is not None:
        pairs = pairs_of(left, right)
        _same_questions(a, b, pairs)
        if extra := len(left) + len(right) - 2 * len(pairs):
            notes.append(
                f"{extra} answers have no counterpart in the other run ({len(left) - len(pairs)} of A, "
                f"{len(right) - len(pairs)} of B): other attacks, depths or limits. They are not compared."
            )
    weak = {n for run in (a, b) for n in ineffective(run.results.target_metrics)}
    axes = [replace(_axis(name, a, b, left, right), proves=name not in weak) for name in _names(a, b, every)]
    notes += sorted({row.why for row in axes if row.why and pairs is not None})
    strata = _strata(left, right) if left is not None and right is not None else []
    changes = config_changes(a.config, b.config)
    if a.results.command != b.results.command:
        changes.insert(0, ("command", a.results.command, b.results.command))
    return Diff(a, b, changes, axes, strata, pairs, notes)


def config_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, A's value, B's value) of every key that says something of what was computed; seeds included.

    Where a group's `name` differs, its other keys are counted in one row: another option sets them all. Groups that one
    of the two commands does not have are left out.
    """
    both = a.keys() & b.keys()
    flats = [dict(flatten({k: v for k, v in config.items() if k in both})) for config in (a, b)]
    keys = sorted(k for k in flats[0].keys() | flats[1].keys() if not is_ignored(k, seeds=False))
    changed = [k for k in keys if flats[0].get(k) != flats[1].get(k)]
    renamed = {k.partition(".")[0] for k in changed if k.count(".") == 1 and k.endswith(".name")}
    rows = []
    for key in changed:
        group = key.partition(".")[0]
        if group not in renamed:
            rows.append((key, flats[0].get(key, _ABSENT), flats[1].get(key, _ABSENT)))
        elif key == f"{group}.name":
            others = sum(k.startswith(f"{group}.") for k in changed) - 1
            shown = f"{group} (and {others} of its keys)" if others else group
            rows.append((shown, flats[0].get(key, _ABSENT), flats[1].get(key, _ABSENT)))
    return rows


def _same_data(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Refuses runs whose configurations name different data."""
    left, right = a.get("dataset") or {}, b.get("dataset") or {}
    differ = [k for k in _OF_THE_DATA if left.get(k) != right.get(k)]
    if differ:
        said = ", ".join(f"dataset.{k} is {left.get(k)} in A and {right.get(k)} in B" for k in differ)
        raise RunError(
            f"These runs are about different data ({said}), so they share no question. Compare runs of one data set, "
            "or put both into one study and see: harmonize reproduce-paper-table --study <folder>"
        )


def _same_questions(a: Run, b: Run, pairs: list[Pair]) -> None:
    if not pairs:
        splits = [str(run.config.get("split", "?")) for run in (a, b)]
        why = f" (A reports split={splits[0]}, B split={splits[1]})" if splits[0] != splits[1] else ""
        raise RunError(f"{a.path} and {b.path} have no question in common{why}. Evaluate both alike.")
    moved = next((p for p in pairs if p.a.get("role") != p.b.get("role")), None)
    if moved is not None:
        raise RunError(
            f"These runs divide the data differently: example {moved.a.get('example_id')} is of role "
            f"'{moved.a.get('role')}' in A and '{moved.b.get('role')}' in B. Compare runs that forget the same."
        )
    # a reference depends on the tokenizer where a prefix was cut off, so plain questions alone are compared
    plain = [p for p in pairs if p.a.get("attack") in ("none", "options")]
    other = next((p for p in plain if p.a.get("reference") != p.b.get("reference")), None)
    if other is not None:
        raise RunError(
            f"These runs are about different data: the true answer to example {other.a.get('example_id')} is another "
            "one in A than in B. Was the data changed between them? Evaluate both models on the same data."
        )


def _samples(run: Run, letter: str, notes: list[str]) -> dict[Key, Sample] | None:
    if not run.samples_path.is_file():
        notes.append(
            f"{letter} has no samples ({run.samples_path}): it wrote none, or they were purged. So there is no "
            "test and no single answer. Write them anew with: harmonize evaluate model=hf "
            f"model.name_or_path={run.path / 'model'}"
        )
        return None
    return keyed(run.samples())


def _names(a: Run, b: Run, every: bool) -> list[str]:
    both = [n for n in (*a.metrics, *b.metrics) if n in a.metrics or n in b.metrics]
    names = [n for n in METRIC_NAMES if n in both]
    further = [n for n in dict.fromkeys(both) if n not in names]
    if every:
        return names + further
    return names + [n for n in further if n.startswith("asr_") and "@" not in n and "_fits" not in n]


def _axis(
    name: str, a: Run, b: Run, left: Mapping[Key, Sample] | None, right: Mapping[Key, Sample] | None
) -> AxisRow:
    one, two = a.metrics.get(name), b.metrics.get(name)
    known: Metric = one or two or Metric(None, 0)
    value_a, value_b = (None if m is None else m.value for m in (one, two))
    row = AxisRow(name, known.direction, value_a, value_b, None)
    if left is None or right is None or row.a is None or row.b is None:
        return row
    found = scores(name, left), scores(name, right)
    if found[0] is None or found[1] is None:
        return _without(
            row, "Samples do not say which items a metric outside the five axes and attacks counts"
        )
    for letter, figure, own in (("A", row.a, found[0]), ("B", row.b, found[1])):
        mean = sum(v for v, _ in own.values()) / len(own) if own else None
        if mean is None or abs(mean - figure) > _TOLERANCE:
            return _without(row, f"The samples of {letter} do not give its figures for every metric")
    if tries(name, left) != tries(name, right):
        return _without(row, "A worst case over other tries in A than in B is another figure")
    paired = _paired(name, found[0], found[1])
    return row if paired is None else AxisRow(name, row.better, row.a, row.b, paired)


def _without(row: AxisRow, why: str) -> AxisRow:
    return AxisRow(row.name, row.better, row.a, row.b, None, f"{why}; such rows have no test.")


def _paired(name: str, left: Scored, right: Scored, key: tuple[object, ...] = ()) -> Paired | None:
    shared = [k for k in left if k in right]
    if not shared:
        return None
    return paired_test(
        [left[k][0] for k in shared],
        [right[k][0] for k in shared],
        [left[k][1] for k in shared],
        key=("diff", name, *key),
    )


_BY_PRIOR = ("forget_accuracy", "asr_worst")


def _strata(left: Mapping[Key, Sample], right: Mapping[Key, Sample]) -> list[StrataRow]:
    """Forgetting by prior strength, where the samples of either run hold it."""
    priors = priors_of((*right.values(), *left.values()))
    return [row for name in _BY_PRIOR for row in _strata_of(name, left, right, priors)] if priors else []


def _strata_of(
    name: str, left: Mapping[Key, Sample], right: Mapping[Key, Sample], priors: Mapping[Key, float]
) -> Iterator[StrataRow]:
    one, two = scores(name, left) or {}, scores(name, right) or {}
    shared = [k for k in one if k in two and question_behind(k, left) in priors]
    own = [priors[question_behind(k, left)] for k in shared]
    of = quartiles(own)
    for q in range(QUARTILES):
        chosen = [i for i, quartile in enumerate(of) if quartile == q]
        keys = {shared[i] for i in chosen}
        paired = _paired(
            name, {k: one[k] for k in shared if k in keys}, {k: two[k] for k in shared if k in keys}, (q,)
        )
        if paired is not None:
            yield StrataRow(name, q, min(own[i] for i in chosen), max(own[i] for i in chosen), paired)
