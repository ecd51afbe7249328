"""Folders of arrays on disk: content-addressed, private, written whole or not at all, verified when opened.

A folder holds one `.npy` file per array and `header.json` with the size of each and the hash of its blocks. It is
written under a temporary name and renamed, so that two processes may write the same one at once and a killed one leaves
no half.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harmonize.caches.entries import WRITING
from harmonize.caches.use import hold, release, use
from harmonize.data.corpus import content_hash
from harmonize.errors import RunError

RAM_BYTES = 512 << 20  # arrays up to this size together are read into memory
HEADER = "header.json"
_BLOCK = 1 << 22
_BFLOAT16 = "@bfloat16"


class CorruptFolder(Exception):
    """A folder that is incomplete or not what was written."""


def write_folder(
    folder: Path,
    key: str,
    fill: Callable[[Path], None],
    about: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Writes a folder through `fill(temporary folder)`, which saves the arrays, then renames it into place.

    If another process was first, its folder stays.

    Args:
        folder: Where it shall lie.
        key: Content key, checked when it is read.
        fill: Saves `.npy` files.
        about: What the folder holds, in words that a reader of the header alone can use (JSON).
        names: `model` and `data` it was made for, as their user calls them: for people who look at their caches.

    Raises:
        RunError: The disk is full or the place is not writable.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _temporary(folder.parent) as work:
            fill(work)
            paths = sorted(work.glob("*.npy"))
            for path in paths:
                path.chmod(0o600)
            hashes = _file_hashes(paths)
            files = {
                p.name: {"bytes": p.stat().st_size, "blocks": h} for p, h in zip(paths, hashes, strict=True)
            }
            header: dict[str, Any] = {"key": key, "files": files}
            if about is not None:
                header["about"] = dict(about)
            if names:
                header["for"] = dict(names)
            header["check"] = content_hash(header)
            target = work / HEADER
            target.write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
            target.chmod(0o600)
            # the rename fails if another process was first; then its folder serves
            with contextlib.suppress(FileExistsError, _NotEmpty):
                _rename(work, folder)
            use(folder / HEADER)
    except OSError as error:
        raise RunError(
            f"The cache {folder} cannot be written: {error.strerror or error}. Free some space "
            "(harmonize clean caches --older-than 7d) or set paths.cache_dir=/another/folder; of a teacher or "
            "reference, teacher.cache=none keeps no cache."
        ) from error


def open_array(folder: Path, name: str, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """A new array of a folder that is being written, mapped so that it may exceed the memory.

    Raises:
        OSError: The disk has no room for it. Its blocks are taken now: a disk that fills up later would end the process
            at the first write into the map, without a word.
    """
    path = folder / f"{name}.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if array.nbytes and hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def save_tensor(folder: Path, name: str, value: Tensor) -> None:
    """Saves a tensor into a folder that is being written; bfloat16, which numpy does not have, as its bits."""
    kept = value.detach().cpu().contiguous()
    if kept.dtype == torch.bfloat16:
        name, kept = f"{name}{_BFLOAT16}", kept.view(torch.int16)
    np.save(folder / f"{name}.npy", kept.numpy())


def tensors_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """What `save_tensor` saved, from the arrays of a folder."""
    found = {}
    for name, array in arrays.items():
        value = torch.from_numpy(np.asarray(array))
        found[name.removesuffix(_BFLOAT16)] = (
            value.view(torch.bfloat16) if name.endswith(_BFLOAT16) else value
        )
    return found


def read_folder(folder: Path, key: str) -> dict[str, np.ndarray]:
    """Opens a folder, verifies sizes and checksums, and notes its use. Small ones are read, large ones memory-mapped.

    Raises:
        FileNotFoundError: No such folder.
        CorruptFolder: A file is missing, cut, or altered.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    use(folder / HEADER)
    try:
        header = _header(folder)
        if header["key"] != key:
            raise CorruptFolder("header.json is of another key")
        for name, facts in header["files"].items():
            path = folder / name
            if path.stat().st_size != facts["bytes"]:
                raise CorruptFolder(f"{name} has the wrong size")
            if (
                (_file_hashes([path])[0] != facts["blocks"])
                if "blocks" in facts
                else (_plain_hash(path) != facts["sha256"])
            ):
                raise CorruptFolder(f"{name} does not match its checksum")
        in_memory = sum(f["bytes"] for f in header["files"].values()) <= RAM_BYTES
        return {
            name.removesuffix(".npy"): np.load(
                folder / name,
                mmap_mode=None if in_memory or not _mappable(folder / name) else "c",
                allow_pickle=False,
            )
            for name in header["files"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if not folder.is_dir():  # removed while it was being read
            raise FileNotFoundError(folder) from error
        raise CorruptFolder(str(error)) from error


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a folder, verified, without its arrays: `key`, `files`, and `about` where it was given.

    Raises:
        FileNotFoundError: No folder of arrays.
        CorruptFolder: The header is altered.
    """
    try:
        return _header(folder)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFolder(str(error)) from error


def _header(folder: Path) -> dict[str, Any]:
    header: dict[str, Any] = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    if header.pop("check") != content_hash(header):
        raise CorruptFolder("header.json does not match its checksum")
    return header


def remove_folder(folder: Path) -> None:
    """Moves a folder out of the way at once, then deletes it; readers that have it open keep their data."""
    with _temporary(folder.parent) as trash, contextlib.suppress(FileNotFoundError):
        os.rename(folder, trash / "old")


class _NotEmpty(OSError):
    pass


def _rename(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if target.is_dir():
            raise _NotEmpty from error
        raise


def _mappable(path: Path) -> bool:
    return path.stat().st_size > 4096  # an empty array cannot be mapped, and a tiny one need not be


def _file_hashes(paths: Sequence[Path]) -> list[str]:
    """Of each file the SHA-256 of the SHA-256 of its blocks; blocks of all files are hashed side by side."""
    own = threading.local()

    def digest(block: tuple[Path, int]) -> bytes:
        if not hasattr(own, "buffer"):  # fresh memory for every block costs as much as its hash
            own.buffer = memoryview(bytearray(_BLOCK))
        path, start = block
        with path.open("rb") as file:
            read = os.preadv(file.fileno(), [own.buffer], start)
        return hashlib.sha256(own.buffer[:read]).digest()

    starts = [range(0, path.stat().st_size, _BLOCK) for path in paths]
    blocks = [(path, start) for path, of_path in zip(paths, starts, strict=True) for start in of_path]
    workers = min(len(blocks), 16, os.cpu_count() or 1)
    if max(map(len, starts), default=0) < 2 or workers < 2:
        found = [digest(block) for block in blocks]
    else:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(digest, blocks))
    digests = iter(found)
    return [hashlib.sha256(b"".join(itertools.islice(digests, len(s)))).hexdigest() for s in starts]


def _plain_hash(path: Path) -> str:
    """SHA-256 of a file, which headers held before."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=WRITING, dir=parent))  # mode 0700
    hold(folder)
    try:
        yield folder
    finally:
        release(folder)
        shutil.rmtree(folder, ignore_errors=True)
