"""Verdicts on the paper's claims, read off our own studies: effect, interval, and the command that made the runs.

Runs that differ in one thing are paired; differences of one world and seed are averaged first, because they share what
varies between worlds and seeds; the interval is over those.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize.config.paths import share
from harmonize.errors import RunError
from harmonize.reporting.columns import GAP
from harmonize.reporting.escape import csv_cell
from harmonize.reporting.estimates import NOT_SUPPORTED, SUPPORTED, UNDECIDED, Effect, estimated, judge
from harmonize.reporting.experiment import Experiment, load_experiment
from harmonize.reporting.grid import Grid
from harmonize.reporting.published import load_yaml
from harmonize.reporting.similarity import forms
from harmonize.reporting.study import SEED_KEYS, Study, StudyRun, is_ignored, load_study

FILE = "claims.yaml"
MISSING, ANY = "<missing>", "*"
TARGET, OTHER_FORM = "target", "other form"
# What two runs must agree in to be a pair, where the test does not change it: data, views, rows and budget.
MATCH = (
    "dataset.name",
    "model.name_or_path",
    *SEED_KEYS,
    "dataset.prefill.mode",
    "dataset.rendering",
    "sampler.rows.neighbor",
    "trainer.max_steps",
    "loss",
)
UNIT = ("dataset.name", *SEED_KEYS)
# expect -> (sign that makes "more" what is claimed, sign of the margin)
EXPECT = {"higher": (1, 1), "lower": (-1, 1), "no lower": (1, -1), "no higher": (-1, -1)}
_KEYS = {"text", "experiment", "base", "changed", "metric", "expect", "margin", "match", "decides"}

Level = Mapping[str, str]
Pair = tuple[StudyRun, StudyRun, float, float]  # the changed run, the other, the value there, and the change


@dataclass(frozen=True)
class Comparison:
    """One comparison: where its runs are, what differs, and what is claimed of a metric."""

    text: str
    experiment: str
    base: Level | str
    changed: Level
    metric: str
    expect: str
    margin: float
    match: tuple[str, ...] = ()
    decides: bool = True


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and the tests that speak about it."""

    id: str
    text: str
    tests: tuple[Comparison, ...]


@dataclass(frozen=True)
class Finding:
    """A test and what came of it.

    effect: Of changed less base, in the metric's own direction. start: Mean of base. pairs, worlds: Behind it. also:
    Further keys in which the runs of a pair differ. why: Why there is no effect, or none to be had. commits: Which code
    made the runs.
    """

    test: Comparison
    verdict: str
    effect: Effect | None = None
    start: float | None = None
    pairs: int = 0
    worlds: int = 0
    also: tuple[str, ...] = ()
    why: str = ""
    command: str = ""
    commits: tuple[str, ...] = ()


def load_claims(path: Path | None = None) -> list[Claim]:
    """The claims that ship, or those of a file.

    Raises:
        RunError: A file that is malformed: which test, and what it lacks.
    """
    path = path or share("experiments") / "claims" / FILE
    content = load_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("claims"), list):
        raise RunError(f"{path}: expected a list under 'claims'.")
    return [
        Claim(
            str(c["id"]),
            str(c["claim"]),
            tuple(_test(t, f"{path}, {c['id']}, test {i}") for i, t in enumerate(c["tests"], 1)),
        )
        for c in content["claims"]
    ]


def _test(item: Mapping[str, Any], where: str) -> Comparison:
    lacking = sorted(_KEYS - {"match", "decides"} - set(item))
    unknown = sorted(set(item) - _KEYS)
    if lacking or unknown:
        raise RunError(
            f"{where}: missing {', '.join(lacking) or 'nothing'}, unknown {', '.join(unknown) or 'nothing'}."
        )
    if item["expect"] not in EXPECT:
        raise RunError(f"{where}: expect is one of {', '.join(EXPECT)}; found {item['expect']!r}.")
    base = item["base"]
    return Comparison(
        text=str(item["text"]),
        experiment=str(item["experiment"]),
        base=base if isinstance(base, str) else {str(k): str(v) for k, v in base.items()},
        changed={str(k): str(v) for k, v in item["changed"].items()},
        metric=str(item["metric"]),
        expect=str(item["expect"]),
        margin=float(item["margin"]),
        match=tuple(map(str, item.get("match") or ())),
        decides=bool(item.get("decides", True)),
    )


