"""From the method's demands to teacher requests: which questions the teacher reads, and what it is scored on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonize.config.units import parse_size
from harmonize.console import counted
from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.responses import all_sources, sources_of
from harmonize.data.views import RowFactory, text_of
from harmonize.errors import ConfigError, DataError
from harmonize.models.budget import Budget
from harmonize.models.cache import EnsembleCache, TeacherCache
from harmonize.models.frozen import TeacherRequest
from harmonize.models.head import Head
from harmonize.models.load import LoadedModel
from harmonize.models.reference import Reference, build_reference
from harmonize.models.teacher import build_teacher_cache
from harmonize.unlearning.forward import named_blocks
from harmonize.unlearning.terms import Term, build_terms, top_sizes
from harmonize.unlearning.together import shares_of

KEPT = 64  # length of the stored top lists, unless objectives or the configuration ask for more


def trained_examples(corpus: Corpus, roles: Sequence[str]) -> dict[str, tuple[Example, ...]]:
    """Training examples of each role."""
    return {role: corpus.trained(role) for role in roles}


def instruction_of(cfg: Any, corpus: Corpus) -> str:
    """The teacher's instruction: the configured one, or the data set's first.

    Raises:
        ConfigError: Neither exists.
    """
    text = cfg.teacher.instruction or (corpus.instructions[0] if corpus.instructions else None)
    if not text:
        raise ConfigError(
            f"The teacher has no instruction: the data set '{corpus.name}' brings none. "
            "Give one: teacher.instruction='You know nothing about ...'."
        )
    return str(text)


def needs_teacher(cfg: Any, terms: Sequence[Term]) -> bool:
    """Whether the method reads the teacher's logits or answers at all."""
    return any(t.needs_teacher for t in terms) or "teacher" in all_sources(cfg.method.response)


def check_lengths(requests: Sequence[TeacherRequest], limit: int | None, max_new_tokens: int) -> None:
    """Every request, with the instruction and the answer, must fit what the model reads.

    Raises:
        DataError: The longest one does not.
    """
    if not requests or not isinstance(limit, int):
        return
    lengths = [len(r.prompt) + (max_new_tokens if r.target is None else len(r.target)) for r in requests]
    needed = max(lengths)
    if needed <= limit:
        return
    worst = requests[lengths.index(needed)]
    room = limit - len(worst.prompt)
    advice = "Shorten the instruction, the question or the answer, or leave the example out."
    if worst.target is None and room > 0:
        advice = f"Use teacher.max_new_tokens={room} or less, or shorten the instruction."
    raise DataError(
        f"Example '{worst.example_id}' needs {needed} tokens before the teacher (instruction, question and answer), "
        f"but the model reads at most {limit}. {advice}"
    )


def build_teacher(
    cfg: Any, corpus: Corpus, loaded: LoadedModel, digest: str, instruction: str
) -> TeacherCache:
    """The teacher of a run: its cache, filled or found, or a live teacher with `teacher.cache=none`.

    With `teacher.ensemble` several, one for each instruction: all score the first one's responses, and their logits are
    averaged. (The name Ensemble Teacher is all that is known of that baseline; this reading of it is our choice.)

    Args:
        cfg: Configuration of `harmonize unlearn`.
        corpus: The data set.
        loaded: The start model; adapters, if any, are switched off while the teacher speaks.
        digest: Content key of the start model's weights.
        instruction: What the teacher is told.

    Raises:
        ConfigError: An ensemble of fewer than two instructions.
    """
    if not cfg.teacher.ensemble:
        return _one_teacher(cfg, corpus, loaded, digest, instruction)
    told = list(dict.fromkeys(cfg.teacher.instructions or corpus.instructions))
    if len(told) < 2:
        raise ConfigError(
            f"teacher.ensemble=true needs at least two instructions, and the data set '{corpus.name}' has {len(told)}. "
            "Give them: teacher.instructions=['...', '...'], or use teacher=instructed."
        )
    first = _one_teacher(cfg, corpus, loaded, digest, told[0])
    others = [_one_teacher(cfg, corpus, loaded, digest, text, first) for text in told[1:]]
    return EnsembleCache([first, *others])


