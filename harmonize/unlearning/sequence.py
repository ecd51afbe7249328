"""`harmonize sequence`: one deletion request after another, each run starting from the model of the last.

Every request is an ordinary run of `harmonize unlearn` in a folder of its own; what is done here stands around them:
whose turn it is, from which model, and what the model still knows of every request afterwards.
"""

from __future__ import annotations

import copy
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harmonize.console import say
from harmonize.data.corpus import content_hash
from harmonize.data.example import Role, Split
from harmonize.data.read import order_of, read_corpus
from harmonize.data.requests import in_turn, order_problems
from harmonize.errors import DataError, RunError
from harmonize.evaluation.answers import answer_metrics
from harmonize.evaluation.questions import ask, heldout_facts, used_facts
from harmonize.evaluation.sequence_summary import score_step, summaries
from harmonize.models.load import LoadedModel
from harmonize.reporting.sequence import print_sequence, write_sequence
from harmonize.tracking import environment
from harmonize.tracking.metric import Metrics
from harmonize.tracking.results import Results, read_results
from harmonize.tracking.run_folder import RunFolder
from harmonize.tracking.sequence import SEQUENCE, Measured, SequenceResults, Step, read_sequence
from harmonize.unlearning import run as unlearn
from harmonize.unlearning.figures import Evaluations
from harmonize.unlearning.setup import plain_config, prepare_process, same_configuration
from harmonize.unlearning.targets import load_target

FORGOTTEN = ("forget", "asr")
_ASKED = ("forget_", "asr_")
_KEPT = ("retain_", "neighbor_", "utility_")
_UNSAFE = re.compile(r"[^A-Za-z0-9.+_-]+")


def run(cfg: Any, folder: Path) -> dict[str, Any]:
    """Forgets the requests one by one, and measures all of them after each.

    Args:
        cfg: Checked configuration of `harmonize sequence`.
        folder: The sequence's folder; each request's run is a folder in it.

    Returns:
        The summaries' values by name.

    Raises:
        HarmonizeError: Anything a user can mend; finished requests are kept.
    """
    stale = _step_folders(folder) if cfg.overwrite else []
    place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
    with place.running():
        place.next = f"harmonize reproduce-paper-table --study {folder}"
        if cfg.resume and place.previous_state == "done" and (folder / SEQUENCE).is_file():
            say(f"{folder} is done already; nothing to resume.")
            record = read_sequence(folder)
            print_sequence(record)
        else:
            same_configuration(cfg, place)
            for path in stale:
                shutil.rmtree(path)
            place.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
            record = _Sequence(cfg, place).go()
            for path in write_sequence(record, folder):
                say(f"Wrote {path}")
        say(f"Sequence: {folder}")
        say(f"What its runs keep that is sensitive: harmonize purge {folder} --list")
        say(f"Next: {place.next}")
    return {s["name"]: s["value"] for s in record.summaries}


