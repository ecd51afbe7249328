"""A sweep file: which jobs one question takes, and in which rounds they are run.

A file of `sweeps/` or an `experiment.yaml` of `experiments/`, in the same words:

    overrides: [...]              of every job
    sweep: {key: [values]}        crossed
    variants: [[...], [...]]      sets of overrides, each crossed with the sweep
    trials: {method: [[...]]}     tuning: candidates of each method, equally many for all
    rounds: [{sweep: {...}, keep: n}]   tuning: in each round all candidates left are run, and the best n stay
    tuned: sandbox                where what was chosen goes: conf/tuned/<tuned>/<method>.yaml
    command: diagnose             what every job runs (default: unlearn)
    profiles: {name: {...}}       an experiment's ways to run (`profiles`)

A plain grid may instead be written in the words of W&B (`wandb_file`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize.config.paths import share
from harmonize.errors import ConfigError, did_you_mean
from harmonize.reporting.published import load_yaml
from harmonize.sweeps.profiles import flattened
from harmonize.sweeps.wandb_file import in_wandb_words, translated

_KEYS = (
    "name",
    "description",
    "shows",
    "study",
    "command",
    "profile",
    "overrides",
    "sweep",
    "variants",
    "trials",
    "rounds",
    "tuned",
    "published",
    "claims",
    "spread",
    "effects",
    "columns",
    "labels",
    "needs",
    "notes",
)
COMMANDS = ("unlearn", "diagnose")


@dataclass(frozen=True)
class Job:
    """One run of a command: its overrides, and the candidate (method, number of the trial) that it tries, if any."""

    overrides: tuple[str, ...]
    method: str = ""
    trial: int = -1
    command: str = "unlearn"


@dataclass(frozen=True)
class Round:
    """One round of tuning: what every candidate left is run with, and how many of each method stay."""

    sweep: Mapping[str, Sequence[Any]]
    keep: int


@dataclass
class Sweep:
    """What a sweep file says.

    Attributes:
        name: Of the file.
        study: Folder of its runs.
        overrides: Of every job.
        grid: Key to the values that are crossed.
        variants: Sets of overrides, each crossed with the grid.
        trials: Method to its candidates, for tuning; empty otherwise.
        rounds: Of tuning; empty otherwise.
        tuned: Folder of `conf/tuned/` for what is chosen.
        command: That every job runs.
        profile: Of an experiment that has several; else empty.
    """

    name: str
    study: str
    overrides: list[str] = field(default_factory=list)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    variants: list[list[str]] = field(default_factory=list)
    trials: dict[str, list[list[str]]] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    tuned: str = ""
    command: str = "unlearn"
    profile: str = ""

    @property
    def tunes(self) -> bool:
        """Whether it chooses among candidates."""
        return bool(self.trials)

    def jobs(self, extra: Sequence[str] = ()) -> list[Job]:
        """All jobs of a plain sweep.

        Args:
            extra: Overrides of every job, in place of the file's own; several values (`seed=0,1`) are crossed.
        """
        swept, fixed = taken_apart(extra)
        return [
            Job((*chosen, *self._own([*self.overrides, *variant], extra), *fixed), command=self.command)
            for variant in self.variants or [[]]
            for chosen in _crossed({**_without(self.grid, extra), **swept})
        ]

    def round_jobs(
        self, number: int, left: Mapping[str, Sequence[int]], extra: Sequence[str] = ()
    ) -> list[Job]:
        """Jobs of one round of tuning.

        Args:
            number: Of the round, from 0.
            left: Method to the numbers of the trials that are still candidates.
            extra: As in `jobs`.
        """
        swept, fixed = taken_apart(extra)
        return [
            Job(
                (
                    f"method={method}",
                    *chosen,
                    *self._own([*self.overrides, *self.trials[method][trial]], extra),
                    *fixed,
                ),
                method,
                trial,
            )
            for method, trials in left.items()
            for trial in trials
            for chosen in _crossed({**_without({**self.grid, **self.rounds[number].sweep}, extra), **swept})
        ]

    @staticmethod
    def _own(own: Sequence[str], extra: Sequence[str]) -> list[str]:
        """The file's own overrides, less those that the user replaces."""
        given = {_key(text) for text in extra}
        return [text for text in own if _key(text) not in given]


def _key(text: str) -> str:
    return text.split("=", 1)[0].lstrip("+~")


def _without(grid: Mapping[str, Sequence[Any]], extra: Sequence[str]) -> dict[str, Sequence[Any]]:
    given = {_key(text) for text in extra}
    return {key: values for key, values in grid.items() if key not in given}


