"""The training of one run: rows, sampler, weighter and module from a configuration, with looks at val on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harmonize.config.instantiate import call, takes
from harmonize.data.corpus import Corpus
from harmonize.data.example import ROLES
from harmonize.data.views import RowFactory
from harmonize.evaluation.selection import select_score, shortfall
from harmonize.models.cache import TeacherCache
from harmonize.models.head import Head
from harmonize.models.load import LoadedModel
from harmonize.models.reference import Reference
from harmonize.objectives.weights import Weights
from harmonize.statistics import Statistics
from harmonize.unlearning import ranks
from harmonize.unlearning.callbacks import ValAxes
from harmonize.unlearning.fit import fit
from harmonize.unlearning.module import Log, UnlearningModule
from harmonize.unlearning.optimizers import build_optimizer
from harmonize.unlearning.probes import Probe
from harmonize.unlearning.setup import plain_config
from harmonize.unlearning.sharded import is_sharded
from harmonize.unlearning.steps import StepLoader
from harmonize.unlearning.teaching import (
    build_reference_for,
    build_teacher,
    instruction_of,
    needs_teacher,
    trained_examples,
)
from harmonize.unlearning.terms import Term
from harmonize.unlearning.weighters import Subject, Weighter
from harmonize.unlearning.worst import WorstPrefill

Module = TypeVar("Module", bound=UnlearningModule)


@dataclass
class Parts:
    """What is trained, on what, against whom.

    Attributes:
        loaded: The student.
        corpus: The data set.
        terms: The method's objectives.
        factory: Makes the rows.
        sampler: Draws the examples of a step.
        teacher, reference: What the frozen models said, or None where no term reads it.
        weights: The trained matrices, or None where no term reads them.
        record: Told every cache that is read or written, as far as it tells of the data.
        found: What callbacks report for the results, by their names.
    """

    loaded: LoadedModel
    corpus: Corpus
    terms: Sequence[Term]
    factory: RowFactory
    sampler: Any
    teacher: TeacherCache | None = None
    reference: Reference | None = None
    weights: Weights | None = None
    record: Callable[[Path], object] | None = None
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What a reader of the results should know of how the frozen models' outputs were kept."""
        said = [kept.note for kept in (self.teacher, self.reference) if kept is not None and kept.note]
        if self.teacher is not None and not self.teacher.exact:
            said.append(
                f"Only the teacher's top logits were kept: {self.teacher.missing_share:.2%} of the ids that objectives "
                "asked for lay outside, and were bounded by the last kept one, which can only weaken the push."
            )
        return said


def row_factory(
    cfg: Any, loaded: LoadedModel, corpus: Corpus, teacher: TeacherCache | None = None
) -> RowFactory:
    """The maker of the method's rows."""
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


def answer_rows(cfg: Any, loaded: LoadedModel, corpus: Corpus) -> Callable[[str], list[Any]]:
    """Role to the rows of all its training examples, with the data's own answers and nothing prefilled."""
    factory = RowFactory(
        corpus,
        loaded.renderer,
        cfg.dataset.prefill,
        {str(role): "reference" for role in ROLES},
        cfg.seed,
        max_length=getattr(loaded.model.config, "max_position_embeddings", None),
    )
    return lambda role: [factory.row(e) for e in corpus.trained(role)]


def statistics_of(
    cfg: Any, loaded: LoadedModel, corpus: Corpus, record: Callable[[Path], object] | None = None
) -> Statistics:
    """Statistics of the model as it stands, over the rows of `answer_rows`.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        loaded: The model; with adapters, these are what is measured.
        corpus: The data set.
        record: Told every folder that is read or written.

    Raises:
        ModelError: `statistics.path` holds a statistic of another model.
    """
    return Statistics(
        loaded,
        answer_rows(cfg, loaded, corpus),
        cfg.paths.cache_dir,
        given=cfg.statistics.path,
        batch_size=cfg.statistics.batch_size,
        record=record,
    )


def build_sampler(cfg: Any, corpus: Corpus, roles: Sequence[str]) -> Any:
    """The sampler, which refuses data that it cannot use."""
    node = plain_config(cfg.sampler)
    node["rows"] = {r: n for r, n in node.get("rows", {}).items() if r in roles}
    return call(
        node,
        allow=cfg.allow,
        skip=("name",),
        examples=trained_examples(corpus, list(roles)),
        seed=cfg.seed,
        rank=ranks.rank(),
        world_size=ranks.size(),
    )


def build_parts(
    cfg: Any,
    corpus: Corpus,
    terms: Sequence[Term],
    loaded: LoadedModel,
    student: LoadedModel,
    digest: str,
    sampler: Any,
    weights: Weights | None,
    record: Callable[[Path], object],
) -> Parts:
    """The frozen models' outputs, taken once or found, and the rows that read them.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        corpus: The data set.
        terms: The method's objectives.
        loaded: The model, with its adapters.
        student: What is trained: the same, or an assistant.
        digest: Of the model before its adapters.
        sampler: Of `build_sampler`.
        weights: The trained matrices, where a term reads them.
        record: Told every cache that is read or written.
    """
    teacher: TeacherCache | None = None
    if needs_teacher(cfg, terms):
        teacher = build_teacher(cfg, corpus, loaded, digest, instruction_of(cfg, corpus))
        for path in teacher.paths:
            record(path)
    factory = row_factory(cfg, loaded, corpus, teacher)
    reference = build_reference_for(cfg, corpus, loaded, digest, terms, factory)
    if reference is not None and reference.path is not None:
        record(reference.path)
    return Parts(student, corpus, terms, factory, sampler, teacher, reference, weights, record)


