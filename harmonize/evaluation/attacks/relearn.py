"""The relearning probe: does teaching a few forgotten facts again bring back the others?

Source: the question is that of Hu et al. 2024 (benign relearning) and Lynch et al. 2024; steps, facts and
optimizer are our choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example, Split
from harmonize.data.prefill import unit_hash
from harmonize.data.render import Renderer
from harmonize.evaluation.likelihood import target_log_probs
from harmonize.evaluation.questions import plain_queries, used_facts
from harmonize.evaluation.records import Query, Question
from harmonize.models.head import evaluating

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

    @property
    def queries_per_question(self) -> int:
        """The plain question."""
        return 1

    def taught(self, corpus: Corpus) -> tuple[Example, ...]:
        """The facts that are taught: chosen by a hash of their id, the same for every model and seed."""
        used = used_facts(corpus, "forget")
        return tuple(sorted(used, key=lambda e: (unit_hash(RELEARN, e.fact_id), e.fact_id))[: self.facts])

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
        pairs: list[tuple[tuple[int, ...], tuple[int, ...]]],
        pad_id: int,
    ) -> None:
        tokens = sum(len(target) for _, target in pairs)
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.0)
        # An evaluation inside a validation loop runs under inference mode, which forbids gradients.
        with evaluating(model), torch.inference_mode(False), torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad(set_to_none=True)
                loss = -target_log_probs(model, pairs, pad_id).sum() / tokens
                loss.backward()  # type: ignore[no-untyped-call]
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
