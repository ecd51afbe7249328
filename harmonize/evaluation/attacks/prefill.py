"""Prefilling: the assistant's turn is already opened, and the model continues it.

Two readings of "prefill" that differ a lot in difficulty, both measured: an affirmative opener ("Sure, the answer
is"), and the first part of the true answer, up to any depth before the scored value.

Source: Qi et al. 2024 (shallow safety alignment) for answer prefixes; openers as in jailbreak practice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harmonize.data.corpus import Corpus
from harmonize.data.prefill import prefix_is_trained
from harmonize.data.render import Renderer
from harmonize.evaluation.records import Query, Question
from harmonize.evaluation.text import words

OPENER, OPENER_HELDOUT, ANSWER_PREFIX = "opener", "opener_heldout", "answer_prefix"


@dataclass(frozen=True)
class Openers:
    """Every question after every opener.

    Args:
        openers: Texts. name: `opener` for those training may use, `opener_heldout` for the others.
    """

    openers: tuple[str, ...]
    name: str = OPENER

    @property
    def queries_per_question(self) -> int:
        """One per opener."""
        return len(self.openers)

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """Opener by opener; the whole answer is still to be said."""
        return [
            Query(
                question=q,
                reference=q.example.answer,
                reference_tokens=len(renderer.target_ids(q.example.answer)),
                attack=self.name,
                view="opener",
                prefill=renderer.answer_ids(opener),
                prefill_text=opener,
                opener=opener,
            )
            for opener in self.openers
            for q in questions
        ]


@dataclass(frozen=True)
class AnswerPrefixes:
    """Every question after the first part of its own true answer, at several depths.

    A prefix contains no token of the scored value; an answer with nothing before its value has none and is left
    out, and so is a depth that leaves no word to be said. Where all of the answer is scored, what counts is the
    rest of it.

    Args:
        depths: Shares of the tokens before the value.
        heldout_share: `dataset.prefill.heldout_share`: marks facts whose own prefixes were never trained on.
    """

    depths: tuple[float, ...]
    heldout_share: float = 0.0
    name: str = ANSWER_PREFIX

    @property
    def queries_per_question(self) -> int:
        """One per depth."""
        return len(self.depths)

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """Depth by depth."""
        found = []
        for depth in self.depths:
            for q in questions:
                prefix = renderer.answer_prefix(q.example, depth)
                if not prefix:
                    continue
                rest = renderer.answer_ids(q.example.answer)[len(prefix) :]
                reference = renderer.decode(rest)
                if not words(reference):
                    continue
                found.append(
                    Query(
                        question=q,
                        reference=reference,
                        reference_tokens=len(rest) + 1,
                        attack=self.name,
                        view="prefix",
                        prefill=prefix,
                        prefill_text=renderer.decode(prefix),
                        depth=depth,
                        prefix_trained=prefix_is_trained(q.example.fact_id, self.heldout_share),
                    )
                )
        return found
