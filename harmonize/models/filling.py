"""Arrays of a teacher cache while they are computed: written as they come, and kept where they are small."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from harmonize.data.transfer import fetching, sent
from harmonize.models.generate import Progress
from harmonize.models.head import Head
from harmonize.models.shares import Shares
from harmonize.models.store import RAM_BYTES, open_array

OFFSETS = "offsets.npy"  # where each response begins, and where the last one ends
_WAITING = 2  # batches that may wait for the disk


class Asked(Protocol):
    """A request of which the response is known (`TeacherRequest`)."""

    @property
    def target(self) -> tuple[int, ...] | None:
        """Response ids."""


class Teaches(Protocol):
    """What yields hidden states batch by batch, those that are this process's to compute."""

    @property
    def model(self) -> Any:
        """What is run."""

    @property
    def shares(self) -> Shares:
        """The processes that hold the model together."""

    def batches(self, requests: Sequence[Any], done: Progress | None = None) -> Any:
        """(numbers of the requests, their fp16 states [m, H] each)."""


def fill_teacher(
    work: Path | None,
    teacher: Teaches,
    head: Head,
    requests: Sequence[Asked],
    mode: str,
    kept: int,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """Writes the arrays of a teacher cache.

    Args:
        work: Folder to write into, or None in a process that hands over to the first what it computes.
        teacher: Computes the states.
        head: Frozen head.
        requests: In the order of the arrays.
        mode: `hidden` or `topk`.
        kept: Length of the stored lists.
        progress: Called with (done, total).

    Returns:
        The arrays on the head's device, where they are small enough to stay in memory; else nothing.
    """
    ends = np.cumsum([0, *(len(r.target or ()) for r in requests)]).astype(np.int64)
    total, device, shares = int(ends[-1]), head.weight.device, teacher.shares
    kinds: dict[str, tuple[int, type, torch.dtype]] = {
        "top_ids": (kept, np.int32, torch.int32),
        "top_values": (kept, np.float32, torch.float32),
    }
    if mode == "hidden":
        kinds["hidden"] = (int(head.weight.shape[1]), np.float16, torch.float16)
    files: dict[str, np.memmap] = {}
    if work is not None:
        np.save(work / OFFSETS, ends)
        np.save(work / "targets.npy", np.array([i for r in requests for i in r.target or ()], dtype=np.int32))
        files = {n: open_array(work, n, (total, width), kind) for n, (width, kind, _) in kinds.items()}
    small = shares.size == 1 and sum(file.nbytes for file in files.values()) <= RAM_BYTES
    here = {
        name: torch.empty((total, width), dtype=kind, device=device)
        for name, (width, _, kind) in kinds.items()
        if small
    }
    handed: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    with _writing(files, aside=device.type == "cuda") as write:
        with shares.together(teacher.model):
            for which, states in teacher.batches(requests, progress):
                flat = torch.cat(states)
                ids, values = head.canonical_top(flat, kept)
                place = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in which])
                tensors = {"top_ids": ids.to(torch.int32), "top_values": values, "hidden": flat}
                found = {name: tensors[name] for name in kinds}
                if work is None:
                    handed.append((place, {name: t.cpu().numpy() for name, t in found.items()}))
                    continue
                write(place, found)
                index = sent(torch.from_numpy(place), device)
                for name, kept_here in here.items():
                    kept_here.index_copy_(0, index, found[name])
        for place, arrays in shares.to_first(handed):
            write(place, {name: torch.from_numpy(a) for name, a in arrays.items()})
    return here


@contextlib.contextmanager
def _writing(files: Mapping[str, np.memmap], aside: bool) -> Iterator[Any]:
    """A function that puts rows of tensors into the files, in a thread of its own if `aside`.

    Nothing waits for the disk: a file that a crash cut short fails its checksum.
    """

    def put(place: np.ndarray, fetch: Callable[[], Mapping[str, Tensor]]) -> None:
        here = fetch()
        for name, file in files.items():
            file[place] = here[name].numpy()

    def now(place: np.ndarray, found: Mapping[str, Tensor]) -> None:
        put(place, fetching(found))

    if not aside:
        yield now
    else:
        with ThreadPoolExecutor(1) as pool:
            waiting: list[Future[None]] = []

            def later(place: np.ndarray, found: Mapping[str, Tensor]) -> None:
                while len(waiting) >= _WAITING:
                    waiting.pop(0).result()
                waiting.append(pool.submit(put, place, fetching(found)))

            yield later
            for future in waiting:
                future.result()
