"""Relearning: does teaching a few facts bring back forgotten ones? One probe, and curves over steps and sources.

Source: the question is that of Hu et al. 2024 (benign relearning) and Lynch et al. 2024; steps, facts and
optimizer are our choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harmonize.config.rules import positive
from harmonize.data.corpus import Corpus
from harmonize.data.example import Example, Split
from harmonize.data.prefill import unit_hash
from harmonize.data.render import Renderer
from harmonize.errors import ConfigError, did_you_mean
from harmonize.evaluation.attacks import Cost, Meter
from harmonize.evaluation.attacks.texts import check_counts, some
from harmonize.evaluation.likelihood import Pair, in_batches, target_log_probs
from harmonize.evaluation.metrics import MetricSpec, Where, accuracy
from harmonize.evaluation.questions import plain_queries, used_facts
from harmonize.evaluation.records import Query, Question
from harmonize.models.body import evaluating

RELEARN = "relearn"


@dataclass(frozen=True)
class Relearn:
    """Plain supervised learning on a few forget facts used in unlearning, then questions on the others.

    Every step sees all of the chosen facts, in all phrasings of unlearning with their true answers; AdamW without
    weight decay, constant learning rate, no dropout. What is trained is what training trains (adapters, if that is
    all), or every floating-point weight of a model that is frozen throughout.

    Args:
        steps: Optimizer steps. facts: How many facts are taught. lr: Learning rate.
        instruction: Read before the taught questions, if the model is measured under one.
    """

    steps: int = 30
    facts: int = 10
    lr: float = 1e-3
    instruction: str | None = None
    name: str = RELEARN
    otherwise = "It asks facts that it does not teach: lower suite.relearn_facts."

    @property
    def queries_per_question(self) -> int:
        """The plain question."""
        return 1

    @property
    def cost(self) -> Cost:
        """Queries and optimizer steps."""
        return Cost(1, steps=self.steps, access="weights")

    def taught(self, corpus: Corpus) -> tuple[Example, ...]:
        """The facts that are taught: chosen by a hash of their id, the same for every model and seed."""
        return first_facts(corpus, "forget", self.facts)

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """Questions on facts that are not taught."""
        taught = {e.fact_id for e in self.taught(corpus)}
        return plain_queries(
            [q for q in questions if q.example.fact_id not in taught], renderer, attack=self.name
        )

    @contextmanager
    def changed(self, model: nn.Module, corpus: Corpus, renderer: Renderer) -> Iterator[None]:
        """Inside, the model has relearned; after, weights, gradients and flags are as before, bit for bit."""
        taught = {e.fact_id for e in self.taught(corpus)}
        pairs = [
            (renderer.prompt_ids(e.question, self.instruction), renderer.target_ids(e.answer))
            for e in corpus.select("forget", Split.TRAIN)
            if e.fact_id in taught
        ]
        with weights_restored(model) as parameters:
            if pairs:
                self._train(model, parameters, pairs, renderer.pad_id)
            yield

    def _train(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        pairs: Sequence[Pair],
        pad_id: int,
    ) -> None:
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.0)
        for _ in range(self.steps):
            descend(model, optimizer, pairs, pad_id)


SOURCES = {"forget": "forget", "related": "neighbor", "unrelated": "retain"}
_ROWS = 16  # of one pass; gradients of a step's passes are added


@dataclass(frozen=True, kw_only=True)
class RelearnCurve:
    """Supervised learning on a few facts of one kind, and questions on forgotten facts after some of its steps.

    Three kinds, each from the model as it was: `forget` (facts used in unlearning; the questions are on the others),
    `related` (neighbor facts) and `unrelated` (retain facts). The taught forget facts are asked in no curve, so all
    curves are about the same questions. What is trained, and how, is as in `Relearn`.

    Costs: `max(steps)` optimizer steps per source, an answer per source and step count to one question

    Args:
        steps: After how many optimizer steps questions are asked.
        facts: How many facts of each source are taught, chosen by a hash, in all phrasings of unlearning.
        sources: Some of forget, related, unrelated.
        lr: Of AdamW, constant, without weight decay.
        max_facts: As in `TextAttack`.

    Source: arXiv 2406.13356 (abstract: a small and loosely related set brings back what was unlearned) and BLUR's
        relearning sets of graded difficulty (arXiv 2506.15699, note); sources, steps and optimizer are ours.
    """

    steps: tuple[int, ...] = (5, 10, 20, 40)
    facts: int = 10
    sources: tuple[str, ...] = tuple(SOURCES)
    lr: float = 1e-3
    max_facts: int | None = None
    name: str = RELEARN
    otherwise = "It asks facts that it does not teach: lower attack.relearn.facts."

    def __post_init__(self) -> None:
        check_counts(self.name, facts=self.facts, max_facts=self.max_facts)
        problems = positive(f"attack.{self.name}.lr", self.lr)
        if any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in self.steps) or not self.steps:
            problems.append(
                f"attack.{self.name}.steps={list(self.steps)}: expected whole numbers of at least 1. For example "
                f"attack.{self.name}.steps=[5,10,20]."
            )
        problems += [
            f"attack.{self.name}.sources: {did_you_mean(str(s), SOURCES)}"
            for s in self.sources
            if s not in SOURCES
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def queries_per_question(self) -> int:
        """The plain question, once per source and number of steps."""
        return max(1, len(self.sources) * len(set(self.steps)))

    @property
    def cost(self) -> Cost:
        """Queries and optimizer steps."""
        return Cost(self.queries_per_question, steps=len(self.sources) * max(self.steps), access="weights")

    @property
    def variants(self) -> tuple[str, ...]:
        """Every stage; the probe of the suite, whose records have the same name, is none of them."""
        return tuple(f"{source}@{step}" for source in self.sources for step in sorted(set(self.steps)))

    def metrics(self) -> list[MetricSpec]:
        """`relearn_accuracy_<source>@<steps>`, of facts that were used in unlearning and are not taught."""
        found = []
        for source in self.sources:
            for step in sorted(set(self.steps)):
                where = Where("forget", trained=True, attacks=(self.name,), variants=(f"{source}@{step}",))
                why = f"no {SOURCES[source]} fact to teach, or no forget fact left to ask"
                metric = f"relearn_accuracy_{source}@{step}"
                found.append(MetricSpec(metric, accuracy, where, False, why, metric))
        return found

    def taught(self, corpus: Corpus, source: str) -> tuple[Example, ...]:
        """The facts of a source that are taught: the same for every model and seed."""
        return first_facts(corpus, SOURCES[source], self.facts)

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """The plain questions on facts that no source teaches."""
        taught = {e.fact_id for e in self.taught(corpus, "forget")} if "forget" in self.sources else set()
        left = [q for q in questions if q.example.fact_id not in taught]
        return plain_queries(some(left, self.max_facts), renderer, attack=self.name)

    @contextmanager
    def stages(
        self, model: nn.Module, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]
    ) -> Iterator[Iterator[str]]:
        """Each source starts from the model as it was; within one, training goes on from stage to stage."""
        instruction = next((q.instruction for q in questions), None)
        with weights_restored(model) as parameters:
            snapshot = [p.detach().to("cpu", copy=True) for p in parameters]
            meter = Meter(self.name, self.cost)

            def each() -> Iterator[str]:
                for source in self.sources:
                    with torch.no_grad():
                        for p, before in zip(parameters, snapshot, strict=True):
                            p.copy_(before)
                    pairs = self._pairs(corpus, renderer, source, instruction)
                    optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.0)
                    done = 0
                    for step in sorted(set(self.steps)) if pairs else ():
                        for _ in range(step - done):
                            meter.step()
                            descend(model, optimizer, pairs, renderer.pad_id)
                        done = step
                        yield f"{source}@{step}"

            yield each()

    def _pairs(
        self, corpus: Corpus, renderer: Renderer, source: str, instruction: str | None
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(prompt, answer) of the taught facts, in an order that the data does not decide."""
        taught = {e.fact_id for e in self.taught(corpus, source)}
        rows = {
            (e.fact_id, e.question): (
                renderer.prompt_ids(e.question, instruction),
                renderer.target_ids(e.answer),
            )
            for e in corpus.select(SOURCES[source], Split.TRAIN)
            if e.fact_id in taught
        }
        return [rows[key] for key in sorted(rows)]


