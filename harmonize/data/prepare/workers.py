"""An ordered map over batches of tasks: in this process, or in several whose number does not show in the result."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harmonize.data.unify.task import Failure, Pair, Rewriter, Task
from harmonize.data.unify.validate import Limits, reason
from harmonize.errors import RunError

if TYPE_CHECKING:
    from harmonize.data.prepare.pipeline import Item

# Batches a worker may be ahead of the one that is being written: enough to be busy, few enough to be small.
_AHEAD = 3

Outcome = Failure | list[tuple[Pair, str | None]]


@dataclass(frozen=True)
class Work:
    """What is done with a batch: rewriting, and the reason to reject each pair, if any.

    Attributes:
        limits: Bounds of validation.
        checked: Whether pairs are validated at all (the raw rendering is not).
    """

    limits: Limits
    checked: bool

    def __call__(self, rewriter: Rewriter, tasks: Sequence[Task]) -> list[Outcome]:
        """An outcome per task."""
        outcomes: list[Outcome] = []
        for task, result in zip(tasks, rewriter.rewrite(tasks) if tasks else (), strict=True):
            if isinstance(result, Failure):
                outcomes.append(result)
            elif self.checked:
                outcomes.append([(pair, reason(pair, task, self.limits)) for pair in result])
            else:
                outcomes.append([(pair, None) for pair in result])
        return outcomes


def mapped(
    batches: Iterable[list[Item]],
    rewriter: Rewriter,
    work: Work,
    workers: int,
    build: Callable[[], Rewriter] | None,
    total: int,
) -> Iterator[tuple[list[Item], list[Outcome]]]:
    """Every batch with its outcomes, in order.

    Args:
        batches: Items; those without a task are passed along.
        rewriter: For work in this process.
        work: What to do.
        workers: Processes; a batch each is the least that is worth one.
        build: Makes the rewriter in a process; a function that can be pickled.
        total: Tasks in all.

    Raises:
        RunError: A worker process was killed.
    """
    workers = min(workers, -(-total // max(1, rewriter.batch)))
    if workers <= 1 or build is None:
        for batch in batches:
            yield batch, work(rewriter, _tasks(batch))
        return
    yield from _in_processes(batches, work, workers, build)


def _in_processes(
    batches: Iterable[list[Item]], work: Work, workers: int, build: Callable[[], Rewriter]
) -> Iterator[tuple[list[Item], list[Outcome]]]:
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # A forked copy of a process with threads (progress bar, torch) may hang; a spawned one does not.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (build, work))
    waiting: deque[tuple[list[Item], Future[list[Outcome]]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(_run, _tasks(batch))))
            if len(waiting) >= _AHEAD * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "A worker process ended by itself; perhaps the memory was full. Try again with workers=1."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tasks(batch: Iterable[Item]) -> list[Task]:
    return [item.task for item in batch if item.task is not None]


_own: dict[str, Any] = {}


def _start(build: Callable[[], Rewriter], work: Work) -> None:
    """In a worker: Ctrl-C is for the parent to handle, and without the parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _own.update(rewriter=build(), work=work)


def _end_with_parent() -> None:
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(tasks: list[Task]) -> list[Outcome]:
    found: list[Outcome] = _own["work"](_own["rewriter"], tasks)
    return found
