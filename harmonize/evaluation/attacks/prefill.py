"""Prefilling: the assistant's turn is already opened, and the model continues it.

Two readings of "prefill" that differ a lot in difficulty, both measured: an affirmative opener ("Sure, the answer
is"), and the first part of the true answer, up to any depth before the scored value.

Source: Qi et al. 2024 (shallow safety alignment) for answer prefixes; openers as in jailbreak practice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harmonize.data.corpus import Corpus
from harmonize.data.prefill import prefix_is_trained, unit_hash
from harmonize.data.render import Renderer
from harmonize.errors import ConfigError
from harmonize.evaluation.attacks import Cost
from harmonize.evaluation.attacks.texts import check_counts, scored_words, some, tells
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


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Every opener, every answer prefix, and every prefix after an opener; a budget takes some of them.

    A prefix is a share of the tokens before the value, or a number of tokens; it holds no token of the value. Which of
    the combinations are tried is decided by a hash of each, the same for all questions.

    Costs: `budget` answers per question

    Args:
        openers: Further openers, beside those of the data set (trained and held out).
        depths: Shares of the tokens before the value.
        lengths: Numbers of tokens, where so many stand before the value.
        budget: Most queries per question.
        max_facts: As in `TextAttack`.

    Source: Qi et al. 2024 (arXiv 2406.05946), whose scripts take the first tokens of a harmful answer; openers are
        jailbreak practice; the product of both and the choice among them are ours.
    """

    openers: tuple[str, ...] = ()
    depths: tuple[float, ...] = (0.5, 1.0)
    lengths: tuple[int, ...] = (1, 3)
    budget: int = 16
    max_facts: int | None = None
    name: str = "prefill"

    def __post_init__(self) -> None:
        check_counts(self.name, budget=self.budget, max_facts=self.max_facts)
        if wrong := [d for d in self.depths if not 0 < d <= 1]:
            raise ConfigError(
                f"attack.{self.name}.depths: {wrong[0]} is outside (0, 1]. For example "
                f"attack.{self.name}.depths=[0.5,1.0]."
            )
        if wrong := [n for n in self.lengths if isinstance(n, bool) or not isinstance(n, int) or n < 1]:
            raise ConfigError(
                f"attack.{self.name}.lengths: {wrong[0]} is no number of tokens. For example "
                f"attack.{self.name}.lengths=[1,3]."
            )

    @property
    def queries_per_question(self) -> int:
        """Its budget."""
        return self.budget

    @property
    def cost(self) -> Cost:
        """Queries alone."""
        return Cost(self.budget)

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """Question by question; equal prefills of one question are one."""
        openers = dict.fromkeys(("", *corpus.openers, *corpus.openers_heldout, *self.openers))
        sizes: list[float | int] = [0, *self.depths, *self.lengths]
        ways = [(o, s) for o in openers for s in sizes if o or s]
        ways.sort(key=lambda way: unit_hash(self.name, way[0], repr(way[1])))
        found: list[Query] = []
        for q in some(questions, self.max_facts):
            tried: dict[tuple[int, ...], Query] = {}
            for opener, size in ways:
                query = self._query(renderer, q, opener, size)
                if query is not None and len(tried) < self.budget:
                    tried.setdefault(query.prefill, query)
            found += tried.values()
        return found

    def _query(self, renderer: Renderer, q: Question, opener: str, size: float | int) -> Query | None:
        e = q.example
        before = renderer.answer_prefix(e, 1.0)
        if isinstance(size, int):
            prefix = before[:size] if len(before) >= size else ()
        else:
            prefix = renderer.answer_prefix(e, size)
        rest = renderer.answer_ids(e.answer)[len(prefix) :]
        reference = renderer.decode(rest) if prefix else e.answer
        if (size and not prefix) or not words(reference) or tells(opener, scored_words(e)):
            return None
        prefill = (*(renderer.answer_ids(opener) if opener else ()), *prefix)
        if not (text := renderer.decode(prefill)):  # a first token may be no more than a space
            return None
        return Query(
            question=q,
            reference=reference,
            reference_tokens=len(rest) + 1,
            attack=self.name,
            view="prefix" if prefix else "opener",
            prefill=prefill,
            prefill_text=text,
            opener=opener or None,
            variant=f"{'opener' if opener else 'plain'}+{size if size else 'nothing'}",
        )
