"""Where the time and memory of a training step go, and what its FLOPs should be."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.data.batch import Batch
from harmonize.models.body import unwrapped
from harmonize.models.head import Head
from harmonize.objectives.inputs import needs
from harmonize.tracking.environment import peak_memory_bytes, reset_peak_memory
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.steps import StepData
from harmonize.unlearning.terms import Denominators, Term, losses

DATA, FORWARD, HEAD, BACKWARD = "data", "student forward", "head and loss", "backward"
OPTIMISER, LOGGING = "optimiser", "logging"
WHOLE_VOCABULARY = {"student_logits", "label_log_probs"}  # fields whose gradient reaches every logit
STAGES = (DATA, FORWARD, HEAD, BACKWARD, OPTIMISER, LOGGING)


@dataclass
class Clock:
    """Adds up seconds of stages; a stage inside another is charged alone.

    Seconds are of the wall on a GPU, whose work each change of stage waits for, and of this process's CPU elsewhere.

    Attributes:
        cuda: Whether the work is done on a GPU.
        seconds: Stage to its own seconds.
        peak: Stage to the highest memory inside it, in bytes: allocated on a GPU, else resident.
        tokens, answers: Padded tokens and answer positions of the student's batches.
    """

    cuda: bool
    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    answers: int = 0
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    def start_anew(self) -> None:
        """Forgets what warming up took."""
        self.seconds.clear()
        self.peak.clear()
        self.tokens = self.answers = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charges what happens inside to a stage."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def turn_to(self, name: str) -> None:
        """The stage that is open goes on under another name."""
        self._charge()
        self._open[-1] = name

    def _charge(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        now = time.perf_counter() if self.cuda else time.process_time()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
            self.peak[name] = max(self.peak.get(name, 0), peak_memory_bytes())
        reset_peak_memory()
        self._since = time.perf_counter() if self.cuda else time.process_time()


class WatchedModule(UnlearningModule):
    """The module under a clock. Same steps, a little slower on a GPU, since every stage is waited for."""

    def __init__(self, student: nn.Module, terms: Sequence[Term], **settings: Any) -> None:
        super().__init__(student, terms, **settings)
        self.clock = Clock(next(student.parameters()).is_cuda)

    def training_step(self, step: StepData, batch_idx: int) -> None:
        """One optimizer step; rows and batches come first, figures and schedule last."""
        with self.clock.stage(DATA):
            super().training_step(step, batch_idx)

    def _forward(self, batch: Batch, total: Denominators) -> dict[tuple[str, str], Tensor]:
        self.clock.tokens += batch.input_ids.numel()
        self.clock.answers += batch.labels.numel()
        with self.clock.stage(FORWARD):
            outputs = self._parts.forward(batch)
        with self.clock.stage(HEAD):
            return losses(self.terms, outputs, batch, total)

    def _backward(self, loss: Tensor) -> None:
        with self.clock.stage(BACKWARD):
            super()._backward(loss)
        self.clock.turn_to(OPTIMISER)  # combining gradients, clipping, the update

    def _report(self, *args: Any) -> None:
        self.clock.turn_to(LOGGING)
        super()._report(*args)


def step_flops(model: nn.Module, terms: Sequence[Term], tokens: int, answers: int) -> Mapping[str, float]:
    """FLOPs that a step's products should take, by stage.

    A forward takes 2 FLOPs per weight of the body and token; a backward as many for the gradients of the states, and
    as many again for those of the trained weights. Attention scores, recomputation and the teacher are left out. The
    head takes 2 per weight and answer position; where a term reads every logit, its backward takes as many for the
    states and, where it is trained, for its weights. A term that reads a few logits has next to no backward there.

    Args:
        model: The student, possibly with adapters.
        terms: The method's objectives.
        tokens, answers: Padded tokens and answer positions.
    """
    head = Head.of(model)
    embedding: Any = unwrapped(model).get_input_embeddings()  # type: ignore[operator]
    outside = {id(head.weight), id(embedding.weight)}
    body = [p for p in model.parameters() if id(p) not in outside]
    whole = sum(p.numel() for p in body)
    trained = sum(p.numel() for p in body if p.requires_grad)
    wide = any(needs(t.function) & WHOLE_VOCABULARY for t in terms)
    product = 2.0 * head.weight.numel() * answers
    return {
        FORWARD: 2.0 * whole * tokens,
        HEAD: product,
        BACKWARD: 2.0 * (whole + trained) * tokens
        + (product * (2 if head.weight.requires_grad else 1) if wide else 0.0),
    }
