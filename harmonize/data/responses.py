"""What rows answer with: the sources that `method.response` may name, and what each needs of the data.

A role may name several sources. Each drawn example then becomes one row per source, in one batch and under one
`pair_id`, such as a preferred and a rejected answer to the same question.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from harmonize.data.corpus import Corpus, content_hash
from harmonize.data.example import Example
from harmonize.data.render import Renderer
from harmonize.errors import DataError

ALTERNATES = "alternates"  # the key of `Example.meta` that holds them


def sources_of(value: str | Sequence[str]) -> tuple[str, ...]:
    """The sources of one role: a single name, or several."""
    return (value,) if isinstance(value, str) else tuple(str(v) for v in value)


def all_sources(response: Mapping[str, Any]) -> set[str]:
    """Every source that a method answers some role with."""
    return {source for value in response.values() for source in sources_of(value)}


def alternates_of(example: Example) -> tuple[str, ...]:
    """Other plausible answers to the example's question, `meta.alternates`; none if there are none.

    Raises:
        DataError: Something else than a list of texts.
    """
    found = example.meta.get(ALTERNATES, ())
    if isinstance(found, str) or not all(isinstance(a, str) and a.strip() for a in found):
        raise DataError(
            f"Example '{example.id}': meta.{ALTERNATES} must be a list of texts. For example "
            f'"meta": {{"{ALTERNATES}": ["Another plausible answer."]}}.'
        )
    return tuple(found)


def alternate_for(example: Example, epoch: int) -> str:
    """The alternate of an epoch: they take turns, each example from its own start.

    Raises:
        DataError: The example has none.
    """
    found = alternates_of(example)
    if not found:
        raise DataError(_lacking([example], 1, "this data set", example.role))
    first = int(content_hash("alternate", example.id)[:8], 16)
    return found[(first + epoch) % len(found)]


def variants(example: Example, sources: Sequence[str]) -> int:
    """Epochs after which the rows of an example repeat."""
    return max(1, len(alternates_of(example))) if "alternate" in sources else 1


def check_responses(corpus: Corpus, response: Mapping[str, Any]) -> None:
    """Every source has what it needs, before anything is trained.

    Raises:
        DataError: Alternates or refusals are missing.
    """
    for role, value in response.items():
        examples = corpus.trained(role)
        if "refusal" in sources_of(value) and examples and not corpus.refusals:
            raise DataError(
                f"The method answers {role} questions with refusals, but the data set '{corpus.name}' has no "
                f"refusal texts. Give some (dataset.refusals=[...]) or use method.response.{role}=reference."
            )
        if "alternate" in sources_of(value):
            lacking = [e for e in examples if not alternates_of(e)]
            if lacking:
                raise DataError(_lacking(lacking, len(examples), f"the data set '{corpus.name}'", role))


def random_row(example: Example, renderer: Renderer, prompt: int, target: int) -> tuple[tuple[int, ...], ...]:
    """(prompt, target) of random vocabulary, as long as the example's own: replay that needs no data.

    A function of the example's id alone. Ids are drawn from all that are no special token; the prompt keeps its first
    id (the beginning of the sequence) and the target its end of turn.

    Source: derived from VR-LwF (arXiv 2207.09248), which replays a random vocabulary for vision-language models; this
    form for language models is our choice.
    """
    special = {int(i) for i in renderer.tokenizer.all_special_ids} | set(renderer.stop_ids)
    pool = [i for i in range(len(renderer.tokenizer)) if i not in special]
    draw = random.Random(int(content_hash("random vocabulary", example.id)[:16], 16))
    first = renderer.prompt_ids(example.question)[:1]
    return (
        (*first, *draw.choices(pool, k=max(0, prompt - 1))),
        (*draw.choices(pool, k=max(0, target - 1)), renderer.end_id),
    )


def _lacking(lacking: Sequence[Example], of: int, where: str, role: str) -> str:
    return (
        f"The method answers {role} questions with alternates, but {len(lacking)} of {of} {role} examples of {where} "
        f"have none (first: '{lacking[0].id}'). Give each other plausible answers in its meta, "
        f'"meta": {{"{ALTERNATES}": ["..."]}} (see docs/data.md; the sandbox writes its own: dataset.alternates=3), '
        "or prefer refusals: method=idk_dpo."
    )
