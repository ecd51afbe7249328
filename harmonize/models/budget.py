"""Disk space of a teacher or reference cache: predicted before it is built, compared with a budget and with the disk.

A teacher's position takes 2 H bytes of state (fp16), 8 K' of its top list (int32 ids, fp32 values) and 4 of its token;
with `topk` there is no state. H hidden size, K' length of the list.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harmonize.config.units import show_size
from harmonize.console import say, warn
from harmonize.errors import RunError
from harmonize.models.filling import OFFSETS, Asked
from harmonize.models.store import HEADER

LARGE = 100_000_000  # bytes from which a build is announced


@dataclass(frozen=True)
class Budget:
    """What one cache may take, and what becomes of one that would take more.

    Attributes:
        limit: Bytes; None leaves it to the disk.
        over: `error`, `topk` (a teacher keeps its top lists alone) or `none` (a live model).
        top_k: Length K' of the lists that take the place of states.
    """

    limit: int | None = None
    over: str = "error"
    top_k: int = 64


class Place(NamedTuple):
    """Where a mode's cache lies: its content key, its folder, and the length K' of its lists."""

    key: str
    folder: Path
    kept: int


def teacher_bytes(mode: str, width: int, kept: int) -> int:
    """Bytes of one position of a teacher's cache (`hidden` or `topk`)."""
    return (2 * width if mode == "hidden" else 0) + 8 * kept + 4


def free_space(folder: Path) -> int:
    """Bytes free where a folder is, or will be."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def fits(size: int, budget: Budget, folder: Path) -> bool:
    """Whether a cache of that size may be built in a folder."""
    return size <= free_space(folder) and (budget.limit is None or size <= budget.limit)


def announce(what: str, positions: int, each: int, folder: Path, at_most: bool = False) -> None:
    """One line on a large cache that is about to be built; `at_most`: its teacher has not answered yet."""
    size = positions * each
    if size >= LARGE:
        said = f"{'at most ' if at_most else ''}{show_size(size)} ({positions:,} positions of {each:,} B)"
        say(f"The {what}'s cache will take {said}; {show_size(free_space(folder))} are free: {folder}")


def choose(
    what: str,
    positions: int,
    sizes: Mapping[str, int],
    budget: Budget,
    folder: Path,
    at_least: bool = False,
) -> tuple[str, str]:
    """The first way to keep a cache that fits, among those that are allowed.

    Args:
        what: teacher or reference.
        positions: Response positions.
        sizes: Mode to the bytes of one position; the one that is wanted first.
        budget: Of the run.
        folder: Where it shall lie.
        at_least: `positions` is a lower bound, since the teacher has not answered yet.

    Returns:
        The mode, and what a reader of the results should know, or nothing.

    Raises:
        RunError: None fits.
    """
    wanted, *others = sizes
    if fits(positions * sizes[wanted], budget, folder):
        return wanted, ""
    needs = f"{'at least ' if at_least else ''}{show_size(positions * sizes[wanted])}"
    said = (
        f"The {what}'s cache needs {needs} ({positions:,} positions of {sizes[wanted]:,} B, "
        f"teacher.cache={wanted}), and {_room(positions * sizes[wanted], budget, folder)}."
    )
    allowed = [*(m for m in others if m == budget.over), *(["none"] if budget.over == "none" else [])]
    for mode in allowed:
        if mode == "none" or fits(positions * sizes[mode], budget, folder):
            note = f"{said} It was kept as teacher.cache={mode} (teacher.cache_over_budget={budget.over})."
            return mode, note
    raise RunError(f"{said} {_advice(positions, sizes, budget, folder, allowed)}")


def afford(
    mode: str,
    budget: Budget,
    requests: Sequence[Asked],
    complete: Callable[[], Sequence[Asked]],
    max_new_tokens: int,
    width: int,
    place: Callable[[str], Place],
) -> tuple[str, str]:
    """How a teacher's cache is kept: as wanted where it is there already or fits, else as the budget says.

    Its own responses are bounded by `max_new_tokens` at first. Only where that bound does not fit it answers before the
    decision; a build that cannot fit, however short the answers, is refused before.

    Args:
        mode: `hidden` or `topk`.
        budget: Of the run.
        requests: What is asked; those without a target are answered by the teacher itself.
        complete: Gives them all with their targets.
        max_new_tokens: Limit of an answer.
        width: Hidden size H.
        place: Where a mode's cache lies, and the length K' of its lists.

    Returns:
        As `choose`.

    Raises:
        RunError: Nothing that is allowed fits.
    """
    folder = place(mode).folder
    if (folder / HEADER).exists():
        return mode, ""
    modes = ["hidden", "topk"] if mode == "hidden" else [mode]
    sizes = {m: teacher_bytes(m, width, place(m).kept) for m in modes}
    own = sum(r.target is None for r in requests)
    given = sum(len(r.target or ()) for r in requests)
    positions = given + own * max_new_tokens
    if own and not fits(positions * sizes[mode], budget, folder):
        choose("teacher", given + own, sizes, budget, folder, at_least=True)
        earlier = place("topk").folder / OFFSETS
        if budget.over == "topk" and earlier.exists():  # its answers are known by their lengths
            positions, own = int(np.load(earlier)[-1]), 0
        else:
            positions, own = sum(len(r.target or ()) for r in complete()), 0
    mode, note = choose("teacher", positions, sizes, budget, folder)
    if note:
        warn(note)
    if mode != "none" and not (place(mode).folder / HEADER).exists():
        announce("teacher", positions, sizes[mode], place(mode).folder, at_most=bool(own))
    return mode, note


def _room(size: int, budget: Budget, folder: Path) -> str:
    free = free_space(folder)
    if budget.limit is not None and size > budget.limit:
        return f"teacher.cache_budget is {show_size(budget.limit)}"
    return f"{show_size(free)} are free at {folder.parent}"


def _advice(positions: int, sizes: Mapping[str, int], budget: Budget, folder: Path, tried: list[str]) -> str:
    size = positions * next(iter(sizes.values()))
    ways = []
    if budget.limit is not None and size > budget.limit:
        ways.append(f"teacher.cache_budget={show_size(1.1 * size).replace(' ', '')}")
    if size > free_space(folder):
        ways.append("room on the disk (harmonize clean caches --older-than 7d)")
        ways.append("paths.cache_dir=/another/disk")
    for mode in list(sizes)[1:]:
        short = " too" if mode in tried else ", where no objective reads all logits"
        need = show_size(positions * sizes[mode])
        ways.append(f"teacher.cache={mode} (it needs {need}{short})")
    ways.append("teacher.cache=none (nothing on the disk, a forward of the frozen model at every step)")
    return f"Use one of: {'; '.join(ways)}."
