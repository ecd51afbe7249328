"""Gradient combination: how the terms' losses become one gradient. The `gradient` group chooses.

A combiner sees the weighted losses of every micro-batch through `accumulate`, writes `.grad` in `finish`, before
clipping, and takes the optimizer's step in `take`. One that needs the terms apart pays for its own backward passes; the
sum pays for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

TermLosses = Mapping[tuple[str, str], Tensor]


@dataclass(frozen=True)
class StepTools:
    """What a combiner may use of the optimizer step at hand.

    Attributes:
        step: 0-based optimizer step.
        seed: Of the run.
        parameters: Those that are trained.
        optimizer: Its state may be read; `step()` is called once, by `Combiner.take`.
        backward: Backward pass into `.grad`, which is averaged over ranks before `finish`.
        average: Averages tensors over ranks, in place; for gradients that `backward` did not see.
        evaluate: The step's weighted (term, role) losses over all ranks, at the present weights, without gradient.
    """

    step: int
    seed: int
    parameters: Sequence[Parameter]
    optimizer: Optimizer
    backward: Callable[[Tensor], None]
    average: Callable[[Sequence[Tensor]], None]
    evaluate: Callable[[], Mapping[tuple[str, str], float]]


class Combiner:
    """What the training step calls. A combiner may also have a static `problems(cfg) -> list[str]`: sentences on
    what it cannot work with, asked when the configuration is checked.
    """

    def accumulate(self, weighted: TermLosses, tools: StepTools) -> None:
        """Adds one micro-batch's weighted (term, role) losses."""
        raise NotImplementedError

    def finish(self, tools: StepTools) -> dict[str, float]:
        """Leaves the step's gradient in every parameter's `.grad`; returns figures to be logged."""
        return {}

    def take(self, tools: StepTools) -> dict[str, float]:
        """Takes the optimizer's step, once; returns figures to be logged."""
        tools.optimizer.step()
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State for the checkpoint: tensors and primitives."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""


class Sum(Combiner):
    """The plain sum of all weighted terms: one backward pass per micro-batch.

    Formula: g_f + g_r
    """

    def accumulate(self, weighted: TermLosses, tools: StepTools) -> None:
        """Backward through the sum."""
        if weighted:
            tools.backward(sum_of(list(weighted.values())))


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """Sum of at least one loss."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
