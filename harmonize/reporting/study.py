"""A study: the runs of a folder, grouped by method and by what else was varied, over seeds.

Standard library only: a thousand runs load in seconds.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize.config.instantiate import ABOUT
from harmonize.errors import RunError
from harmonize.reporting.escape import clean
from harmonize.tracking.results import RESULTS, STATUS, Results, read_json, read_results
from harmonize.tracking.run_folder import CHECKPOINTS, MODEL, WANDB
from harmonize.tracking.sequence import SEQUENCE

# Keys that tell runs of one and the same experiment apart; everything else that varies is part of what a row is.
SEED_KEYS = ("seed", "dataset.world_seed")
IGNORED = (
    "study",
    "job",
    "resume",
    "overwrite",
    "save_model",
    "allow",
    "cache",
    "paths",
    "logger",
    "hydra",
    "callbacks",
    "method.variants",
    "model.device",
    "suite.batch_size",
    "statistics",
    "teacher.batch_size",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_progress_bar",
    "trainer.num_threads",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every",
)
_SKIPPED_FOLDERS = {CHECKPOINTS, MODEL, WANDB, ".hydra", "report", ".git"}
_MISSING = "<missing>"

# What rows are called where the plain text of a change does not read well: key to {value: words}. `*` is any value,
# `<missing>` a node that is not there, no words leave the change out.
Labels = Mapping[str, Mapping[str, str]]


@dataclass
class StudyRun:
    """One run of a study with its flattened configuration."""

    path: Path
    results: Results
    flat: dict[str, str]
    modified: float

    @property
    def seeds(self) -> tuple[str, ...]:
        """The seed of the unlearning and of the world."""
        return tuple(self.flat.get(key, "") for key in SEED_KEYS)

    @property
    def method(self) -> str:
        """The method's name; the model's for a run that only evaluates."""
        if "method.name" in self.flat:
            return self.flat["method.name"]
        return f"evaluated: {Path(self.flat.get('model.name_or_path', '?')).name}"

    @property
    def setting(self) -> tuple[str, str]:
        """Data set and model: what must be equal for two runs to stand in one table."""
        return self.flat.get("dataset.name", "?"), self.flat.get("model.name_or_path", "?")

    @property
    def prefill(self) -> str:
        """Which prefilled views the run trained on: none, random or worst_of_n."""
        if "method.name" not in self.flat:
            return "–"
        mode = self.flat.get("dataset.prefill.mode", "none")
        share = self.flat.get("dataset.prefill.share", "1")
        return "none" if share in ("0", "0.0") else mode


@dataclass
class Group:
    """Runs that differ in nothing but seeds: one row of a table."""

    label: str
    method: str
    setting: tuple[str, str]
    runs: list[StudyRun]

    @property
    def prefill(self) -> str:
        """The views that these runs trained on."""
        return ", ".join(sorted({run.prefill for run in self.runs}))


@dataclass
class Study:
    """What `load_study` found.

    groups: Rows, ordered by setting and method.
    problems: (path, what is wrong) of everything that could not be used.
    notes: Sentences for the reader (runs that were replaced by newer ones, ...).
    """

    path: Path
    groups: list[Group] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def settings(self) -> list[tuple[str, str]]:
        """Every (data set, model) of the study, in order."""
        return list(dict.fromkeys(group.setting for group in self.groups))

    @property
    def runs(self) -> list[StudyRun]:
        """Every run that counts."""
        return [run for group in self.groups for run in group.runs]


def load_study(
    folder: str | Path,
    order: list[str] | None = None,
    keep: Callable[[StudyRun], bool] | None = None,
    labels: Labels | None = None,
) -> Study:
    """Reads every run below `folder`, at any depth.

    Foreign folders are passed over; runs that are corrupt, of another schema, failed, interrupted or still running
    are listed in `problems`, and the rest goes on. Sequences of requests are left out with a note: their runs are
    steps of one model, not repetitions of a setting.

    Args:
        folder: The study's folder.
        order: Method names in the order of the table; others follow by name.
        keep: Which runs count; the others are told in a note. None for all.
        labels: Words for what was varied.

    Raises:
        RunError: No such folder.
    """
    path = Path(folder)
    if not path.is_dir():
        raise RunError(f"{path}: no such study folder. Give one with --study <folder>.")
    study = Study(path)
    runs: list[StudyRun] = []
    for place in _run_folders(path):
        run = _read(place, study)
        if run is not None:
            runs.append(run)
    if keep:
        own = [run for run in runs if keep(run)]
        if len(own) < len(runs):
            study.notes.append(
                f"{len(runs) - len(own)} of {len(runs)} runs are of something else and left out."
            )
        runs = own
    by_row: dict[tuple[tuple[str, str], str], list[StudyRun]] = defaultdict(list)
    for run in runs:
        by_row[run.setting, run.method].append(run)
    rank = {name: i for i, name in enumerate(order or [])}
    for (setting, method), members in sorted(
        by_row.items(), key=lambda item: (item[0][0], rank.get(item[0][1], len(rank)), item[0][1])
    ):
        for label, same in _split(method, members, labels or {}):
            study.groups.append(Group(label, method, setting, _newest(label, same, study)))
    study.notes += _mixed_data(study.groups)
    return study


def _mixed_data(groups: list[Group]) -> list[str]:
    """Rows whose runs bear one name of a data set and were made of different data, as its digest tells."""
    notes = []
    for group in groups:
        found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for run in group.runs:
            if digest := run.results.extra.get("data"):
                found[run.seeds[1]][str(digest)[:8]].append(run.path.name)
        for kinds in found.values():
            if len(kinds) > 1:
                told = "; ".join(
                    f"{digest}: {clean(', '.join(names), 120)}" for digest, names in kinds.items()
                )
                notes.append(
                    f"{group.label}: runs of different data stand in this row, though they name it alike ({told}). "
                    "Move those that do not belong here out of the study's folder."
                )
    return notes


def _run_folders(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
        if SEQUENCE in files:
            folders.clear()
        if RESULTS in files or STATUS in files or SEQUENCE in files:
            yield Path(place)


def _read(place: Path, study: Study) -> StudyRun | None:
    if (place / SEQUENCE).is_file():
        study.notes.append(
            f"{place} is a sequence of requests: its runs are steps of one model and no rows of this table. "
            f"See it with: harmonize reproduce-paper-table --study {place}"
        )
        return None
    state, error = _status(place)
    if not (place / RESULTS).is_file():
        said = f"done, but {RESULTS} is missing" if state == "done" else state or "no results"
        study.problems.append((place, f"{said}{': ' + clean(error, 200) if error else ''}"))
        return None
    if state in ("running", "failed", "interrupted", "rejected"):
        # Its results, if any, are those of an earlier or a half run.
        study.problems.append(
            (place, f"{state}{': ' + clean(error, 200) if error else ''}; results left out")
        )
        return None
    try:
        results = read_results(place / RESULTS)
    except RunError as problem:
        study.problems.append((place, clean(str(problem).removeprefix(f"{place}{os.sep}"), 300)))
        return None
    if not results.metrics:
        study.problems.append((place, f"{results.command}: no metrics"))
        return None
    run = StudyRun(place, results, dict(flatten(results.config)), (place / RESULTS).stat().st_mtime)
    if run.setting == ("?", "?"):
        study.problems.append((place, "its configuration names neither a data set nor a model"))
        return None
    return run


def _status(place: Path) -> tuple[str | None, str | None]:
    if not (place / STATUS).is_file():
        return None, None
    try:
        found = read_json(place / STATUS)
    except RunError as problem:
        return None, str(problem)
    if not isinstance(found, dict):
        return None, f"{STATUS} is not an object"
    return str(found.get("state") or "") or None, found.get("error")


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of every leaf of a configuration."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, json.dumps(value)


def is_ignored(key: str, seeds: bool = True) -> bool:
    """Whether a configuration key says nothing of what a run computes; with `seeds`, nothing but which draw it is."""
    ignored = any(_below(key, name) for name in IGNORED)
    told = key.partition(".")[2] in ABOUT  # what an option says of itself
    drawn = key in SEED_KEYS or (key.startswith("method.") and key.endswith("_seed"))
    return ignored or told or (seeds and drawn)


def _split(method: str, runs: list[StudyRun], labels: Labels) -> list[tuple[str, list[StudyRun]]]:
    """Runs of one method by what was varied, each part with its label.

    Where words would give two parts one name, these keep the plain text of their changes.
    """
    values: dict[str, set[str]] = defaultdict(set)
    present: dict[str, int] = defaultdict(int)
    for run in runs:
        for key, value in run.flat.items():
            values[key].add(value)
            present[key] += 1
    varied = sorted(key for key, found in values.items() if len(found) > 1 and not is_ignored(key))
    partly = sorted(k for k, n in present.items() if n < len(runs) and not is_ignored(k))
    parts: dict[tuple[str, ...], list[StudyRun]] = defaultdict(list)
    for run in runs:
        parts[tuple(run.flat.get(key, _MISSING) for key in (*varied, *partly))].append(run)
    named = [_name(method, same[0].flat, varied, partly, labels) for same in parts.values()]
    labelled = []
    for words, same in zip(named, parts.values(), strict=True):
        alike = named.count(words) > 1
        told = _name(method, same[0].flat, varied, partly, {}) if alike else words
        labelled.append((clean(told, 120), same))
    # Two parts whose labels are equal when shortened are told apart by number.
    seen: dict[str, int] = defaultdict(int)
    unique = []
    for label, same in sorted(labelled, key=lambda item: item[0]):
        seen[label] += 1
        unique.append((label if seen[label] == 1 else f"{label} #{seen[label]}", same))
    return unique


def _name(method: str, flat: Mapping[str, str], varied: list[str], partly: list[str], labels: Labels) -> str:
    """A row's label: the method, its changes as text, then those that have words, in brackets."""
    changes, words = [method], []
    for key in varied:
        if key in flat:
            said = labels.get(key, {}).get(flat[key], labels.get(key, {}).get("*"))
            if said is None:
                changes.append(_change(key, flat[key]))
            else:
                words.append(said)
    for key in partly:
        if key not in flat:
            said = next((w[_MISSING] for k, w in labels.items() if _MISSING in w and _below(key, k)), None)
            if said is None:
                changes.append(f"~{_node(key)}")
            else:
                words.append(said)
    told = ", ".join(filter(None, dict.fromkeys(words)))
    return " ".join([*dict.fromkeys(changes), *([f"({told})"] if told else [])])


