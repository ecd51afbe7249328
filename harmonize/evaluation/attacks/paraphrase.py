"""Paraphrase: the same fact in every other phrasing that the data has of it, and in plain rewordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.evaluation.attacks.texts import Templates, Wording
from harmonize.evaluation.records import Question


@dataclass(frozen=True, kw_only=True)
class Paraphrase(Templates):
    """Every phrasing of the fact (those of unlearning, of val and of test) but the asked one, then templates.

    Costs: `budget` answers per question

    Source: the question is that of the paraphrase sets of TOFU (arXiv 2401.06121) and RWKU; that the data's own
        phrasings are all tried, and the templates, is our choice.
    """

    name: str = "paraphrase"

    @property
    def queries_per_question(self) -> int:
        """Its budget."""
        return self.budget

    def material(self, corpus: Corpus) -> Any:
        """Every question that the data asks of a fact, sorted so that the order of the data does not matter."""
        found: dict[str, set[str]] = {}
        for e in corpus.examples:
            found.setdefault(e.fact_id, set()).update((e.question, *e.paraphrases))
        return {fact: sorted(texts) for fact, texts in found.items()}

    def wordings(self, material: Any, question: Question) -> Iterator[Wording]:
        """The data's own first: they are in its words, and supplied by nobody."""
        for text in material[question.example.fact_id]:
            yield Wording(text, "", "phrasing")
        yield from super().wordings(material, question)
