"""Gradient combination: how the terms' losses become one gradient. The `gradient` group chooses.

A combiner sees the weighted losses of every micro-batch through `accumulate`, then writes `.grad` in `finish`,
before clipping. One that needs the terms apart pays for its own backward passes; the sum pays for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor
from torch.nn import Parameter

TermLosses = Mapping[tuple[str, str], Tensor]


class Combiner(Protocol):
    """What the training step calls, once per micro-batch and once per step."""

    def accumulate(self, weighted: TermLosses, backward: Callable[[Tensor], None]) -> None:
        """Adds one micro-batch's weighted (term, role) losses."""
        ...

    def finish(self, parameters: Sequence[Parameter]) -> None:
        """Leaves the step's gradient in every parameter's `.grad`."""
        ...


class Sum:
    """The plain sum of all weighted terms: one backward pass per micro-batch."""

    def accumulate(self, weighted: TermLosses, backward: Callable[[Tensor], None]) -> None:
        """Backward through the sum."""
        if weighted:
            backward(sum_of(weighted))

    def finish(self, parameters: Sequence[Parameter]) -> None:
        """Nothing is left to do."""


def sum_of(weighted: TermLosses) -> Tensor:
    """Sum of at least one loss."""
    values = list(weighted.values())
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