def _below(key: str, node: str) -> bool:
    return key == node or key.startswith(f"{node}.")


def _change(key: str, value: str) -> str:
    """A varied key in a row's label. Views are what most studies vary, so they are said in words that wrap."""
    if key == "dataset.prefill.mode":
        return "no prefill" if value == "none" else f"{value} prefill"
    return f"{_short(key)}={value}"


def _short(key: str) -> str:
    """The last two parts of a dotted key: enough to know what it is."""
    return ".".join(key.split(".")[-2:])


def _node(key: str) -> str:
    """What is missing when a key is: an objective as a whole, or the key."""
    parts = key.split(".")
    return parts[2] if parts[:2] == ["method", "objectives"] and len(parts) > 2 else _short(key)


def _newest(label: str, runs: list[StudyRun], study: Study) -> list[StudyRun]:
    """One run for each seed: the newest, so that a repeated run does not count twice."""
    by_seed: dict[tuple[str, ...], list[StudyRun]] = defaultdict(list)
    for run in runs:
        by_seed[run.seeds].append(run)
    kept = []
    for seeds, same in sorted(by_seed.items()):
        same.sort(key=lambda run: (run.modified, str(run.path)))
        kept.append(same[-1])
        if len(same) > 1:
            names = clean(", ".join(run.path.name for run in same), 200)
            data = {str(run.results.extra.get("data", ""))[:8] for run in same}
            differ = f"; they are of different data ({', '.join(sorted(data))})" if len(data) > 1 else ""
            study.notes.append(
                f"{label}: {len(same)} runs of seed {seeds[0]} ({names}){differ}; the newest one, "
                f"{clean(same[-1].path.name, 80)}, counts."
            )
    return kept


def latest_study(runs: str | Path) -> Path:
    """The study below `runs` with the newest result.

    Raises:
        RunError: There is none.
    """
    root = Path(runs)
    found = [
        (
            max((place / n).stat().st_mtime for n in (RESULTS, STATUS, SEQUENCE) if (place / n).is_file()),
            place,
        )
        for place in (_run_folders(root) if root.is_dir() else [])
    ]
    if not found:
        raise RunError(
            f"{root}: no runs found. Make some with: harmonize unlearn -m method=bidirectional,duet,grad_diff "
            "seed=0,1, or name a folder with --study <folder>."
        )
    place = max(found)[1]
    inside = place.relative_to(root).parts
    return root / inside[0] if inside else root