def first_facts(corpus: Corpus, role: str, count: int) -> tuple[Example, ...]:
    """So many facts of a role that are used in unlearning, the first by a hash of their id."""
    used = used_facts(corpus, role)
    return tuple(sorted(used, key=lambda e: (unit_hash(RELEARN, e.fact_id), e.fact_id))[:count])


def descend(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: Sequence[Pair],
    pad_id: int,
) -> None:
    """One step on the mean loss of all answer tokens, in passes of a few rows; without dropout.

    A pass that does not fit into memory is halved, with a notice; what it left half-done is not added. An evaluation
    inside a validation loop runs under inference mode, which forbids gradients; it is off here.

    Raises:
        ModelError: A single row does not fit.
    """
    tokens = sum(len(target) for _, target in pairs)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def gradients(some: list[Pair]) -> tuple[Tensor | None, ...]:
        loss = -target_log_probs(model, some, pad_id).sum() / tokens
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        optimizer.zero_grad(set_to_none=True)
        for _, found in in_batches(model, pairs, _ROWS, gradients):
            for p, g in zip(parameters, found, strict=True):
                if g is not None:
                    p.grad = g if p.grad is None else p.grad + g  # not in place: gradients may share memory
        optimizer.step()


@contextmanager
def weights_restored(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Yields the parameters to train; whatever happens to them is undone at the end, bit for bit.

    These are the trainable ones, or all floating-point ones (made trainable meanwhile) if none is. The snapshot
    lives in main memory.
    """
    everything = list(model.parameters())
    flags = [p.requires_grad for p in everything]
    gradients = [p.grad for p in everything]
    parameters = [p for p in everything if p.requires_grad]
    if not parameters:
        parameters = [p for p in everything if p.is_floating_point()]
    snapshot = [p.detach().to("cpu", copy=True) for p in parameters]
    try:
        for p in everything:
            p.grad = None
        for p in parameters:
            p.requires_grad_(True)
        yield parameters
    finally:
        with torch.no_grad():
            for p, before in zip(parameters, snapshot, strict=True):
                p.copy_(before)
        for p, flag, gradient in zip(everything, flags, gradients, strict=True):
            p.requires_grad_(flag)
            p.grad = gradient
