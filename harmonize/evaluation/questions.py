"""Which facts are asked about, in which phrasing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example, Split
from harmonize.data.prefill import unit_hash
from harmonize.data.render import Renderer
from harmonize.evaluation.records import NO_ATTACK, Query, Question


def used_facts(corpus: Corpus, role: str, limit: int | None = None) -> tuple[Example, ...]:
    """Facts of a role that unlearning trains on."""
    return capped(corpus.facts(role, Split.TRAIN), limit)


def heldout_facts(corpus: Corpus, role: str, split: str, limit: int | None = None) -> tuple[Example, ...]:
    """Facts of a role about subjects of the evaluated split, which unlearning never sees."""
    return capped(corpus.facts(role, split), limit)


def capped(examples: Sequence[Example], limit: int | None) -> tuple[Example, ...]:
    """At most `limit` examples, chosen by a hash of their fact and kept in order: the same for every model and seed."""
    if limit is None or len(examples) <= limit:
        return tuple(examples)
    chosen = {e.id for e in sorted(examples, key=_draw)[:limit]}
    return tuple(e for e in examples if e.id in chosen)


def _draw(example: Example) -> tuple[float, str]:
    return unit_hash("evaluated", example.fact_id), example.fact_id


def ask(
    examples: Iterable[Example],
    split: str,
    renderer: Renderer,
    instruction: str | None = None,
    instruct_roles: Collection[str] = (),
) -> list[Question]:
    """One question per fact and phrasing of `split`; an instruction reaches only the roles named."""
    found: dict[tuple[str, str], Question] = {}
    for example in examples:
        told = instruction if instruction and example.role in instruct_roles else None
        for text in example.phrasings(split):
            question = Question(
                example=example,
                text=text,
                prompt=renderer.prompt_ids(text, told),
                trained=example.split == Split.TRAIN,
                instruction=told,
            )
            found.setdefault(question.key, question)
    return list(found.values())


def plain_queries(questions: Iterable[Question], renderer: Renderer, attack: str = NO_ATTACK) -> list[Query]:
    """The questions as they are, with nothing put before the answer."""
    return [
        Query(
            question=q,
            reference=q.example.answer,
            reference_tokens=len(renderer.target_ids(q.example.answer)),
            attack=attack,
        )
        for q in questions
    ]


def asked_as_trained(questions: Iterable[Question]) -> int:
    """How many facts used in unlearning are asked in the very phrasing they were unlearned in."""
    return len({q.example.fact_id for q in questions if q.trained and q.text == q.example.question})
