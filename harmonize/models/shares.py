"""How processes that hold one model in shares divide what it is asked.

A forward pass of such a model takes all of them, whatever each one asks. Here is the case of one process, which holds a
model alone; `harmonize.unlearning.together` has that of several.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")


class Shares:
    """One process with a whole model; base of several.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def takes(self, batch: int) -> bool:
        """Whether a batch of that number is this process's to compute.

        Whole batches are dealt out, not rows: each is then what one process alone would compute, to the last bit.
        """
        return batch % self.size == self.rank

    def together(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Inside, forward passes of the model need not be equal in number; it ends for all at once."""
        return contextlib.nullcontext()

    def of_first(self, value: T) -> T:
        """The first process's value."""
        return value

    def of_all(self, value: T) -> list[T]:
        """Every process's value."""
        return [value]

    def to_first(self, found: Sequence[Any]) -> Iterator[Any]:
        """Yields, to the first process alone, what the others have found. All must iterate."""
        yield from ()


ALONE = Shares()
