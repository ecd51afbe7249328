"""`harmonize unlearn`: what happens in which order, from configuration to results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf

from harmonize.config.suite_checks import VAL_AXES
from harmonize.console import say, warn
from harmonize.data.corpus import Corpus, digests
from harmonize.data.responses import check_responses
from harmonize.errors import DataError, Rejected
from harmonize.evaluation.beside import GOLD, TARGET
from harmonize.evaluation.proof import proof_notes
from harmonize.evaluation.stability import stability
from harmonize.guards.guard import Guarded
from harmonize.guards.saved import save_guard, secret_files, warn_of_guard
from harmonize.models.load import LoadedModel
from harmonize.models.lora import adapted_layers, adapters_off
from harmonize.models.save import export
from harmonize.objectives.weights import Weights
from harmonize.reporting.card import model_card
from harmonize.reporting.layer_curves import RESULT, write_curves
from harmonize.reporting.one_run import run_table
from harmonize.tracking.loggers import build_tracker
from harmonize.tracking.results import Results, build_results
from harmonize.tracking.run_folder import RunFolder
from harmonize.unlearning import launch, ranks
from harmonize.unlearning.adapters import adapt, measure_for
from harmonize.unlearning.callbacks import restore
from harmonize.unlearning.figures import Evaluations, Figures, curves_beside, raise_failures
from harmonize.unlearning.finish import build_finish
from harmonize.unlearning.fit import resumed_step
from harmonize.unlearning.follow import follow
from harmonize.unlearning.forward import named_blocks
from harmonize.unlearning.gold import gold_figures
from harmonize.unlearning.guarding import Guarding, guard_notes
from harmonize.unlearning.setup import (
    SHARDED,
    load_corpus,
    plain_config,
    prepare_process,
    same_configuration,
)
from harmonize.unlearning.sharded import FSDP2, TRAINED, is_sharded
from harmonize.unlearning.targets import load_target
from harmonize.unlearning.teaching import instruction_of, needs_teacher
from harmonize.unlearning.terms import build_terms, weight_figures
from harmonize.unlearning.together import divide, together
from harmonize.unlearning.training import Parts, build_parts, build_sampler, train

UNLEARNING = (
    "statistics",
    "teacher",
    "train",
    "finish",
)  # stages that are the method's own work, apart from loading and measuring


def run(cfg: Any, folder: Path) -> dict[str, Any]:
    """One run: unlearn, evaluate, write the folder.

    Args:
        cfg: Checked configuration of `harmonize unlearn`.
        folder: The run folder.

    Returns:
        Metric values by name.

    Raises:
        HarmonizeError: Anything a user can mend; the folder's status says so too.
    """
    if launch.needed(cfg):
        return launch.run_ranks(cfg, folder)
    ranks.join(cuda=torch.cuda.is_available() and cfg.trainer.accelerator != "cpu")
    if not ranks.is_first():
        return follow(cfg, folder)
    place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
    before = place.read_status()
    with place.running():
        same_configuration(cfg, place)
        if before.get("state") == "rejected" and before.get("found"):  # given up before, and would be again
            raise Rejected(str(before.get("error")), before["found"])
        if cfg.resume and place.results.exists() and place.previous_state == "done":
            say(f"{folder} is done already; nothing to resume.")
            from harmonize.tracking.results import read_run

            ranks.of_first(False)
            return {k: m.value for k, m in read_run(folder).results.metrics.items()}
        place.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        ranks.of_first(True)
        return _Run(cfg, place).go()


@dataclass(frozen=True)
class _Beside:
    """Figures of the models that the result is read against."""

    target: Figures
    target_val: Figures
    teacher: Figures | None
    gold: Figures | None


class _Run:
    """The parts of one run, in the order they are needed."""

    def __init__(self, cfg: Any, place: RunFolder) -> None:
        self.cfg, self.place = cfg, place
        self.timing: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.finished: dict[str, Any] = {}
        self.weights: Weights | None = None
        self.began = time.perf_counter()
        self.began_cpu = time.process_time()

    def go(self) -> dict[str, Any]:
        cfg = self.cfg
        prepare_process(cfg.trainer)
        torch.manual_seed(cfg.seed)
        self.corpus = corpus = load_corpus(cfg)
        roles = list(cfg.method.response)
        _check_roles(cfg, corpus, roles)
        self.terms = build_terms(cfg.method.objectives, cfg.allow)
        # data that it cannot use stop the run here
        sampler = build_sampler(cfg, corpus, roles) if self.terms else None
        check_responses(corpus, cfg.method.response)
        self.guarding = Guarding(cfg, corpus)
        self.evaluations = Evaluations(cfg, corpus)
        warn_of_guard(cfg.model.name_or_path)
        with self._timed("load"):
            # adapters come later: the references are figures of the model as it is
            loaded = load_target(cfg, corpus, None, {"load_in_4bit": cfg.peft.load_in_4bit})
            start_digest = self.finished["start_model"] = loaded.digest
            named_blocks(loaded.model, self.terms)  # a layer that does not exist stops the run here
            if self.terms:
                adapted_layers(loaded.model, cfg.peft)  # and so does a target
            finish = build_finish(cfg, corpus, loaded, bool(self.terms), self.place.record_sensitive)
        beside = None if cfg.model.device == SHARDED else self._measure_beside(loaded)
        if finish is not None:
            with self._timed("statistics"):
                finish.prepare()
        with self._timed("adapters"):
            student = self.guarding.student(loaded)
            if student is loaded:  # no assistant in its place
                measure = measure_for(cfg, loaded, corpus, self.place.record_sensitive)
                peft = cfg.peft if self.terms else None
                loaded.model, self.weights = adapt(
                    loaded.model, peft, self.terms, measure, cfg.seed, cfg.allow
                )
        if cfg.trainer.strategy == FSDP2:
            with self._timed("shard"):
                ranks.wait()  # the others load a form without weights
                divide(cfg, loaded)
        beside = beside or self._measure_beside(loaded)
        with self._timed("teacher"):
            parts = build_parts(
                cfg,
                corpus,
                self.terms,
                loaded,
                student,
                start_digest,
                sampler,
                self.weights,
                self.place.record_sensitive,
            )
            if not is_sharded(loaded.model):
                ranks.wait()  # the others find the caches now
        self.config = plain_config(cfg)
        step = resumed_step(self.place.checkpoints, cfg.resume)
        tracker = build_tracker(self.config, self.place.path, job_type="unlearn", resume_step=step)
        try:
            with self._timed("train"):
                selection = self._train(parts, loaded, beside.target_val, tracker.log)
            if finish is not None:
                with self._timed("finish"):
                    self.finished = finish()
            with self._timed("evaluate"):
                model = self.guarding.around(loaded, keep=True)
                self.notes += guard_notes(model)
                with together(loaded.model):
                    report = self.evaluations.run(model, self.cfg.split, axes=self._axes)
                self.finished["attack_costs"] = report.costs
                self.finished["prior_strength"] = self.evaluations.by_prior(report, self.priors)
            report.write_samples(self.place.samples)
            figures = Figures.of(report)
            results = self._results(figures, beside, selection, parts)
            if cfg.save_model:
                self._export(loaded, model, results)
            self.place.write_json("results.json", results.to_dict())
            drawn = write_curves(results, self.place.path)
            tracker.summary(figures.metrics)
        finally:
            lines = tracker.close()
        self._close(results, [*(f"Wrote {path}" for path in drawn), *lines])
        raise_failures(report)
        return figures.values()

    @property
    def _axes(self) -> tuple[str, ...] | None:
        """What the report measures: everything on test, on val what choosing looks at."""
        return None if self.cfg.split == "test" else VAL_AXES

    def _measure_beside(self, loaded: LoadedModel) -> _Beside:
        """Figures of the start model and of what stands beside it; adapters, if there are any yet, are off."""
        with self._timed("references"), together(loaded.model), adapters_off(loaded.model):
            beside = self._beside(loaded)
            self.priors = self.evaluations.priors(loaded, self.cfg.split)
            return beside

    def _beside(self, loaded: LoadedModel) -> _Beside:
        cfg, corpus = self.cfg, self.corpus
        start = {"load_in_4bit": cfg.peft.load_in_4bit}
        self.evaluations.stand_beside(TARGET, loaded.digest, lambda: load_target(cfg, corpus, None, start))
        gold = gold_figures(cfg, corpus, self.evaluations, loaded, self._axes)
        self.evaluations.refer_to(gold)
        target = self.evaluations.cached(loaded, "target", self.cfg.split, axes=self._axes)
        target_val = self.evaluations.cached(loaded, "target", split="val", axes=VAL_AXES)
        teacher = self._teacher_figures(loaded)
        return _Beside(target, target_val, teacher, gold)

    def _train(self, parts: Parts, loaded: LoadedModel, target_val: Figures, log: Any) -> dict[str, Any]:
        """Trains, goes back to the best state, and says what was chosen."""
        if not parts.terms:
            return {"rule": "nothing was trained", "best_step": None, "steps": 0, "looks": []}

        def look() -> dict[str, float]:
            model = self.guarding.around(loaded)  # what would be exported if training ended here
            report = self.evaluations.run(model, split="val", axes=VAL_AXES, progress=False)
            return report.values()  # type: ignore[no-any-return]

        def probe(questions: int, axes: Sequence[str]) -> dict[str, float]:
            return self.evaluations.probe(self.guarding.around(loaded), questions, axes)

        before = target_val.values()
        module, looks, steps = train(self.cfg, parts, look, before, self.place.checkpoints, log, probe)
        if module.sharded and self.cfg.model.device != SHARDED:
            self._read_back(loaded)
        if looks.best_ok and looks.path is not None and looks.path.exists() and looks.best_step < steps:
            restore(module, looks.path)
            say(f"Kept the state of step {looks.best_step}, the best on val.")
        if self.cfg.trainer.val_check_interval and not looks.best_ok:
            self.notes.append("No state met the floors on val; the last one was kept.")
        return {
            "rule": "lowest forget + ASR on val, among states above the floors on neighbor and utility",
            "best_step": looks.best_step if looks.best_ok else None,
            "steps": steps,
            "looks": looks.history,
            "stability": stability(looks.history, before, window=max(1, self.cfg.trainer.val_check_interval)),
        }

    def _read_back(self, loaded: LoadedModel) -> None:
        """An ordinary model in the place of the shares, with what was trained."""
        cfg, path = self.cfg, self.place.checkpoints / TRAINED
        fresh = load_target(cfg, self.corpus, None, {"load_in_4bit": cfg.peft.load_in_4bit})
        measure = measure_for(cfg, fresh, self.corpus, self.place.record_sensitive)
        loaded.model, self.weights = adapt(fresh.model, cfg.peft, self.terms, measure, cfg.seed, cfg.allow)
        restore(SimpleNamespace(student=loaded.model), path)
        path.unlink()

    def _export(self, loaded: LoadedModel, model: Any, results: Results) -> None:
        """The model folder, with the guard that stands around it."""
        if is_sharded(loaded.model):
            self._read_back(loaded)
        guard = model if isinstance(model, Guarded) else None
        save = None if guard is None else lambda folder: save_guard(guard, folder)
        card = model_card(results, type(guard.guard) if guard else None)
        export(loaded, self.place.model, card, merge=self.cfg.peft.merge, guard=save)
        for path in secret_files(self.place.model):
            self.place.record_sensitive(path)

    def _results(self, figures: Figures, beside: _Beside, selection: dict[str, Any], parts: Parts) -> Results:
        self.notes += proof_notes(figures.metrics, beside.target.metrics if beside.target else None)
        # one process among others is fairly timed by its own CPU seconds, a GPU's work by the clock
        stages = self.timing if parts.loaded.model.device.type == "cuda" else self.cpu
        self.timing["unlearning"] = sum(stages.get(name, 0.0) for name in UNLEARNING)
        self.timing["total"] = time.perf_counter() - self.began
        self.timing["cpu"] = time.process_time() - self.began_cpu
        frozen = [f for f in (parts.teacher, parts.reference) if f]
        return build_results(
            config=self.config,
            seed=self.cfg.seed,
            timing=self.timing,
            metrics=figures.metrics,
            target_metrics=beside.target.metrics,
            teacher_metrics=beside.teacher.metrics if beside.teacher else {},
            gold_metrics=beside.gold.metrics if beside.gold else {},
            outcomes=figures.outcomes,
            notes=[*self.corpus.notes, *self.warnings, *figures.notes, *self.notes, *parts.notes],
            selection=selection,
            teacher_forwards=sum(f.forwards for f in frozen),
            teacher_missing_share=parts.teacher.missing_share if parts.teacher else 0.0,
            **self.finished,
            data=self.corpus.digest,
            data_parts=digests(self.corpus),
            callbacks=parts.found,
            terms=weight_figures(self.terms, parts.weights),
            **self.evaluations.record(figures),
            **curves_beside({RESULT: figures, TARGET: beside.target, GOLD: beside.gold}),
        )

    def _teacher_figures(self, loaded: LoadedModel) -> Figures | None:
        """The instructed teacher on the five axes, and a warning if it leaks or over-refuses."""
        cfg, corpus, evaluations = self.cfg, self.corpus, self.evaluations
        if not cfg.teacher.report or not (corpus.instructions or cfg.teacher.instruction):
            return None
        instruction = instruction_of(cfg, corpus)
        figures = evaluations.cached(
            loaded, "instructed teacher", cfg.split, instruction=instruction, axes=VAL_AXES
        )
        if needs_teacher(cfg, self.terms):
            # judged on val: a reworded instruction is a choice, and test chooses nothing
            seen = evaluations.cached(
                loaded,
                "instructed teacher",
                split="val",
                instruction=instruction,
                axes=("forget", "retain", "neighbor"),
            ).values()
            self.warnings = teacher_warnings(seen, cfg.teacher.leak_limit, cfg.teacher.overrefusal_limit)
            for text in self.warnings:
                warn(text)
        return figures

    def _close(self, results: Any, lines: list[str]) -> None:
        run_table(results)
        folder = self.place.path
        self.place.next = f"harmonize reproduce-paper-table --study {folder.parent}"
        say(f"Run: {folder}")
        if self.cfg.save_model:
            say(f"Model: {self.place.model}")
        say_sensitive(self.place)
        for line in (*lines, f"Next: {self.place.next}"):
            say(line)

    def _timed(self, name: str) -> Any:
        return _Timer(self.timing, self.cpu, name)


def say_sensitive(place: RunFolder) -> None:
    """Lists what tells of forgotten things, and how to remove it."""
    paths = place.sensitive_files()
    if paths:
        root = place.path.resolve()
        names = [str(p.resolve()).removeprefix(f"{root}/") for p in paths]
        say(f"Sensitive: {', '.join(names)}. Remove with: harmonize purge {place.path}")


class _Timer:
    """Adds the wall and CPU seconds of a stage."""

    def __init__(self, wall: dict[str, float], cpu: dict[str, float], name: str) -> None:
        self.name, self.clocks = name, ((wall, time.perf_counter), (cpu, time.process_time))

    def __enter__(self) -> None:
        self.began = [clock() for _, clock in self.clocks]

    def __exit__(self, *_: object) -> None:
        for (into, clock), began in zip(self.clocks, self.began, strict=True):
            into[self.name] = into.get(self.name, 0.0) + clock() - began


def teacher_warnings(values: Mapping[str, float], leak_limit: float, overrefusal_limit: float) -> list[str]:
    """What to say of a teacher that leaks or over-refuses, from its figures on val; nothing if it does neither.

    Where no subject is held out for val, the figures of trained-on subjects speak.
    """
    found = []
    leak = max((values.get(n, 0.0) for n in ("forget_accuracy", "forget_heldout_accuracy")), default=0.0)
    if leak > leak_limit:
        found.append(
            f"The instructed teacher still answers {leak:.0%} of the forget questions (val); its student will "
            "learn that. Try another teacher.instruction=..."
        )
    for role in ("neighbor", "retain"):
        rate = values.get(f"{role}_refusal_rate", values.get(f"{role}_refusal_rate_trained", 0.0))
        if rate > overrefusal_limit:
            found.append(
                f"The instructed teacher refuses {rate:.0%} of the {role} questions (val); its student will learn "
                "that. Try another teacher.instruction=..., or leave the role out of teacher.instruct_roles."
            )
    return found


def _check_roles(cfg: Any, corpus: Corpus, roles: list[str]) -> None:
    for role in roles:
        if cfg.sampler.rows.get(role, 0) and not corpus.trained(role):
            raise DataError(
                f"The data set '{corpus.name}' has no training examples of role '{role}', which method="
                f"{cfg.method.name} trains on. Add some, or leave the role out: ~method.response.{role} "
                f"sampler.rows.{role}=0."
            )