def _crossed(grid: Mapping[str, Sequence[Any]]) -> list[tuple[str, ...]]:
    return [
        tuple(f"{key}={value}" for key, value in zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    ]


def taken_apart(overrides: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Overrides with several values (`seed=0,1`) by key, and the others as they are."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    swept: dict[str, list[str]] = {}
    fixed = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            fixed.append(text)  # composing says what is wrong with it
            continue
        if override.is_sweep_override() and override.is_discrete_sweep():
            swept[override.get_key_element()] = list(override.sweep_string_iterator())
        else:
            fixed.append(text)
    return swept, fixed


def files() -> dict[str, Path]:
    """Every sweep and experiment by name; a sweep hides an experiment of its name."""
    found = {path.parent.name: path for path in sorted(share("experiments").glob("*/experiment.yaml"))}
    found |= {path.stem: path for path in sorted(share("sweeps").glob("*.yaml"))}
    return found


def load_sweep(name: str, profile: str | None = None) -> Sweep:
    """The sweep of that name, or of the file at that path.

    Args:
        name: Of a file of sweeps/ or a folder of experiments/, or a path.
        profile: Of an experiment that has several; None for its first.

    Raises:
        ConfigError: No such sweep or profile (the nearest is named), or a file that does not say what a sweep needs;
            all problems at once.
        RunError: The file cannot be read.
    """
    known = files()
    path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name)
    if path is None or not path.is_file():
        raise ConfigError(f"No sweep '{name}'. {did_you_mean(name, known)}")
    found = load_yaml(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected a mapping with sweep, variants or trials.")
    problems: list[str] = []
    plain = flattened(found, path, profile)
    if in_wandb_words(found):
        found, problems = translated(found, path)
    else:
        found = plain
    problems = problems or _problems(found, path)
    if problems:
        raise ConfigError(problems)
    title = path.parent.name if path.name == "experiment.yaml" else path.stem
    return Sweep(
        name=title,
        study=str(found.get("study", title)),
        overrides=[str(item) for item in found.get("overrides") or []],
        grid={str(k): list(v) for k, v in (found.get("sweep") or {}).items()},
        variants=[[str(item) for item in variant] for variant in found.get("variants") or []],
        trials={
            str(method): [[str(item) for item in trial] for trial in trials]
            for method, trials in (found.get("trials") or {}).items()
        },
        rounds=[Round(dict(r.get("sweep") or {}), int(r["keep"])) for r in found.get("rounds") or []],
        tuned=str(found.get("tuned", "")),
        command=str(found.get("command", "unlearn")),
        profile=str(found.get("profile", "")),
    )


def _problems(found: Mapping[str, Any], path: Path) -> list[str]:
    problems = [
        f"{path}: unknown key '{key}'. {did_you_mean(str(key), _KEYS)}" for key in found if key not in _KEYS
    ]
    if (command := str(found.get("command", "unlearn"))) not in COMMANDS:
        problems.append(f"{path}: command: unknown command '{command}'. {did_you_mean(command, COMMANDS)}")
    grids = [("sweep", found.get("sweep") or {})]
    rounds = found.get("rounds") or []
    if not isinstance(rounds, list):
        return [*problems, f"{path}: rounds must be a list of {{sweep, keep}}."]
    for i, part in enumerate(rounds):
        if not isinstance(part, Mapping) or not isinstance(part.get("keep"), int) or part["keep"] < 1:
            problems.append(f"{path}: rounds[{i}] needs keep, a whole number of at least 1.")
        else:
            grids.append((f"rounds[{i}].sweep", part.get("sweep") or {}))
    for at, grid in grids:
        if not isinstance(grid, Mapping) or not all(isinstance(v, list) and v for v in grid.values()):
            problems.append(f"{path}: {at} must map each key to a list of values.")
    trials = found.get("trials") or {}
    if not isinstance(trials, Mapping) or not all(
        isinstance(t, list) and t and all(isinstance(one, list) for one in t) for t in trials.values()
    ):
        problems.append(f"{path}: trials must map each method to a list of lists of overrides.")
    elif len(counts := {len(t) for t in trials.values()}) > 1:
        uneven = ", ".join(f"{method}: {len(t)}" for method, t in trials.items())
        problems.append(f"{path}: every method gets equally many trials, found {sorted(counts)} ({uneven}).")
    elif loose := [
        o for t in trials.values() for one in t for o in one if "." not in _key(str(o)) or str(o)[0] == "~"
    ]:
        problems.append(
            f"{path}: a trial sets values (group.key=value), so that what is chosen can be written down; found "
            f"{loose[0]}."
        )
    if bool(trials) != bool(rounds):
        problems.append(f"{path}: trials and rounds belong together; give both or neither.")
    return problems
