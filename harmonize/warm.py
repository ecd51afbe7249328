"""What the runs of one process share: a thing that was loaded stays until another one takes its place.

A sweep runs its jobs inside `kept()`. There `keep(place, key, make)` answers with what it has, where the key is the
same; a place holds one thing at most, and what it held is let go before the next is made. Outside, where single runs
are, nothing stays and nothing is copied.

A key names the content: settings, and the files behind them by `files_of`. What a run changes (weights) is lent as a
copy, so that the next run finds it as it was loaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
SHARE = 0.25  # of the memory that is free, which one kept thing may take
_MOST_FILES = 10_000
_SMALL = 1 << 16  # bytes
_places: ContextVar[dict[str, tuple[Any, Any]] | None] = ContextVar("kept between runs", default=None)


@contextmanager
def kept() -> Iterator[None]:
    """Inside, what is loaded stays for the next run; at the end all of it is let go."""
    token = _places.set({})
    try:
        yield
    finally:
        _places.reset(token)


def keep(
    place: str,
    key: Any,
    make: Callable[[], T],
    lend: Callable[[T], T] | None = None,
    n_bytes: int = 0,
) -> T:
    """What is in a place, or what `make` gives, which then stays there.

    Args:
        place: Such as `target`.
        key: Compared by value. None: not to be kept.
        make: Loads the thing.
        lend: Makes what is handed out of what is kept, where runs change it; a thing that is not kept goes out itself.
        n_bytes: Its size, as far as it is known; more than a quarter of what is free is not kept.
    """
    places = _places.get()
    if places is None:
        return make()
    held = places.get(place)
    if key is None or held is None or held[0] != key:
        held = None
        places.pop(place, None)  # before the next one takes its memory
        made = make()
        if key is None or n_bytes > SHARE * free_memory():
            return made
        held = places[place] = (key, made)
    found: T = held[1]
    return found if lend is None else lend(found)


def keeping() -> bool:
    """Whether anything is kept here."""
    return _places.get() is not None


def files_of(value: Any) -> list[tuple[str, int, int | str]] | None:
    """(path, size, time of change) of every file that settings name, those of folders included, as a part of a key.

    Of a small file its content stands for its time.

    Args:
        value: A path, or containers with paths among other things.

    Returns:
        None where there are too many to look at.
    """
    found: list[tuple[str, int, int | str]] = []
    for path in _paths(value):
        files = [path] if path.is_file() else list(islice(path.rglob("*"), _MOST_FILES + 1))
        if len(files) > _MOST_FILES:
            return None
        for file in sorted(p for p in files if p.is_file()):
            facts = file.stat()
            # a cache notes its use in the time of a small file
            small = facts.st_size <= _SMALL
            told = hashlib.sha256(file.read_bytes()).hexdigest() if small else facts.st_mtime_ns
            found.append((str(file.absolute()), facts.st_size, told))
    return found


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, str | os.PathLike):
        try:
            path = Path(value).expanduser()
            if str(value) and path.exists():
                yield path
        except (OSError, RuntimeError, ValueError):  # a text that is no path
            return
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _paths(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _paths(each)


def free_memory() -> int:
    """Bytes of memory that are free without swapping (Linux), or half of it all where that cannot be read."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