def is_at(run: StudyRun, level: Level) -> bool:
    """Whether a run's configuration has these values; `*` is any, `<missing>` none."""
    for key, wanted in level.items():
        value = run.flat.get(key, MISSING)
        if value != wanted and not (wanted == ANY and value != MISSING):
            return False
    return True


def _between_levels(runs: Sequence[StudyRun], test: Comparison) -> Iterator[Pair]:
    """Changed less base over every cell of runs that agree in the matched keys; several of a level are averaged."""
    base = test.base
    assert isinstance(base, Mapping)
    keys = [
        k
        for k in (*MATCH, *test.match)
        if k not in {*base, *test.changed} or base.get(k) == test.changed.get(k)
    ]
    cells: dict[tuple[str, ...], tuple[list[StudyRun], list[StudyRun]]] = defaultdict(lambda: ([], []))
    for run in runs:
        place = tuple(run.flat.get(key, "") for key in keys)
        for side, level in enumerate((base, test.changed)):
            if is_at(run, level) and _value(run, test.metric) is not None:
                cells[place][side].append(run)
    for before, after in cells.values():
        if before and after:
            means = [
                statistics.fmean(v for r in side if (v := _value(r, test.metric)) is not None)
                for side in (before, after)
            ]
            yield after[0], before[0], means[0], means[1] - means[0]


def _against_target(runs: Sequence[StudyRun], test: Comparison) -> Iterator[Pair]:
    """A run's figure less that of its own untouched model."""
    for run in runs:
        before = (run.results.target_metrics or {}).get(test.metric)
        after = _value(run, test.metric)
        if is_at(run, test.changed) and before is not None and before.value is not None and after is not None:
            yield run, run, before.value, after - before.value


def _between_forms(runs: Sequence[StudyRun], test: Comparison) -> Iterator[Pair]:
    """A diagnosis' last form less its first."""
    first, _, second = test.metric.partition("~")
    for run in runs:
        found = [values for _, values in forms(run)]
        pair = (first, second)
        if is_at(run, test.changed) and len(found) > 1 and pair in found[0] and pair in found[-1]:
            yield run, run, found[0][pair], found[-1][pair] - found[0][pair]


_PAIRS: dict[str, Callable[[Sequence[StudyRun], Comparison], Iterator[Pair]]] = {
    TARGET: _against_target,
    OTHER_FORM: _between_forms,
}


def _value(run: StudyRun, metric: str) -> float | None:
    found = run.results.metrics.get(metric)
    return None if found is None else found.value


def find(test: Comparison, study: Study | None, experiment: Experiment) -> Finding:
    """What a study says of a test; without runs it stays undecided and says what to type."""
    command = experiment.typed("--run")
    if study is None or not study.runs:
        return Finding(test, UNDECIDED, why="no runs", command=command)
    pairs = _PAIRS[test.base] if isinstance(test.base, str) else _between_levels
    units: dict[tuple[str, ...], list[float]] = defaultdict(list)
    also: set[str] = set()
    commits: set[str] = set()
    starts: list[float] = []
    for run, other, start, difference in pairs(study.runs, test):
        starts.append(start)
        units[tuple(run.flat.get(key, "") for key in UNIT)].append(difference)
        also |= _differing(run, other, test)
        commits |= {
            str(git["commit"])[:7] for r in (run, other) if (git := r.results.git) and git.get("commit")
        }
    if not starts:
        return Finding(test, UNDECIDED, why=f"no pair of runs with {test.metric}", command=command)
    effect = estimated([statistics.fmean(values) for values in units.values()])
    sign, margin = EXPECT[test.expect]
    assert effect is not None
    worlds = len({(unit[0], *unit[2:]) for unit in units})
    why = "" if effect.n > 1 else "one world and seed: no interval"
    start = statistics.fmean(starts)
    if margin > 0 and (start if sign < 0 else 1 - start) < test.margin:
        why = why or "no room: the other side is at its end already"
    verdict = judge(_turned(effect, sign), margin * test.margin)
    return Finding(
        test,
        verdict,
        effect,
        start,
        len(starts),
        worlds,
        tuple(sorted(also)),
        why,
        command,
        tuple(sorted(commits)),
    )


def _turned(effect: Effect, sign: int) -> Effect:
    if sign > 0 or effect.low is None or effect.high is None:
        return effect
    return Effect(-effect.mean, -effect.high, -effect.low, effect.n)


def _differing(run: StudyRun, other: StudyRun, test: Comparison) -> set[str]:
    """Keys outside of the method and of what is tested in which two runs differ: what the pair is not equal in."""
    tested = {*test.changed, *(test.base if isinstance(test.base, Mapping) else ())}
    return {
        key
        for key in run.flat.keys() | other.flat.keys()
        if run.flat.get(key) != other.flat.get(key)
        and key not in tested
        and not key.startswith("method.")
        and not is_ignored(key)
    }


