"""Adapter removal: an adapter that is shipped beside its base can be taken off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.data.render import Renderer
from harmonize.evaluation.attacks import Cost
from harmonize.evaluation.attacks.texts import check_counts, some
from harmonize.evaluation.questions import plain_queries
from harmonize.evaluation.records import Query, Question
from harmonize.models.lora import has_adapters


@dataclass(frozen=True, kw_only=True)
class AdapterRemoval:
    """The model with its adapters off; only where they are shipped apart from the base.

    Costs: an answer per question

    Args:
        merged: The adapter is merged into what is exported, so nobody can take it off (`peft.merge`).
        max_facts: As in `TextAttack`.

    Source: our choice; that an adapter alone leaves the knowledge in its base.
    """

    merged: bool = False
    max_facts: int | None = None
    name: str = "adapter_removal"

    def __post_init__(self) -> None:
        check_counts(self.name, max_facts=self.max_facts)

    @property
    def queries_per_question(self) -> int:
        """The plain question."""
        return 1

    @property
    def cost(self) -> Cost:
        """Queries, with the weights at hand."""
        return Cost(1, access="weights")

    def inapplicable(self, model: Any) -> str:
        """Why it cannot be tried on this model, as the end of a sentence; empty where it can."""
        if not has_adapters(model):
            return "there is no adapter to take off"
        return "the adapter is merged into what is exported (peft.merge=true)" if self.merged else ""

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """The plain questions."""
        return plain_queries(some(questions, self.max_facts), renderer, self.name)

    @contextmanager
    def changed(self, model: Any, corpus: Corpus, renderer: Renderer) -> Iterator[None]:
        """Adapters are off inside; after, what is trained is what was."""
        flags = [(p, p.requires_grad) for p in model.parameters()]
        try:
            with model.disable_adapter():
                yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
