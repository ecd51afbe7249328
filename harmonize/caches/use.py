"""Who uses an entry of the cache, and when it was used last.

Both are told by one file of the entry, its marker: its modification time is the last use, and a process that uses the
entry holds a shared lock on it, which ends with the process, whatever ends it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MOST = 128  # entries that a process holds; what it has read of older ones stays valid, removed or not
_held: OrderedDict[Path, int] = OrderedDict()


def use(marker: Path) -> None:
    """Notes that an entry is used now, and holds it. Without effect where it may not be written."""
    touch(marker)
    hold(marker)


def touch(marker: Path) -> None:
    """Notes that an entry was used now."""
    with suppress(OSError):
        os.utime(marker)


def hold(path: Path) -> None:
    """Holds a shared lock on a file or folder until this process ends (`release` gives it back)."""
    release(path)  # it may be another file by now
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # being removed just now, or a file system without locks
        os.close(handle)
        return
    _held[path] = handle
    while len(_held) > _MOST:
        os.close(_held.popitem(last=False)[1])


def release(path: Path) -> None:
    """Gives back what `hold` holds."""
    handle = _held.pop(path, None)
    if handle is not None:
        os.close(handle)


@contextmanager
def unused(path: Path) -> Iterator[bool | None]:
    """Whether nobody holds a file or folder, which then nobody can begin to hold inside.

    Yields:
        True also where there is no such file; None where the file system has no locks to tell by.
    """
    try:
        handle = _opened(path)
    except OSError:
        yield True
        return
    free: bool | None = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        free = False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    try:
        yield free
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_RDWR)  # an exclusive lock over NFS asks for it
    except OSError:
        return os.open(path, flags | os.O_RDONLY)