def verdict_of(findings: Sequence[Finding]) -> str:
    """Of a claim: supported if every deciding test is, not supported if one is not, else undecided."""
    found = [f.verdict for f in findings if f.test.decides]
    if NOT_SUPPORTED in found:
        return NOT_SUPPORTED
    return SUPPORTED if found and all(v == SUPPORTED for v in found) else UNDECIDED


def judge_claims(
    claims: Sequence[Claim], runs: Path, profile: str | None = None
) -> list[tuple[Claim, list[Finding]]]:
    """Every claim with its findings, from the studies below `runs`; each study is read once."""
    studies: dict[str, tuple[Experiment, Study | None]] = {}
    judged = []
    for claim in claims:
        findings = []
        for test in claim.tests:
            if test.experiment not in studies:
                studies[test.experiment] = _study(test.experiment, runs, profile)
            experiment, study = studies[test.experiment]
            findings.append(find(test, study, experiment))
        judged.append((claim, findings))
    return judged


def _study(name: str, runs: Path, profile: str | None) -> tuple[Experiment, Study | None]:
    experiment = load_experiment(name)
    if profile is not None and experiment.profile:
        experiment = load_experiment(name, profile)
    folder = runs / experiment.study
    return experiment, load_study(folder) if folder.is_dir() else None


def summary(judged: Sequence[tuple[Claim, list[Finding]]]) -> Grid:
    """A line a claim."""
    rows = []
    for claim, findings in judged:
        deciding = [f for f in findings if f.test.decides]
        effects = "; ".join(_effect(f) for f in deciding)
        rows.append([claim.id, claim.text, verdict_of(findings), effects])
    notes = [
        "Effects with 95 % intervals and where they start from, of the tests that decide; below, test by test."
    ]
    return Grid("Verdicts", ["", "claim", "verdict", "effect"], rows, notes, left=4)


def verdicts_csv(judged: Sequence[tuple[Claim, list[Finding]]]) -> str:
    """Every test in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = "claim test decides metric expect margin base effect low high units pairs worlds verdict of_claim command"
    writer.writerow(heads.split())
    for claim, findings in judged:
        for f in findings:
            e = f.effect
            figures = [f.start, e.mean, e.low, e.high, e.n] if e else ["", "", "", "", 0]
            test = [
                claim.id,
                csv_cell(f.test.text),
                int(f.test.decides),
                f.test.metric,
                f.test.expect,
                f.test.margin,
            ]
            last = [f.pairs, f.worlds, f.verdict, verdict_of(findings), f.command]
            writer.writerow([*test, *("" if v is None else v for v in figures), *last])
    return text.getvalue()


def details(judged: Sequence[tuple[Claim, list[Finding]]]) -> list[Grid]:
    """A grid a claim: every test with its effect, what is behind it, and the command."""
    grids = []
    for claim, findings in judged:
        rows = [
            [
                f.test.text + ("" if f.test.decides else " (beside)"),
                f"{f.test.metric}, {f.test.expect} by {f.test.margin:g}"
                if EXPECT[f.test.expect][1] > 0
                else f"{f.test.metric}, {f.test.expect} than {f.test.margin:g} off",
                _effect(f),
                _behind(f),
                f.verdict,
            ]
            for f in findings
        ]
        commands = list(dict.fromkeys(f.command for f in findings))
        notes = ["Runs: " + "; ".join(commands) + "."]
        commits = sorted({c for f in findings for c in f.commits})
        if commits:
            notes.append(f"Commits: {', '.join(commits)}.")
        for f in findings:
            if f.also:
                notes.append(f"{f.test.text}: the two also differ in {', '.join(f.also)}.")
        grids.append(
            Grid(
                f"{claim.id}: {claim.text}",
                ["test", "claimed", "effect", "behind it", "verdict"],
                rows,
                notes,
                left=5,
            )
        )
    return grids


def _effect(found: Finding) -> str:
    if found.effect is None or found.start is None:
        return GAP
    return f"{found.effect} from {found.start:.2f}"


def _behind(found: Finding) -> str:
    if found.effect is None:
        return found.why
    parts = ((found.pairs, "pair"), (found.effect.n, "unit"), (found.worlds, "world"))
    text = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in parts)
    return f"{text} ({found.why})" if found.why else text
