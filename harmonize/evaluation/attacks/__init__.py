"""Attacks: ways to make a model say what it was to forget.

An attack turns questions into queries, may look at the model to write them, and may change it first. It supplies text
or weights but never the answer: only the continuation is judged. It counts only if it works on the untouched model
(`harmonize.evaluation.proof`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from harmonize.data.corpus import Corpus
from harmonize.data.render import Renderer
from harmonize.errors import ConfigError
from harmonize.evaluation.records import Query, Question, Record


@dataclass(frozen=True)
class Cost:
    """What an attack may spend, declared before it runs and enforced.

    Attributes:
        queries: Answers generated to one question, over all stages.
        rows: Sequences that are read to prepare one question (log-probabilities, a search), answers apart.
        steps: Optimizer steps, in all.
        access: What the attacker must have: `queries`, `log_probs` of given texts, or the `weights`.
    """

    queries: int = 1
    rows: int = 0
    steps: int = 0
    access: str = "queries"


@runtime_checkable
class Attack(Protocol):
    """What every attack offers. One that declares more than queries has a property `cost` as well (`cost_of`), and one
    that may find nothing to ask can say what to do about it in `otherwise`.
    """

    @property
    def name(self) -> str:
        """Stable; records carry it, metrics select by it."""

    @property
    def queries_per_question(self) -> int:
        """Its budget: the largest number of queries made of one question."""

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """The questions under this attack; a question it cannot be made of is left out."""


@runtime_checkable
class ModelAttack(Attack, Protocol):
    """An attack that changes the model before it asks."""

    def changed(self, model: Any, corpus: Corpus, renderer: Renderer) -> AbstractContextManager[None]:
        """The model is changed inside and bit for bit as before after."""


@runtime_checkable
class StagedAttack(Attack, Protocol):
    """An attack that changes the model again and again, and asks the same queries each time."""

    def stages(
        self, model: Any, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]
    ) -> AbstractContextManager[Iterator[str]]:
        """An iterator that changes the model and names the stage; after, the model is bit for bit as before."""


@runtime_checkable
class SearchAttack(Attack, Protocol):
    """An attack that looks at the model to write its queries."""

    def search(
        self, surface: Any, corpus: Corpus, questions: Sequence[Question], batch_size: int
    ) -> list[Query]:
        """The questions under this attack, on this model."""


@runtime_checkable
class ScoredAttack(Attack, Protocol):
    """An attack that also judges by log-probabilities what nothing is generated for."""

    def scored(
        self, surface: Any, corpus: Corpus, questions: Sequence[Question], batch_size: int
    ) -> list[Record]:
        """Records of its own kind."""


def cost_of(attack: Attack) -> Cost:
    """What an attack declares, or its queries alone."""
    found = getattr(attack, "cost", None)
    return found if isinstance(found, Cost) else Cost(queries=attack.queries_per_question)


class Meter:
    """Counts what an attack spends, and refuses what its declared cost does not cover."""

    def __init__(self, name: str, cost: Cost) -> None:
        self.name, self.cost = name, cost
        self.steps = 0
        self.rows: dict[object, int] = {}

    def rows_for(self, question: object, rows: int) -> bool:
        """Whether so many further rows for a question are within the budget; if so, they are taken."""
        spent = self.rows.get(question, 0) + rows
        if spent > self.cost.rows:
            return False
        self.rows[question] = spent
        return True

    def step(self) -> None:
        """One optimizer step.

        Raises:
            ConfigError: It is one more than declared.
        """
        self.steps += 1
        if self.steps > self.cost.steps:
            raise ConfigError(f"The attack '{self.name}' declares {self.cost.steps} steps and takes more.")
