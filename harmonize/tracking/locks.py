"""Locks on files: who is at work in a shared folder. They end with their process, whatever ends it."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harmonize.tracking.files import PRIVATE_FILE, make_folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, waiting for it; without effect on a file system that has no locks."""
    make_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Presence:
    """A name in a folder that counts as present for as long as this process lives."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self.folder, self.name = folder, uuid.uuid4().hex
        self._handle = os.open(folder / self.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        with suppress(OSError):
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def leave(self) -> None:
        """Ends it."""
        (self.folder / self.name).unlink(missing_ok=True)
        os.close(self._handle)


def is_present(folder: Path, name: str) -> bool:
    """Whether the process of that name is alive; the file of one that is not is removed."""
    path = folder / name
    if is_held(path, lambda: path.exists()):  # without locks the file is believed
        return True
    path.unlink(missing_ok=True)
    return False


def is_held(path: Path, unknown: Callable[[], bool]) -> bool:
    """Whether a process holds the lock of a file; nobody does where there is no file.

    Args:
        unknown: Answers on a file system that has no locks.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return unknown()
    finally:
        os.close(handle)
    return False
