"""The loader: one item is one whole optimizer step, so a checkpoint never cuts through an accumulation window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from torch.utils.data import IterableDataset

from harmonize.data.batch import Batch, Row, collate, flatten

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StepData:
    """The rows of one optimizer step; a place with several rows asks for the worst of them.

    Not a dataclass: Lightning looks into those to cast what they hold (`trainer.precision=bf16-true`), and fails on
    frozen ones.

    Attributes:
        step: 0-based optimizer step.
        places: One list of candidate rows per drawn example.
    """

    __slots__ = ("places", "step")

    def __init__(self, step: int, places: tuple[tuple[Row, ...], ...]) -> None:
        self.step, self.places = step, places


class Draws(Protocol[T_co]):
    """Whatever can be drawn for a step: examples in unlearning, rows in fine-tuning."""

    def draw(self, step: int) -> Sequence[T_co]:
        """Draws of optimizer step `step` (0-based)."""
        ...


class StepLoader(IterableDataset[StepData], Generic[T]):
    """Yields `StepData` from wherever training stands, for ever; the trainer decides when to stop.

    Args:
        sampler: Says which examples a step holds.
        views: Candidate rows of a drawn example.
        start: Called when iteration begins: the first step to yield (not 0 after a resume).
    """

    def __init__(
        self, sampler: Draws[T], views: Callable[[T], Sequence[Row]], start: Callable[[], int]
    ) -> None:
        super().__init__()
        self.sampler, self.views, self.start = sampler, views, start

    def __iter__(self) -> Iterator[StepData]:
        step = self.start()
        while True:
            yield StepData(step, tuple(tuple(self.views(d)) for d in self.sampler.draw(step)))
            step += 1


def micro_batches(
    rows: Sequence[Row], parts: int, pad_id: int, tokens: int | None = None, pad_to: int = 1
) -> list[Batch]:
    """Rows of one step as padded batches of neighbouring lengths; companions stay together.

    How a step is cut does not change what it learns: losses are means over the whole step.

    Args:
        rows: Of the step.
        parts: Batches at most.
        pad_id: Fills padded columns.
        tokens: Tokens of a batch at most, padding included, in as many batches as that takes; None = no limit. A row
            (with its companions) that is longer is a batch by itself.
        pad_to: Widths are multiples of this.
    """
    ordered = sorted(rows, key=lambda r: -max((r.length, *(c.length for c in r.companions))))
    size = -(-len(ordered) // max(1, parts))
    groups = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    if tokens is not None:
        groups = [part for group in groups for part in _within(group, tokens, pad_to)]
    return [collate(flatten(group), pad_id, pad_to=pad_to) for group in groups]


def _within(ordered: Sequence[Row], tokens: int, pad_to: int) -> Iterator[list[Row]]:
    """Rows, longest first, cut where the next one would be too much."""
    part: list[Row] = []
    width = count = 0
    for row in ordered:
        members = 1 + len(row.companions)
        if part and (count + members) * width > tokens:
            yield part
            part, count = [], 0
        if not part:
            width = max((row.length, *(c.length for c in row.companions)))
            width = -(-width // pad_to) * pad_to
        part.append(row)
        count += members
    if part:
        yield part