def build_module(
    cfg: Any,
    parts: Parts,
    log: Log | None,
    kind: type[Module] = UnlearningModule,  # type: ignore[assignment]
) -> Module:
    """The LightningModule of a run.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        parts: What is trained.
        log: Receives metrics.
        kind: Class of the module.
    """
    settings, loaded = cfg.trainer, parts.loaded
    roles = list(cfg.method.response)
    renderer = loaded.renderer
    weighter = _weighter(cfg, parts)
    by_id = {e.id: e for group in trained_examples(parts.corpus, roles).values() for e in group}
    return kind(
        loaded.model,
        parts.terms,
        optimizer=lambda parameters: build_optimizer(cfg.optimizer, parameters, cfg.allow),
        scheduler=lambda o: call(
            cfg.scheduler, optimizer=o, total_steps=settings.max_steps, allow=cfg.allow, skip=("name",)
        ),
        combiner=call(cfg.gradient, allow=cfg.allow, skip=("name",)),
        controller=call(cfg.controller, allow=cfg.allow, skip=("name",)),
        pad_id=renderer.pad_id,
        seed=cfg.seed,
        teacher=parts.teacher,
        reference=parts.reference,
        weights=parts.weights,
        accumulate=settings.accumulate_grad_batches,
        clip=settings.gradient_clip_val,
        max_tokens=settings.max_tokens_per_batch,
        compile_blocks=settings.compile,
        log=log,
        log_every=settings.log_every_n_steps,
        n_vocab=len(loaded.tokenizer),
        choose_worst=WorstPrefill(by_id, renderer, renderer.pad_id, cfg.dataset.prefill.every),
        weigh=weighter,
        cosines_every=settings.cosines_every_n_steps,
    )


def step_loader(parts: Parts, start: Callable[[], int]) -> StepLoader[Any]:
    """The loader of a run's steps; `start` says where training stands."""
    return StepLoader(parts.sampler, lambda d: parts.factory.views(d.example, d.epoch), start)


def train(
    cfg: Any,
    parts: Parts,
    look: Callable[[], Mapping[str, float]],
    target_val: Mapping[str, float],
    checkpoints: Path,
    log: Log | None,
    probe: Probe | None = None,
) -> tuple[UnlearningModule, ValAxes, int]:
    """Trains the student.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        parts: What is trained.
        look: Measures the student on val.
        target_val: The untouched model's figures on val, which the floors of keep-best are shares of.
        checkpoints: Folder of checkpoints.
        log: Receives metrics.
        probe: Measures the student on a few val questions; supplied to callbacks that have a parameter of that name.

    Returns:
        The module, what was seen on val, and the optimizer steps taken in all.
    """
    settings, loaded = cfg.trainer, parts.loaded
    module: UnlearningModule = build_module(cfg, parts, log)

    def look_in_training() -> Mapping[str, float]:
        found = look()
        loaded.model.train()
        return found

    looks = ValAxes(
        look_in_training,
        lambda found: select_score(found, target_val, settings.neighbor_floor, settings.utility_floor),
        every=settings.val_check_interval,
        max_steps=settings.max_steps,
        folder=checkpoints if settings.keep_best else None,
        patience=settings.early_stop_patience,
        record=log,
        below=lambda found: shortfall(found, target_val, 0.0, settings.utility_floor),
        floor_patience=settings.floor_patience,
    )

    def probe_in_training(questions: int, axes: Sequence[str]) -> Mapping[str, float]:
        found = probe(questions, axes) if probe else {}
        loaded.model.train()
        return found

    supplied: dict[str, Any] = {"probe": probe_in_training, "record": log}
    callbacks = {
        str(name): call(c, allow=cfg.allow, **{k: v for k, v in supplied.items() if k in takes(c, cfg.allow)})
        for name, c in cfg.callbacks.items()
        if c and ranks.is_first()  # they watch
    }
    loaded.model.train()
    steps = fit(
        module,
        lambda start: step_loader(parts, start),
        settings,
        title=f"{cfg.method.name} seed {cfg.seed}",
        checkpoints=checkpoints,
        resume=cfg.resume,
        callbacks=[looks, *callbacks.values()],
    )
    loaded.model.eval()
    parts.found = {name: c.report() for name, c in callbacks.items() if hasattr(c, "report")}
    return module, looks, steps


def _weighter(cfg: Any, parts: Parts) -> Weighter:
    """The weighter, with what it measures on the start model."""
    weighter: Weighter = call(cfg.weighter, allow=cfg.allow, skip=("name",))
    loaded = parts.loaded
    if is_sharded(loaded.model):
        return weighter  # the one that measures nothing, as the checks have seen to
    head = Head.of(loaded.model, n_vocab=len(loaded.tokenizer))
    rows = answer_rows(cfg, loaded, parts.corpus)
    statistics = statistics_of(cfg, loaded, parts.corpus, parts.record)
    weighter.prepare(Subject(loaded.model, head, loaded.renderer.pad_id, rows, statistics))
    return weighter
