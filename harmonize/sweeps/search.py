"""A search over several objectives on the optuna library: resumed from its storage, shared by processes.

Pruners are for one objective, so a run gives itself up: below the floor on utility (`trainer.floor_patience`) it ends
as `rejected`, its last figures on val count, and its shortfall is a constraint, which keeps it out of the front and
tells the sampler. A run above its floors has shortfall 0.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize.console import say
from harmonize.data.corpus import content_hash
from harmonize.errors import ConfigError, RunError, did_you_mean
from harmonize.evaluation.selection import kept_sum, select_score
from harmonize.sweeps.choose import judge
from harmonize.sweeps.space import space_of, written
from harmonize.tracking.locks import Presence, is_present, locked
from harmonize.tracking.results import RESULTS, read_results
from harmonize.tracking.run_folder import RunFolder

SAMPLERS = ("tpe", "nsgaii", "random")
DIRECTIONS = ("minimize", "maximize")
RECORD = "search.json"
REMOVED, KEPT = "removed", "kept"
_FOLDER = ".search"
_JOURNAL = "search.journal"
_STUDY = "harmonize"
_SPARED = 4  # one in so many trials may fail and be replaced

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[Path | None]]


@dataclass(frozen=True)
class Outcome:
    """What a trial's run folder says.

    Attributes:
        values: Of the objectives, in their order; None where the run failed or did not measure one.
        shortfall: How far below the floors; 0 within.
        rejected: Whether the run gave itself up.
        error: Why there are no values.
    """

    values: list[float] | None = None
    shortfall: float = 0.0
    rejected: bool = False
    error: str = ""


class Search:
    """One process of a search.

    Args:
        folder: Of the study.
        overrides: What is searched and what is fixed, as on the command line.
        objectives: Metric, `removed` or `kept` -> minimize or maximize.
        n_trials: Trials in all, over all processes, that end with figures. Another takes the place of one that failed,
            a quarter of `n_trials` at most; those that were lost with their process do not count.
        n_jobs: Trials that this process asks for at once.
        sampler: tpe, nsgaii or random.
        seed: Decides every suggestion, together with the trial's number and the trials before it.
        storage: Database address, or None for a journal file in the folder.

    Raises:
        ConfigError: A setting that is wrong, all problems at once; or optuna is not installed.
    """

    def __init__(
        self,
        folder: Path,
        overrides: Sequence[str],
        *,
        objectives: Mapping[str, str],
        n_trials: int = 40,
        n_jobs: int = 1,
        sampler: str = "tpe",
        seed: int = 0,
        storage: str | None = None,
    ) -> None:
        _installed()
        problems = [
            f"hydra.sweeper.{key}={value}: expected a whole number of at least 1. For example hydra.sweeper.{key}=1."
            for key, value in (("n_trials", n_trials), ("n_jobs", n_jobs))
            if value < 1
        ]
        if sampler not in SAMPLERS:
            problems.append(f"hydra.sweeper.sampler={sampler}: {did_you_mean(sampler, SAMPLERS)}")
        problems += [
            f"hydra.sweeper.objectives.{name}={direction}: {did_you_mean(str(direction), DIRECTIONS)}"
            for name, direction in objectives.items()
            if direction not in DIRECTIONS
        ]
        if not objectives:
            problems.append(
                "hydra.sweeper.objectives is empty. For example 'hydra.sweeper.objectives={removed: minimize}'."
            )
        if problems:
            raise ConfigError(problems)
        self.folder, self.objectives = folder, {str(k): str(v) for k, v in objectives.items()}
        self.space, self.fixed = space_of(overrides)
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.sampler, self.seed, self.storage = sampler, seed, storage

    def run(self, launch: Launch) -> list[dict[str, Any]]:
        """Asks, launches and tells until there are enough trials; returns the front.

        Args:
            launch: Runs jobs, given their overrides and the number of the first; returns the folder of each, or None
                where a job was lost.

        Raises:
            RunError: The folder holds a search for something else.
        """
        with _quiet():
            study = self._open()
            presence = Presence(self.folder / _FOLDER)
            try:
                while trials := self._ask(study, presence.name):
                    batch = [[*self.fixed, *written(t.params), "resume=true"] for t in trials]
                    for trial, folder in zip(trials, launch(batch, trials[0].number), strict=True):
                        self._tell(study, trial, folder)
                    self._record(study)
            finally:
                presence.leave()
            return self._close(study)

    def _open(self) -> Any:
        """The study in its storage, made if there is none.

        Raises:
            RunError: It searches something else, or the storage cannot be read.
        """
        import optuna

        place = self.folder / _FOLDER
        with locked(place / "lock"):
            try:
                study = optuna.create_study(
                    storage=self._storage(),
                    study_name=_STUDY,
                    directions=[str(d) for d in self.objectives.values()],  # type: ignore[misc]
                    sampler=per_trial(self.sampler, self.seed),
                    load_if_exists=True,
                )
            except Exception as error:  # a database's own errors are many
                raise RunError(
                    f"{self.storage or self.folder / _JOURNAL}: the search's storage cannot be read ({error}). Choose "
                    "another study=<name> or hydra.sweeper.storage=<address>."
                ) from error
            asked = content_hash(
                self.objectives, sorted((k, repr(v)) for k, v in self.space.items()), sorted(self.fixed)
            )
            before = study.user_attrs.get("asked")
            if before is None:
                study.set_user_attr("asked", asked)
            elif before != asked:
                raise RunError(
                    f"{self.folder} holds a search with other objectives, another space or other overrides. Choose "
                    "another study=<name>, or repeat what it was started with to go on."
                )
        return study

    def _storage(self) -> Any:
        if self.storage:
            return self.storage
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        return JournalStorage(JournalFileBackend(str(self.folder / _JOURNAL)))

    def _ask(self, study: Any, me: str) -> list[Any]:
        """Trials for this process to run now; none where there are enough."""
        from optuna.trial import TrialState

        with locked(self.folder / _FOLDER / "lock"):
            self._take_over(study)
            begun = [t for t in _own(study) if t.state != TrialState.WAITING]
            spared = max(1, self.n_trials // _SPARED)  # further trials in place of failed ones
            missing = min(
                self.n_trials - len(begun) + len(_failed(study)), self.n_trials + spared - len(begun)
            )
            trials = []
            for _ in range(min(self.n_jobs, missing)):
                trial = study.ask(self.space)
                trial.set_user_attr("worker", me)
                trials.append(trial)
        return trials

    def _take_over(self, study: Any) -> None:
        """Trials whose process is gone are asked again, with the same values, so that their runs are resumed."""
        from optuna.trial import TrialState

        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not is_present(self.folder / _FOLDER, str(trial.user_attrs.get("worker", ""))):
                study.enqueue_trial(trial.params)
                study._storage.set_trial_user_attr(trial._trial_id, "lost", True)
                study.tell(trial.number, state=TrialState.FAIL)

    def _tell(self, study: Any, trial: Any, folder: Path | None) -> None:
        from optuna.trial import TrialState

        found = outcome(folder, self.objectives) if folder else Outcome(error="the job was lost")
        name = folder.name if folder else "-"
        trial.set_user_attr("folder", name)
        trial.set_user_attr("rejected", found.rejected)
        if found.values is None:
            trial.set_user_attr("error", found.error)
            study.tell(trial, state=TrialState.FAIL)
            said = f"failed: {found.error}"
        else:
            trial.set_constraint("floors", found.shortfall)
            study.tell(trial, found.values)
            said = _figures(self.objectives, found.values) + (", rejected" if found.rejected else "")
        say(f"[{trial.number + 1}/{self.n_trials}] {name}: {said}")

    def _front(self, study: Any) -> list[Any]:
        return sorted(study.best_trials, key=lambda t: t.values)

    def _record(self, study: Any) -> list[dict[str, Any]]:
        """Writes every trial as plain data; returns the front."""
        front = {t.number for t in self._front(study)}
        trials = [
            {
                "number": t.number,
                "state": t.state.name.lower(),
                "overrides": written(t.params),
                "values": dict(zip(self.objectives, t.values, strict=True)) if t.values else None,
                "shortfall": sum(t.constraints.values()) if t.values else None,
                "rejected": bool(t.user_attrs.get("rejected")),
                "folder": t.user_attrs.get("folder"),
                **({"error": t.user_attrs["error"]} if "error" in t.user_attrs else {}),
                "front": t.number in front,
            }
            for t in _own(study)
        ]
        RunFolder(self.folder, command="").write_json(
            RECORD, {"objectives": self.objectives, "trials": trials}
        )
        return [t for t in trials if t["front"]]

    def _close(self, study: Any) -> list[dict[str, Any]]:
        front = self._record(study)
        failed = _failed(study)
        done = len(_own(study)) - len(failed)
        say(f"Front of {self.folder}: {len(front)} of {done} trials, within their floors and unsurpassed.")
        if failed:
            say(
                f"{len(failed)} further trial{'s' * (len(failed) > 1)} failed ({RECORD} names them), the last one: "
                f"{failed[-1].user_attrs.get('error', 'it was lost')}"
            )
        if done < self.n_trials:
            say(
                f"{done} of {self.n_trials} trials have figures, and no more are tried in place of failed ones. Mend "
                "the cause and raise hydra.sweeper.n_trials to go on, or choose another study=<name>."
            )
        for trial in sorted(front, key=lambda t: list(t["values"].values())):
            say(
                f"  {_figures(self.objectives, list(trial['values'].values()))}  {' '.join(trial['overrides'])}"
            )
        say(f"Wrote {self.folder / RECORD}")
        if any(t.state.name == "COMPLETE" for t in study.get_trials(deepcopy=False)):
            say(f"Next: harmonize reproduce-paper-table --study {self.folder}")
        return front


def _own(study: Any) -> list[Any]:
    """All trials but those that were lost with their process."""
    return [t for t in study.get_trials(deepcopy=False) if not t.user_attrs.get("lost")]


def _failed(study: Any) -> list[Any]:
    return [t for t in _own(study) if t.state.name == "FAIL"]


def outcome(folder: Path, objectives: Mapping[str, str]) -> Outcome:
    """What a run folder says of its trial."""
    status = RunFolder(folder, command="").read_status()
    found: Any = status.get("found")
    if status.get("state") == "rejected" and isinstance(found, Mapping):
        figures = {k: float(v) for k, v in found.items() if v is not None}
        short, rejected = figures.pop("shortfall", 0.0), True
    else:
        try:
            results = read_results(folder / RESULTS)
        except RunError as error:
            return Outcome(error=str(status.get("error") or error).splitlines()[0])
        figures = {k: m.value for k, m in results.metrics.items() if m.value is not None}
        short, rejected = judge(0, [results]).shortfall, False
    values = [_value(figures, name) for name in objectives]
    missing = [name for name, value in zip(objectives, values, strict=True) if value is None]
    if missing:
        return Outcome(
            error=f"{missing[0]} was not measured. {did_you_mean(missing[0], [*figures, REMOVED, KEPT])}"
        )
    return Outcome([float(v) for v in values if v is not None], short, rejected)


def _value(figures: Mapping[str, float], name: str) -> float | None:
    if name == REMOVED:
        score = select_score(figures, {}, 0.0, 0.0)[1]
        return score if score < float("inf") else None
    if name == KEPT:
        return kept_sum(figures)
    return figures.get(name)


def _figures(objectives: Mapping[str, str], values: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in zip(objectives, values, strict=True))


def _installed() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "hydra/sweeper=optuna needs optuna. Install it: pip install 'harmonize[optuna]'."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own lines beside ours say the same twice."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def per_trial(kind: str, seed: int) -> Any:
    """A sampler whose draws depend on (seed, trial number) and the trials so far, so that a search can be resumed."""
    from optuna import samplers

    kinds = {"tpe": samplers.TPESampler, "nsgaii": samplers.NSGAIISampler, "random": samplers.RandomSampler}

    class Sampler(samplers.BaseSampler):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inner = kinds[kind](seed=seed)

        def before_trial(self, study: Any, trial: Any) -> None:
            self.inner = kinds[kind](seed=int(content_hash(seed, "trial", trial.number)[:8], 16))
            self.inner.before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self.inner.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self.inner.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return self.inner.sample_independent(study, trial, name, distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            self.inner.after_trial(study, trial, state, values)

    return Sampler()
