"""An experiment of `experiments/`, as one of its profiles reads it, and which study is whose."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harmonize.config.paths import share
from harmonize.errors import ConfigError, RunError, did_you_mean
from harmonize.reporting.columns import Column
from harmonize.reporting.published import Published, load_published, load_yaml
from harmonize.reporting.study import SEED_KEYS
from harmonize.sweeps.plan import Job, load_sweep
from harmonize.sweeps.profiles import flattened
from harmonize.sweeps.profiles import names as profile_names
from harmonize.tracking.direction import Direction
from harmonize.tracking.files import write_text
from harmonize.tracking.results import read_json

FILE = "experiment.yaml"
RECORD = "experiment.json"


@dataclass(frozen=True)
class Experiment:
    """What to run, what was published, and how the table looks.

    Attributes:
        name: Folder of experiments/. profile: Which; empty where there is but one way to run it.
        study: Name of its study. command: That its jobs run.
        overrides: The user's own, of every job.
        jobs: All that belong to it.
        published: Figures of others.
        found: The file, as the profile reads it.
    """

    name: str
    profile: str = ""
    study: str = ""
    command: str = "unlearn"
    overrides: tuple[str, ...] = ()
    jobs: tuple[Job, ...] = ()
    published: tuple[Published, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """Methods in the order of the file."""
        named = [str(m) for m in (self.found.get("sweep") or {}).get("method", [])]
        variants = [o for v in self.found.get("variants") or [] for o in v]
        return list(dict.fromkeys(named + [o.split("=", 1)[1] for o in variants if o.startswith("method=")]))

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of its own, which stand before those that every table has."""
        return tuple(
            Column(str(c["metric"]), str(c["header"]), str(c["header"]), Direction.named(c["better"]))
            for c in self.found.get("columns") or []
        )

    @property
    def labels(self) -> dict[str, dict[str, str]]:
        """Words for what its rows vary: key to {value: words}."""
        found = self.found.get("labels") or {}
        return {str(k): {_as_text(v): str(w or "") for v, w in words.items()} for k, words in found.items()}

    def typed(self, *more: str) -> str:
        """The command that shows it, with further arguments, and the user's overrides where it runs."""
        given = ["reproduce-paper-table", "--experiment", self.name]
        if self.profile:
            given += ["--profile", self.profile]
        return " ".join([*given, *more, *(map(shlex.quote, self.overrides) if "--run" in more else ())])


def experiments() -> dict[str, Path]:
    """Every experiment by name."""
    return {path.parent.name: path for path in sorted(share("experiments").glob(f"*/{FILE}"))}


def load_experiment(name: str, profile: str | None = None, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment as a profile reads it (None: its first).

    Raises:
        ConfigError: No such experiment or profile (the nearest is named), or a malformed one.
        RunError: A file of it cannot be read.
    """
    known = experiments()
    if name not in known:
        raise ConfigError(f"No experiment '{name}'. {did_you_mean(name, known)}")
    path = known[name]
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a mapping with a 'sweep'.")
    found = flattened(content, path, profile)
    sweep = load_sweep(str(path), profile)
    published = path.parent / str(found.get("published", "published.yaml"))
    experiment = Experiment(
        name,
        sweep.profile,
        sweep.study,
        sweep.command,
        tuple(overrides),
        tuple(sweep.jobs(overrides)),
        tuple(load_published(published)) if published.is_file() else (),
        found,
    )
    _check(experiment, path)
    return experiment


def _check(experiment: Experiment, path: Path) -> None:
    for i, column in enumerate(experiment.found.get("columns") or []):
        if not isinstance(column, Mapping) or not {"metric", "header"} <= set(column):
            raise ConfigError(
                f"{path}: columns[{i}] needs metric, header and better (higher, lower or the best value)."
            )
    for place in ("columns", "claims"):
        for i, entry in enumerate(experiment.found.get(place) or []):
            try:
                Direction.named(entry.get("better"))
            except ValueError as error:
                raise ConfigError(f"{path}: {place}[{i}].better: {error}.") from error
    labels = experiment.found.get("labels") or {}
    if not isinstance(labels, Mapping) or not all(isinstance(words, Mapping) for words in labels.values()):
        raise ConfigError(
            f"{path}: labels map a key to {{value: words}}. For example labels: {{optimizer.lr: {{0.001: fast}}}}."
        )


def _as_text(value: Any) -> str:
    """A value as `flatten` writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def write_record(study: Path, name: str, profile: str, overrides: Sequence[str]) -> None:
    """Notes in a study's folder which experiment its runs are of.

    Further seeds of the same runs stand beside those noted before; runs with other overrides take their place.

    Raises:
        RunError: The folder cannot be written.
    """
    own = {"name": name, "profile": profile, "overrides": list(overrides)}
    others = [
        entry
        for entry in _record(study)
        if (entry["name"], entry["profile"]) != (name, profile) or (entry != own and _seeds_apart(entry, own))
    ]
    write_text(study / RECORD, json.dumps({"experiments": [*others, own]}, indent=2) + "\n")


def _seeds_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two notes are of the same runs but for their seeds."""
    plain = [
        sorted(o for o in map(str, entry["overrides"]) if o.partition("=")[0] not in SEED_KEYS)
        for entry in (one, other)
    ]
    return plain[0] == plain[1]


def _record(study: Path) -> list[dict[str, Any]]:
    try:
        found = read_json(study / RECORD) if (study / RECORD).is_file() else {}
    except RunError:
        return []  # a convenience: a broken one is none
    entries = found.get("experiments") if isinstance(found, dict) else None
    return [
        {
            "name": str(e["name"]),
            "profile": str(e.get("profile") or ""),
            "overrides": e.get("overrides") or [],
        }
        for e in (entries if isinstance(entries, list) else [])
        if isinstance(e, dict) and "name" in e
    ]


def experiment_of(study: Path, name: str | None = None, profile: str | None = None) -> Experiment | None:
    """The experiment that a study is of: by what is noted in its folder, else by its name. None if neither tells.

    Args:
        study: Folder of the study.
        name, profile: Only an experiment of this name, and this profile of it.
    """
    known = experiments()
    noted = _record(study)
    for entry in reversed(noted):
        if entry["name"] in known and name in (None, entry["name"]) and profile in (None, entry["profile"]):
            place = (entry["name"], entry["profile"])
            same = [e["overrides"] for e in noted if (e["name"], e["profile"]) == place]
            loaded = [load_experiment(entry["name"], entry["profile"] or None, given) for given in same]
            return replace(loaded[-1], jobs=tuple(dict.fromkeys(job for e in loaded for job in e.jobs)))
    for found in [name] if name else known:
        content = load_yaml(known[found])
        if "runs_of" in content and name is None:
            continue  # a figure of another's runs
        each: str | None
        for each in profile_names_of(found) or [None]:  # type: ignore[list-item]
            if profile in (None, each):
                experiment = load_experiment(found, each)
                if name or experiment.study == study.name:
                    return experiment
    return None


def profile_names_of(name: str) -> list[str]:
    """Profiles of an experiment, the default first; those of the one whose runs it shows."""
    content = load_yaml(experiments()[name])
    other = content.get("runs_of")
    return profile_names(content) or (profile_names_of(str(other)) if other else [])