class _Sequence:
    """The requests of one sequence, in their order."""

    def __init__(self, cfg: Any, place: RunFolder) -> None:
        self.cfg, self.place = cfg, place
        prepare_process(cfg.trainer)
        self.corpus = read_corpus(cfg)
        self.order = order_of(cfg, self.corpus)
        if problems := order_problems(self.corpus, self.order):
            raise DataError(" ".join(problems))
        self.turns = {r: in_turn(self.corpus, r, self.order, cfg.sequence.earlier.value) for r in self.order}
        self.record = self._begun() or self._new()

    def go(self) -> SequenceResults:
        """Runs and measures what is not done yet."""
        self._write()
        model = str(self.cfg.model.name_or_path)
        for number, request in enumerate(self.order, 1):
            folder = self.place / step_folder(number, request)
            turn = turn_config(self.cfg, self.order, request, model)
            if self.cfg.resume and _finished(folder):
                same_configuration(turn, RunFolder(folder))
            else:
                _present(folder.parent, model, number)
                say(f"\n== Request {number} of {len(self.order)}: {request}")
                unlearn.run(turn, folder)
            model = str(folder / "model")
            if len(self.record.steps) <= number:
                self._measure(number, request, folder)
                self._write()
        self.record.summaries = summaries(self.record)
        self._write()
        print_sequence(self.record)
        return self.record

    def _measure(self, number: int, request: str, folder: Path) -> None:
        """What the model knows of all requests; before the first, also what the untouched model and gold know."""
        results = read_results(folder / "results.json")
        if number == 1:
            self.record.steps = [self._untouched(results)]
            self.record.gold = self._gold(results)
        say(f"Measuring all requests after {request} ...")
        began = time.perf_counter()
        _present(folder.parent, str(folder / "model"), number + 1)
        loaded = load_target(self.cfg, self.corpus, str(folder / "model"))
        found = Measured({}, {**_named(results.metrics, _KEPT), **self._retain_answers(loaded)})
        for r in self.order:
            asked = r in self.order[:number]
            if r == request:  # its own run has asked already
                found.requests[r] = _named(results.metrics, _ASKED)
            else:
                evaluations = Evaluations(self.cfg, self.turns[r])
                report = evaluations.run(loaded, self.cfg.split, axes=FORGOTTEN if asked else ("forget",))
                found.requests[r] = _named(report.metrics, _ASKED)
            if asked:
                found.requests[r] |= self._forget_answers(loaded, r)
        seconds = {
            "run": round(results.timing.get("total", 0.0), 3),
            "measure": round(time.perf_counter() - began, 3),
        }
        step = Step(number, request, folder.name, str(folder / "model"), found, seconds)
        score_step(step, self.order[:number], self.record.gold)
        self.record.steps.append(step)

    def _untouched(self, results: Results) -> Step:
        """Step 0, as far as possible from what the first run measured of its target."""
        name = str(self.cfg.model.name_or_path)
        loaded = load_target(self.cfg, self.corpus, None)
        target = results.target_metrics or {}
        found = Measured({self.order[0]: _named(target, _ASKED)}, _named(target, _KEPT))
        for r in self.order[1:]:
            found.requests[r] = self._cached(loaded, "target", r)
        return Step(0, None, None, name, found)

    def _gold(self, results: Results) -> Measured | None:
        """The same of a model that never saw any request."""
        name = self.cfg.model.gold
        if not name or results.gold_metrics is None:
            return None
        loaded = load_target(self.cfg, self.corpus, name)
        found = Measured({}, {**_named(results.gold_metrics, _KEPT), **self._retain_answers(loaded)})
        for r in self.order:
            found.requests[r] = self._cached(loaded, "gold model", r) | self._forget_answers(loaded, r)
        return found

    def _cached(self, loaded: LoadedModel, label: str, request: str) -> Metrics:
        """Figures of a model that all sequences of a study share."""
        evaluations = Evaluations(self.cfg, self.turns[request])
        figures = evaluations.cached(loaded, f"{label} on {request}", self.cfg.split, axes=FORGOTTEN)
        return _named(figures.metrics, _ASKED)

    def _forget_answers(self, loaded: LoadedModel, request: str) -> Metrics:
        """Of the facts that a request trains on."""
        return self._answers(loaded, used_facts(self.turns[request], "forget", self._limit()), False)

    def _retain_answers(self, loaded: LoadedModel) -> Metrics:
        """Of the held-out retain facts, or where there are none of those that are trained on."""
        limit = self._limit()
        facts = heldout_facts(self.corpus, "retain", self.cfg.split, limit)
        facts = facts or used_facts(self.corpus, "retain", limit)
        return self._answers(loaded, facts, True)

    def _answers(self, loaded: LoadedModel, facts: Sequence[Any], up: bool) -> Metrics:
        questions = ask(facts, self.cfg.split, loaded.renderer)
        return answer_metrics(loaded, questions, self.cfg.suite, higher_is_better=up, seed=self.cfg.seed)

    def _limit(self) -> int | None:
        """Facts of a role that are asked about at most, as in the suite."""
        suite = self.cfg.suite
        return suite.max_examples if self.cfg.split == Split.TEST else suite.val_max_examples  # type: ignore[no-any-return]

    def _begun(self) -> SequenceResults | None:
        """The record of the sequence that is resumed.

        Raises:
            RunError: It was started with other requests or other data.
        """
        if not self.cfg.resume or not (self.place / SEQUENCE).is_file():
            return None
        found = read_sequence(self.place.path)
        if found.order != list(self.order) or found.data != self._data():
            raise RunError(
                f"{self.place.path} was started with other data (its requests: {', '.join(found.order)}; now: "
                f"{', '.join(self.order)}). Bring that data back, or start anew with overwrite=true."
            )
        return found

    def _new(self) -> SequenceResults:
        counts = {r: {str(s): len(self.turns[r].select(Role.FORGET, s)) for s in Split} for r in self.order}
        return SequenceResults(
            order=list(self.order),
            earlier=self.cfg.sequence.earlier.value,
            config=plain_config(self.cfg),
            seed=self.cfg.seed,
            data=self._data(),
            requests=counts,
            notes=list(self.corpus.notes),
            git=environment.git_state(),
            versions=environment.versions(),
            hardware=environment.hardware(),
            path=self.place.path,
        )

    def _data(self) -> str:
        return content_hash(self.corpus.digest, [t.instructions for t in self.turns.values()])

    def _write(self) -> None:
        self.place.write_json(SEQUENCE, self.record.to_dict())


def turn_config(cfg: Any, order: Sequence[str], request: str, model: str) -> Any:
    """The configuration of one request's run: that of the sequence with the request and the model it starts from.

    The run can be repeated alone with it: `harmonize unlearn`, the same overrides, and these.
    """
    turn = copy.deepcopy(cfg)
    turn.sequence.order, turn.sequence.request = list(order), request
    turn.model.name_or_path = model
    return turn


def step_folder(number: int, request: str) -> str:
    """Name of a request's folder: its place in the order, and its id in safe characters."""
    return f"{number}_{_UNSAFE.sub('-', request).strip('-.')[:60]}".rstrip("_")


def _step_folders(folder: Path) -> list[Path]:
    """Folders of the runs of an earlier sequence in the same place."""
    try:
        steps = read_sequence(folder).order
    except RunError:
        return []
    named = [folder / step_folder(i, r) for i, r in enumerate(steps, 1)]
    return [path for path in named if (path / "status.json").is_file()]


def _finished(folder: Path) -> bool:
    return RunFolder(folder).read_status().get("state") == "done" and (folder / "results.json").is_file()


def _present(root: Path, model: str, number: int) -> None:
    """A model that an earlier request left must still be there.

    Raises:
        RunError: It was removed.
    """
    path = Path(model)
    if root in path.parents and not (path / "config.json").is_file():
        raise RunError(
            f"{path} is gone, and request {number} starts from it. Remove {path.parent} and resume, which runs that "
            "request again, or start anew with overwrite=true."
        )


def _named(metrics: Mapping[str, Any], beginnings: tuple[str, ...]) -> Metrics:
    return {name: m for name, m in metrics.items() if name.startswith(beginnings)}
