"""Choosing and removing entries of the cache directory, while other processes may be at work there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from harmonize.caches.entries import WRITING, Entry, again
from harmonize.caches.use import unused

_HOUR, _DAY = 3600.0, 86400.0


def expendable(
    entries: Sequence[Entry], now: float, older_than: float | None = None, keep_under: int | None = None
) -> list[Entry]:
    """Entries that may go, the one that was used longest ago first.

    Args:
        entries: Whole entries.
        now: Seconds since the epoch.
        older_than: Seconds: what was not used for that long goes; None spares all.
        keep_under: Bytes: of the others the oldest go, until no more than this is left; None spares all.
    """
    ordered = sorted(entries, key=lambda e: (e.used, e.path))
    gone = [e for e in ordered if older_than is not None and now - e.used >= older_than]
    rest = [e for e in ordered if e not in gone]
    left = sum(e.size for e in rest)
    for entry in rest:
        if keep_under is None or left <= keep_under:
            break
        gone.append(entry)
        left -= entry.size
    return gone


def busy(entry: Entry, now: float) -> str:
    """Why an entry cannot go now: a process uses it, or may; empty where it can."""
    with ExitStack() as stack:
        return _busy(entry, now, stack)


def remove(entry: Entry, root: Path, now: float) -> str:
    """Removes an entry, at once for every reader, and says why it was left, or nothing.

    Args:
        entry: Of `read_caches(root)`. It is left if it was used since, or is being used.
        root: The cache directory; nothing outside it is touched, and no link is followed.
        now: Seconds since the epoch.
    """
    home = entry.path.parent
    if home.parent != root or home.is_symlink() or entry.path.is_symlink():
        return "outside the cache directory"
    with ExitStack() as stack:
        if why := _busy(entry, now, stack):
            return why
        found = again(entry)
        if found is None:
            return ""  # another process was first
        if found.used > entry.used:
            return "used meanwhile"
        try:
            _away([entry.path, *entry.beside, *(p for p in entry.locks if p.is_file())], home)
        except OSError as error:
            return f"cannot be removed ({error.strerror or error})"
    return ""


def _busy(entry: Entry, now: float, stack: ExitStack) -> str:
    held = [stack.enter_context(unused(path)) for path in (entry.marker, *entry.locks)]
    if False in held:
        return "in use"
    age = now - entry.used
    # who writes these holds nothing, or nobody could
    open_to_doubt = entry.leftover and not entry.path.name.startswith(WRITING) and not entry.locks
    if (open_to_doubt and age < _HOUR) or (None in held and age < _DAY):
        return "may be in use: it is new"
    return ""


def _away(paths: Sequence[Path], home: Path) -> None:
    """Renames paths aside, then deletes them, so that no reader finds half of one."""
    trash = Path(tempfile.mkdtemp(prefix=WRITING, dir=home))
    try:
        for number, path in enumerate(paths):
            if os.path.lexists(path):
                os.rename(path, trash / str(number))
    finally:
        shutil.rmtree(trash)
