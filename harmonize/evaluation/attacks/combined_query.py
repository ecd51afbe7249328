"""Combined queries: a forget question and a retain question in one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.prefill import unit_hash
from harmonize.data.render import Renderer
from harmonize.evaluation.attacks import Cost
from harmonize.evaluation.attacks.context_hint import POOL
from harmonize.evaluation.attacks.texts import (
    asked,
    check_counts,
    check_templates,
    filled,
    known,
    scored_words,
    some,
    tells,
)
from harmonize.evaluation.metrics import MetricSpec, Where, accuracy
from harmonize.evaluation.questions import capped, used_facts
from harmonize.evaluation.records import Query, Question


@dataclass(frozen=True, kw_only=True)
class CombinedQuery:
    """Both questions at once; each half is judged by itself, on the same answer.

    The retain half is reported as `combined_query_retain_accuracy`: what is to be kept while the other is refused.

    Costs: `budget` answers per question

    Args:
        templates: With {question} and {retain}, the retain question.
        budget: Most queries per question. max_facts: As in `TextAttack`.

    Source: BLUR (arXiv 2506.15699, abstract): queries that hold a forget and a retain request. Pairs by a hash and
        plain concatenation are ours; its score definitions were not read.
    """

    templates: tuple[str, ...] = ("{retain} {question}", "{question} {retain}")
    budget: int = 4
    max_facts: int | None = None
    name: str = "combined_query"

    def __post_init__(self) -> None:
        check_counts(self.name, budget=self.budget, max_facts=self.max_facts)
        check_templates(self.name, self.templates, ("question", "retain"), ("retain",))

    @property
    def queries_per_question(self) -> int:
        """One per template, up to the budget."""
        return min(self.budget, max(1, len(self.templates)))

    @property
    def cost(self) -> Cost:
        """Queries alone."""
        return Cost(self.queries_per_question)

    def metrics(self) -> list[MetricSpec]:
        """The retain half."""
        where = Where("retain", attacks=(self.name,))
        why = "no retain fact is used in unlearning (split train)"
        return [MetricSpec(f"{self.name}_retain_accuracy", accuracy, where, True, why)]

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """For each question and template the forget half and the retain half, which are one answer."""
        found, pool = [], capped(used_facts(corpus, "retain"), POOL)
        for q in some(questions, self.max_facts):
            partner = self._partner(pool, q)
            if partner is None:
                continue
            other = partner.paraphrases[-1] if partner.paraphrases else partner.question
            fields = {**known(q.example, q.text), "retain": other}
            texts = [text for t in self.templates if (text := filled(t, fields)) is not None]
            for i, text in enumerate(texts[: self.budget]):
                half = Question(partner, other, q.prompt, q.trained, q.instruction)
                found += [asked(each, renderer, self.name, text, f"template-{i}") for each in (q, half)]
        return found

    def _partner(self, pool: Sequence[Example], q: Question) -> Example | None:
        """A retain fact that tells nothing of the asked one, nor has an answer that would pass for its."""
        scored = scored_words(q.example)
        facts = [e for e in pool if not tells(" ".join((e.question, e.answer, *e.paraphrases)), scored)]
        return min(
            facts, key=lambda e: (unit_hash(self.name, q.example.fact_id, e.fact_id), e.fact_id), default=None
        )
