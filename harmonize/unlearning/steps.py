"""The loader: one item is one whole optimizer step, so a checkpoint never cuts through an accumulation window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import IterableDataset

from harmonize.data.batch import Batch, Row, collate
from harmonize.data.sampling import Draw, Sampler


@dataclass(frozen=True)
class StepData:
    """The rows of one optimizer step; a place with several rows asks for the worst of them.

    Attributes:
        step: 0-based optimizer step.
        places: One list of candidate rows per drawn example.
    """

    step: int
    places: tuple[tuple[Row, ...], ...]


class StepLoader(IterableDataset[StepData]):
    """Yields `StepData` from wherever training stands, for ever; the trainer decides when to stop.

    Args:
        sampler: Says which examples a step holds.
        views: Candidate rows of a drawn example.
        start: Called when iteration begins: the first step to yield (not 0 after a resume).
    """

    def __init__(
        self, sampler: Sampler, views: Callable[[Draw], Sequence[Row]], start: Callable[[], int]
    ) -> None:
        super().__init__()
        self.sampler, self.views, self.start = sampler, views, start

    def __iter__(self) -> Iterator[StepData]:
        step = self.start()
        while True:
            yield StepData(step, tuple(tuple(self.views(d)) for d in self.sampler.draw(step)))
            step += 1


def micro_batches(rows: Sequence[Row], parts: int, pad_id: int) -> list[Batch]:
    """Rows of one step as at most `parts` padded batches of neighbouring lengths."""
    ordered = sorted(rows, key=lambda r: -r.length)
    size = -(-len(ordered) // max(1, parts))
    return [collate(ordered[i : i + size], pad_id) for i in range(0, len(ordered), size)]
