"""Keyword emphasis: the words of a question that the answer hangs on are said again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.data.render import Renderer
from harmonize.evaluation.attacks import Cost
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
from harmonize.evaluation.records import Query, Question
from harmonize.evaluation.text import words


@dataclass(frozen=True, kw_only=True)
class KeywordEmphasis:
    """The question's own words of largest contribution to the answer, emphasised in templates.

    Formula: contribution of word i = log p(answer | question) - log p(answer | question without i)
    Costs: `budget` answers and up to `max_words` + 1 rows of log-probabilities per question

    Args:
        keywords: Words that are emphasised.
        max_words: Questions are read up to this many words.
        templates: With {question} and {keywords}.
        budget: Most queries per question. max_facts: As in `TextAttack`.

    Source: FocusOnKey of unPact (arXiv 2509.24675, note). Words in the place of tokens, the largest contributions in
        the place of its thresholds, the templates and judging by rule are ours.
    """

    keywords: int = 3
    max_words: int = 64
    templates: tuple[str, ...] = ("{keywords} . {question}",)
    budget: int = 4
    max_facts: int | None = None
    name: str = "keyword_emphasis"

    def __post_init__(self) -> None:
        check_counts(self.name, keywords=self.keywords, max_words=self.max_words)
        check_counts(self.name, budget=self.budget, max_facts=self.max_facts)
        check_templates(self.name, self.templates, ("question", "keywords"), ("keywords",))

    @property
    def queries_per_question(self) -> int:
        """One per template, up to the budget."""
        return min(self.budget, max(1, len(self.templates)))

    @property
    def cost(self) -> Cost:
        """Queries, and a row for each word."""
        return Cost(self.queries_per_question, rows=self.max_words + 1, access="log_probs")

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """None without looking at a model (`search`)."""
        return []

    def search(
        self, surface: Any, corpus: Corpus, questions: Sequence[Question], batch_size: int
    ) -> list[Query]:
        """Question by question, with the keywords that this model shows."""
        chosen = some(questions, self.max_facts)
        renderer = surface.renderer
        texts = [q.text.split()[: self.max_words] for q in chosen]
        pairs = []
        for q, text in zip(chosen, texts, strict=True):
            target = renderer.target_ids(q.example.answer)
            whole = q.text.split()
            without = [" ".join(whole[:i] + whole[i + 1 :]) for i in range(len(text))]
            pairs += [(renderer.prompt_ids(t, q.instruction), target) for t in (q.text, *without)]
        sums = iter(surface.log_probs(pairs, batch_size) if pairs else [])
        found = []
        for q, text in zip(chosen, texts, strict=True):
            known_of_all = next(sums)
            contributions = [known_of_all - next(sums) for _ in text]
            found += self._emphasised(renderer, q, text, contributions)
        return found

    def _emphasised(
        self, renderer: Renderer, q: Question, text: Sequence[str], contributions: Sequence[float]
    ) -> list[Query]:
        # rounding differs by batch, and must not decide which word comes first
        order = sorted(range(len(text)), key=lambda i: (-round(contributions[i], 3), i))
        scored = scored_words(q.example)
        best = sorted([i for i in order if words(text[i]) and not tells(text[i], scored)][: self.keywords])
        fields = {**known(q.example, q.text), "keywords": " ".join(text[i] for i in best)}
        ways: dict[str, Query] = {}
        for n, template in enumerate(self.templates[: self.budget]):
            said, supplied = filled(template, fields), filled(template, {**fields, "question": ""})
            if best and said is not None and not tells(supplied or "", scored):
                ways.setdefault(said, asked(q, renderer, self.name, said, f"template-{n}"))
        return list(ways.values())
