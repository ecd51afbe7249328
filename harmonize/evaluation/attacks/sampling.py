"""Sampling: many answers at a temperature, where greedy decoding shows one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harmonize.config.rules import positive
from harmonize.data.corpus import Corpus
from harmonize.data.render import Renderer
from harmonize.errors import ConfigError
from harmonize.evaluation.attacks import Cost
from harmonize.evaluation.attacks.texts import check_counts, some
from harmonize.evaluation.metrics import MetricSpec, Where, leak_at
from harmonize.evaluation.questions import plain_queries
from harmonize.evaluation.records import Query, Question


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """n answers to every question, sampled from softmax(logits / temperature); nothing else is changed.

    Every draw is a function of seed, example, phrasing and its number. `asr_sampling` is the mean over draws,
    `asr_sampling_worst` the share of questions that leak in any of them, `asr_sampling@k` what k draws find.

    Formula: leak@k = 1 - C(n - c, k) / C(n, k), c of n draws right
    Costs: `draws` answers per question; the prompt is read once for all

    Args:
        draws: Answers per question. temperature: Of the softmax.
        ks: Numbers of draws that are reported.
        max_facts: As in `TextAttack`.

    Source: leak@k, arXiv 2511.04934 (abstract); draws and temperature are ours.
    """

    draws: int = 16
    temperature: float = 1.0
    ks: tuple[int, ...] = (1, 4, 16)
    max_facts: int | None = None
    name: str = "sampling"

    def __post_init__(self) -> None:
        check_counts(self.name, draws=self.draws, max_facts=self.max_facts)
        problems = positive(f"attack.{self.name}.temperature", self.temperature)
        problems += [
            f"attack.{self.name}.ks: {k} is not between 1 and draws={self.draws}. "
            f"Use attack.{self.name}.ks=[1,{self.draws}]."
            for k in self.ks
            if not 1 <= k <= self.draws
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def queries_per_question(self) -> int:
        """One per draw."""
        return self.draws

    @property
    def cost(self) -> Cost:
        """Queries alone."""
        return Cost(self.draws)

    def metrics(self) -> list[MetricSpec]:
        """leak@k, of facts used in unlearning."""
        where = Where("forget", trained=True, attacks=(self.name,))
        why = "no forget fact is used in unlearning (split train), or this model cannot be sampled"
        return [MetricSpec(f"asr_{self.name}@{k}", leak_at(k), where, False, why) for k in self.ks]

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """Draw by draw."""
        return drawn(some(questions, self.max_facts), renderer, self.name, self.draws, self.temperature)


def drawn(
    questions: Sequence[Question], renderer: Renderer, attack: str, draws: int, temperature: float
) -> list[Query]:
    """The plain questions, each to be answered `draws` times."""
    plain = plain_queries(questions, renderer, attack)
    return [
        Query(
            q.question, q.reference, q.reference_tokens, attack, draw=number, temperature=float(temperature)
        )
        for number in range(draws)
        for q in plain
    ]