def _one_teacher(
    cfg: Any,
    corpus: Corpus,
    loaded: LoadedModel,
    digest: str,
    instruction: str,
    answers: TeacherCache | None = None,
) -> TeacherCache:
    """One teacher; with `answers`, scored on that teacher's responses in place of its own."""
    renderer = loaded.renderer
    requests = []
    for role, value in cfg.method.response.items():
        source = sources_of(value)[0]
        for example in corpus.trained(role):
            told = instruction if role in cfg.teacher.instruct_roles else None
            target: tuple[int, ...] | None = None
            if source != "teacher":
                target = renderer.target_ids(text_of(source, corpus, example))
            elif answers is not None:
                target = answers.target(example.id)
            requests.append(
                TeacherRequest(example.id, role, renderer.prompt_ids(example.question, told), target)
            )
    check_lengths(
        requests, getattr(loaded.model.config, "max_position_embeddings", None), cfg.teacher.max_new_tokens
    )
    mode = getattr(cfg.teacher.cache, "value", str(cfg.teacher.cache))
    with counted("teacher") as progress:
        return build_teacher_cache(
            loaded.model,
            Head.of(loaded.model, n_vocab=len(loaded.tokenizer)),
            requests,
            digest=digest,
            renderer_digest=renderer.digest,
            end_id=renderer.end_id,
            stop_ids=renderer.stop_ids,
            pad_id=renderer.pad_id,
            max_new_tokens=cfg.teacher.max_new_tokens,
            mode=mode,
            top_k=kept_length(cfg, mode),
            cache_dir=Path(cfg.paths.cache_dir),
            batch_size=cfg.teacher.batch_size,
            progress=progress,
            budget=_budget(cfg),
            names={"model": loaded.name, "data": corpus.name},
            shares=shares_of(loaded.model),
        )


def kept_length(cfg: Any, mode: str) -> int:
    """Length K' of the stored top lists: as configured, else 64.

    Where lists are all that is kept, at least four times the longest list that an objective reads: the push asks for
    the teacher's logit at the student's ids, and the further the student has moved, the more of them lie beyond the
    teacher's own first K (our choice, after measuring; docs/fidelity.md). States give every logit, so that with
    `hidden` one length serves all K.
    """
    if cfg.teacher.cache_top_k is not None:
        return int(cfg.teacher.cache_top_k)
    if mode == "hidden":
        return KEPT
    return max(KEPT, 4 * max(top_sizes(build_terms(cfg.method.objectives, cfg.allow))))


def _budget(cfg: Any) -> Budget:
    limit = cfg.teacher.cache_budget
    return Budget(
        None if limit is None else parse_size(limit, "teacher.cache_budget"),
        getattr(cfg.teacher.cache_over_budget, "value", str(cfg.teacher.cache_over_budget)),
        kept_length(cfg, "topk"),
    )


def build_reference_for(
    cfg: Any,
    corpus: Corpus,
    loaded: LoadedModel,
    digest: str,
    terms: Sequence[Term],
    factory: RowFactory,
    opened: bool = False,
) -> Reference | None:
    """The untouched model's outputs on every row that training may show, where a term reads them.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        corpus: The data set.
        loaded: The start model; adapters, if any, are switched off.
        digest: Content key of the start model's weights.
        terms: The method's objectives.
        factory: Makes the rows.
        opened: Also read every prefilled view, shown in training or not.
    """
    kinds = {kind for t in terms for kind in t.reference.kinds}
    if not kinds:
        return None
    roles = {role for t in terms if t.reference.kinds for role in t.roles}
    blocks = {
        layer: block
        for layer, block in named_blocks(loaded.model, terms).items()
        if any(layer in t.reference.layers for t in terms)
    }
    rows = [
        row
        for role in cfg.method.response
        if role in roles
        for example in corpus.trained(role)
        for shown in factory.every_row(example, opened)
        for row in (shown, *shown.companions)
    ]
    with counted("reference") as progress:
        return build_reference(
            loaded.model,
            Head.of(loaded.model, n_vocab=len(loaded.tokenizer)),
            rows,
            kinds - {"layer"},
            blocks,
            digest=digest,
            pad_id=loaded.renderer.pad_id,
            mode=getattr(cfg.teacher.cache, "value", str(cfg.teacher.cache)),
            cache_dir=Path(cfg.paths.cache_dir),
            batch_size=cfg.teacher.batch_size,
            progress=progress,
            budget=_budget(cfg),
            names={"model": loaded.name, "data": corpus.name},
            shares=shares_of(loaded.model),
        )
