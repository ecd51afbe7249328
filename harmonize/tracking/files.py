"""Writing files so that a reader never sees half of one, and only their owner sees them at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harmonize.errors import RunError

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def make_folder(path: str | Path) -> Path:
    """Makes `path` and its missing parents; new folders are private (0700).

    Raises:
        RunError: The folder cannot be made.
    """
    path = Path(path)
    missing = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        missing.append(folder)
    try:
        for folder in reversed(missing):
            folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        if not path.is_dir():
            raise RunError(f"{path}: is a file, a folder was expected. Choose another folder.")
    except OSError as error:
        raise disk_error(path, error) from error
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Writes `text` to `path` atomically (temporary file, fsync, rename), mode 0600.

    A reader sees the old file or the new one, never a part; a failure leaves the old one as it was.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Like `write_text`, for bytes."""
    path = Path(path)
    temporary: str | None = None
    try:
        # mkstemp makes the file with mode 0600, beside the target so that the rename stays on one file
        # system.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut; file systems that cannot are left alone."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


class DiskError(RunError):
    """A disk that is full, or a place that cannot be written."""


def disk_error(path: str | Path, error: OSError) -> DiskError:
    """A failed write as a sentence that says what to do."""
    return DiskError(
        f"{path}: cannot be written ({error.strerror or error}). What was already written is kept. "
        "Free some space or choose another place with hydra.run.dir=<folder> or paths.runs=<folder>."
    )
