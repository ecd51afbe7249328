"""`harmonize unlearn`: what happens in which order, from configuration to results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from harmonize.config.instantiate import call
from harmonize.console import say, warn
from harmonize.data.corpus import Corpus
from harmonize.data.example import ROLES
from harmonize.data.responses import check_responses
from harmonize.data.views import RowFactory
from harmonize.errors import DataError
from harmonize.evaluation.attacks import ineffective
from harmonize.evaluation.selection import select_score
from harmonize.models.cache import TeacherCache
from harmonize.models.head import Head
from harmonize.models.load import LoadedModel
from harmonize.models.lora import apply_peft
from harmonize.models.reference import Reference
from harmonize.models.save import export
from harmonize.reporting.card import model_card
from harmonize.reporting.table import run_table
from harmonize.tracking.loggers import build_tracker
from harmonize.tracking.results import build_results
from harmonize.tracking.run_folder import RunFolder
from harmonize.unlearning.callbacks import ValAxes, restore
from harmonize.unlearning.figures import Evaluations, Figures
from harmonize.unlearning.fit import fit, resumed_step
from harmonize.unlearning.forward import named_blocks
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.setup import (
    load_corpus,
    plain_config,
    prepare_process,
    same_configuration,
)
from harmonize.unlearning.steps import StepLoader
from harmonize.unlearning.targets import load_target
from harmonize.unlearning.teaching import (
    build_reference_for,
    build_teacher,
    instruction_of,
    needs_teacher,
    trained_examples,
)
from harmonize.unlearning.terms import build_terms
from harmonize.unlearning.weighters import Subject, Weighter
from harmonize.unlearning.worst import WorstPrefill

VAL_AXES = ("forget", "retain", "neighbor", "asr", "utility")


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
    place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
    with place.running():
        if cfg.resume and place.results.exists() and place.previous_state == "done":
            say(f"{folder} is done already; nothing to resume.")
            from harmonize.tracking.results import read_run

            return {k: m.value for k, m in read_run(folder).results.metrics.items()}
        same_configuration(cfg, place)
        place.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        return _Run(cfg, place).go()


class _Run:
    """The parts of one run, in the order they are needed."""

    def __init__(self, cfg: Any, place: RunFolder) -> None:
        self.cfg, self.place = cfg, place
        self.timing: dict[str, float] = {}
        self.warnings: list[str] = []
        self.began = time.perf_counter()
        self.began_cpu = time.process_time()

    def go(self) -> dict[str, Any]:
        cfg, place = self.cfg, self.place
        prepare_process(cfg.trainer)
        torch.manual_seed(cfg.seed)
        corpus = load_corpus(cfg)
        roles = list(cfg.method.response)
        _check_roles(cfg, corpus, roles)
        self.sampler = self._sampler(corpus, roles)  # data that it cannot use stop the run here
        check_responses(corpus, cfg.method.response)
        terms = build_terms(cfg.method.objectives, cfg.allow)
        evaluations = Evaluations(cfg, corpus)
        with self._timed("load"):
            # adapters come later: the references are figures of the model as it is
            loaded = load_target(cfg, corpus, None, {"load_in_4bit": cfg.peft.load_in_4bit})
            start_digest = loaded.digest
            named_blocks(loaded.model, terms)  # a layer that does not exist stops the run here
        with self._timed("references"):
            target = evaluations.cached(loaded, "target")
            target_val = evaluations.cached(loaded, "target", split="val", axes=VAL_AXES)
            teacher_figures = self._teacher_figures(evaluations, loaded, corpus, terms)
            gold = self._gold(evaluations, corpus)
        # adapters start from the seed, whether or not a sandbox model was made on the way here
        torch.manual_seed(cfg.seed)
        loaded.model = apply_peft(loaded.model, cfg.peft)
        teacher: TeacherCache | None = None
        factory = self._factory(loaded, corpus, None)
        with self._timed("teacher"):
            if needs_teacher(cfg, terms):
                teacher = build_teacher(cfg, corpus, loaded, start_digest, instruction_of(cfg, corpus))
                for path in teacher.paths:
                    place.record_sensitive(path)
                factory = self._factory(loaded, corpus, teacher)
            reference = build_reference_for(cfg, corpus, loaded, start_digest, terms, factory)
            if reference is not None and reference.path is not None:
                place.record_sensitive(reference.path)
        config = plain_config(cfg)
        step = resumed_step(place.checkpoints, cfg.resume)
        tracker = build_tracker(config, place.path, job_type="unlearn", resume_step=step)
        try:
            with self._timed("train"):
                module, looks, steps = self._train(
                    loaded,
                    corpus,
                    roles,
                    terms,
                    factory,
                    (teacher, reference),
                    target_val,
                    evaluations,
                    tracker.log,
                )
            if looks.best_ok and looks.path is not None and looks.path.exists() and looks.best_step < steps:
                restore(module, looks.path)
                say(f"Kept the state of step {looks.best_step}, the best on val.")
            loaded.model.eval()
            with self._timed("evaluate"):
                report = evaluations.run(loaded)
            report.write_samples(place.samples)
            figures = Figures(dict(report.metrics), dict(report.outcomes), list(report.notes))
            selection = {
                "rule": "lowest forget + ASR on val, among states above the floors on neighbor and utility",
                "best_step": looks.best_step if looks.best_ok else None,
                "steps": steps,
                "looks": looks.history,
            }
            if cfg.trainer.val_check_interval and not looks.best_ok:
                figures.notes.append("No state met the floors on val; the last one was kept.")
            if weak := ineffective(target.metrics):
                figures.notes.append(
                    f"These attacks fail on the untouched model already, so they prove nothing: {', '.join(weak)}."
                )
            self.timing["total"] = time.perf_counter() - self.began
            self.timing["cpu"] = time.process_time() - self.began_cpu
            results = build_results(
                config=config,
                seed=cfg.seed,
                timing=self.timing,
                metrics=figures.metrics,
                target_metrics=target.metrics,
                teacher_metrics=teacher_figures.metrics if teacher_figures else {},
                gold_metrics=gold.metrics if gold else {},
                outcomes=figures.outcomes,
                notes=[*corpus.notes, *self.warnings, *figures.notes],
                selection=selection,
                teacher_forwards=sum(frozen.forwards for frozen in (teacher, reference) if frozen),
                teacher_missing_share=teacher.missing_share if teacher else 0.0,
            )
            if cfg.save_model:
                export(loaded, place.model, model_card(results), merge=cfg.peft.merge)
            place.write_json("results.json", results.to_dict())
            tracker.summary(figures.metrics)
        finally:
            lines = tracker.close()
        self._close(results, lines)
        return figures.values()

    def _teacher_figures(
        self, evaluations: Evaluations, loaded: LoadedModel, corpus: Corpus, terms: Any
    ) -> Figures | None:
        """The instructed teacher on the five axes, and a warning if it leaks or over-refuses."""
        cfg = self.cfg
        if not cfg.teacher.report or not (corpus.instructions or cfg.teacher.instruction):
            return None
        figures = evaluations.cached(
            loaded, "instructed teacher", instruction=instruction_of(cfg, corpus), axes=VAL_AXES
        )
        if needs_teacher(cfg, terms):
            # judged on val: a reworded instruction is a choice, and test chooses nothing
            seen = evaluations.cached(
                loaded,
                "instructed teacher",
                split="val",
                instruction=instruction_of(cfg, corpus),
                axes=("forget", "retain", "neighbor"),
            ).values()
            self.warnings = teacher_warnings(seen, cfg.teacher.leak_limit, cfg.teacher.overrefusal_limit)
            for text in self.warnings:
                warn(text)
        return figures

    def _gold(self, evaluations: Evaluations, corpus: Corpus) -> Figures | None:
        if not self.cfg.model.gold:
            return None
        return evaluations.cached(load_target(self.cfg, corpus, self.cfg.model.gold), "gold model")

    def _factory(self, loaded: LoadedModel, corpus: Corpus, teacher: TeacherCache | None) -> RowFactory:
        cfg = self.cfg
        return RowFactory(
            corpus,
            loaded.renderer,
            cfg.dataset.prefill,
            cfg.method.response,
            cfg.seed,
            max_length=getattr(loaded.model.config, "max_position_embeddings", None),
            teacher_target=teacher.target if teacher else None,
            cache_start=teacher.start if teacher else None,
        )

    def _train(
        self,
        loaded: LoadedModel,
        corpus: Corpus,
        roles: list[str],
        terms: Any,
        factory: RowFactory,
        frozen: tuple[TeacherCache | None, Reference | None],
        target_val: Figures,
        evaluations: Evaluations,
        log: Any,
    ) -> tuple[UnlearningModule, ValAxes, int]:
        cfg, settings = self.cfg, self.cfg.trainer
        renderer = loaded.renderer
        examples = trained_examples(corpus, roles)
        weighter = self._weighter(loaded, corpus)
        by_id = {e.id: e for group in examples.values() for e in group}
        module = UnlearningModule(
            loaded.model,
            terms,
            optimizer=lambda parameters: call(
                cfg.optimizer, params=parameters, allow=cfg.allow, skip=("name",)
            ),
            scheduler=lambda o: call(
                cfg.scheduler, optimizer=o, total_steps=settings.max_steps, allow=cfg.allow, skip=("name",)
            ),
            combiner=call(cfg.gradient, allow=cfg.allow, skip=("name",)),
            controller=call(cfg.controller, allow=cfg.allow, skip=("name",)),
            pad_id=renderer.pad_id,
            seed=cfg.seed,
            teacher=frozen[0],
            reference=frozen[1],
            accumulate=settings.accumulate_grad_batches,
            clip=settings.gradient_clip_val,
            log=log,
            log_every=settings.log_every_n_steps,
            n_vocab=len(loaded.tokenizer),
            choose_worst=WorstPrefill(by_id, renderer, renderer.pad_id, cfg.dataset.prefill.every),
            weigh=weighter,
            cosines_every=settings.cosines_every_n_steps,
        )

        def look() -> dict[str, float]:
            report = evaluations.run(loaded, split="val", axes=VAL_AXES, progress=False)
            loaded.model.train()
            return {k: m.value for k, m in report.metrics.items() if m.value is not None}

        looks = ValAxes(
            look,
            lambda found: select_score(
                found, target_val.values(), settings.neighbor_floor, settings.utility_floor
            ),
            every=settings.val_check_interval,
            max_steps=settings.max_steps,
            folder=self.place.checkpoints if settings.keep_best else None,
            patience=settings.early_stop_patience,
            record=log,
        )
        loaded.model.train()
        steps = fit(
            module,
            lambda start: StepLoader(self.sampler, lambda d: factory.views(d.example, d.epoch), start),
            settings,
            title=f"{cfg.method.name} seed {cfg.seed}",
            checkpoints=self.place.checkpoints,
            resume=cfg.resume,
            callbacks=[looks, *(call(c, allow=cfg.allow) for c in cfg.callbacks.values() if c)],
        )
        return module, looks, steps

    def _sampler(self, corpus: Corpus, roles: list[str]) -> Any:
        node = plain_config(self.cfg.sampler)
        node["rows"] = {r: n for r, n in node.get("rows", {}).items() if r in roles}
        return call(
            node,
            allow=self.cfg.allow,
            skip=("name",),
            examples=trained_examples(corpus, roles),
            seed=self.cfg.seed,
            rank=0,
            world_size=1,
        )

    def _weighter(self, loaded: LoadedModel, corpus: Corpus) -> Weighter:
        """The weighter, with what it measures on the start model."""
        cfg = self.cfg
        weighter: Weighter = call(cfg.weighter, allow=cfg.allow, skip=("name",))
        answers = RowFactory(
            corpus,
            loaded.renderer,
            cfg.dataset.prefill,
            {str(role): "reference" for role in ROLES},
            cfg.seed,
            max_length=getattr(loaded.model.config, "max_position_embeddings", None),
        )
        head = Head.of(loaded.model, n_vocab=len(loaded.tokenizer))
        weighter.prepare(
            Subject(
                loaded.model,
                head,
                loaded.renderer.pad_id,
                lambda role: [answers.row(e) for e in corpus.trained(role)],
            )
        )
        return weighter

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
        return _Timer(self.timing, name)


def say_sensitive(place: RunFolder) -> None:
    """Lists what tells of forgotten things, and how to remove it."""
    paths = place.sensitive_files()
    if paths:
        root = place.path.resolve()
        names = [str(p.resolve()).removeprefix(f"{root}/") for p in paths]
        say(f"Sensitive: {', '.join(names)}. Remove with: harmonize purge {place.path}")


class _Timer:
    def __init__(self, into: dict[str, float], name: str) -> None:
        self.into, self.name = into, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.into[self.name] = self.into.get(self.name, 0.0) + time.perf_counter() - self.began


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
