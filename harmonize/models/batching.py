"""Batches that shrink when memory runs out, so that a long evaluation does not die of one long prompt."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from harmonize.console import warn
from harmonize.errors import ModelError

T = TypeVar("T")
R = TypeVar("R")

_CPU_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def batched(
    items: Sequence[T],
    batch_size: int,
    run: Callable[[Sequence[T]], R],
    fit: Callable[[Sequence[T]], int] | None = None,
) -> Iterator[tuple[Sequence[T], R]]:
    """Runs a function on consecutive batches; when memory runs out the batch is halved, with a notice, and it goes on.

    Args:
        items: In the order they are to be run, the longest first: then what fits once fits to the end.
        batch_size: Items of one call at most. After running out it stays halved for this call.
        run: Takes the items of a batch.
        fit: How many of a batch may be run at once (at least one is).

    Yields:
        Each batch with what `run` returned.

    Raises:
        ModelError: A single item does not fit.
    """
    size, start = max(1, batch_size), 0
    while start < len(items):
        part = items[start : start + size]
        if fit is not None:
            part = part[: max(1, fit(part))]
        try:
            found = run(part)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        else:
            yield part, found
            start += len(part)
            continue
        # outside of `except`: its traceback would hold the tensors that did not fit
        if len(part) == 1:
            raise ModelError(
                f"Memory runs out on a single row ({reason}). Free some, use a smaller model.dtype, or leave out the "
                "longest prompts."
            )
        size = len(part) // 2
        warn(f"Memory ran out on {len(part)} rows at once; going on with {size}.")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in main memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _CPU_WORDS)
