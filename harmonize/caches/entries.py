"""What lies in the cache directory: entries by kind, leftovers of killed processes, and what is not ours."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

WRITING = ".building-"  # begins the names of folders that are being written, which their writer holds
_KEY = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"\w+-(target|gold)-[0-9a-f]{16}")
_PARTIAL = re.compile(r"\.(?P<name>\w+-(target|gold)-[0-9a-f]{16})\.\w+")
_TEMPORARY = re.compile(r"\..+\.\w+\.tmp|\.writing-\w+")
_WAL = ("-wal", "-shm")
ARRAYS = ("teacher", "reference", "statistics", "finetuned", "guards")


@dataclass(frozen=True)
class Entry:
    """One thing in the cache directory.

    Attributes:
        kind: Folder it lies in.
        path: File or folder.
        size: Bytes, of all its files.
        used: When it was used last, in seconds since the epoch (made, where nothing has used it since).
        marker: The file that tells (`harmonize.caches.use`).
        locks: Further files that a process at work on it holds.
        leftover: What it is left over from; empty for an entry that is whole.
        beside: Further files that belong to it.
    """

    kind: str
    path: Path
    size: int
    used: float
    marker: Path
    locks: tuple[Path, ...] = ()
    leftover: str = ""
    beside: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Caches:
    """The content of a cache directory.

    Attributes:
        root: The directory, links resolved.
        entries: Whole ones, in the order of their paths.
        leftovers: What killed processes left.
        foreign: What is none of ours, or a link; listed, and never removed.
    """

    root: Path
    entries: tuple[Entry, ...] = ()
    leftovers: tuple[Entry, ...] = ()
    foreign: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        """Bytes in all, leftovers included."""
        return sum(e.size for e in (*self.entries, *self.leftovers))


def read_caches(root: Path) -> Caches:
    """Looks into a cache directory; nothing is opened, and no link is followed."""
    root = root.expanduser().resolve()
    entries: list[Entry] = []
    leftovers: list[Entry] = []
    foreign: list[Path] = []
    for kind in _inside(root):
        if kind.name not in KINDS or not _is_folder(kind):
            foreign.append(kind)
            continue
        paths = _inside(kind)
        taken: set[Path] = set()
        for path in paths:
            found = None if path.is_symlink() else KINDS[kind.name](path)
            if found is not None:
                entries.append(found)
                taken |= {path, *found.locks, *found.beside}
        for path in paths:
            if path in taken:
                continue
            left = None if path.is_symlink() else _leftover(kind.name, path)
            if left is not None:
                leftovers.append(left)
            else:
                foreign.append(path)
    return Caches(root, tuple(entries), tuple(leftovers), tuple(foreign))


def again(entry: Entry) -> Entry | None:
    """An entry or leftover as it is now; None where it is gone."""
    if entry.path.is_symlink() or not entry.path.exists():
        return None
    return KINDS[entry.kind](entry.path) or _leftover(entry.kind, entry.path)


def _arrays(path: Path) -> Entry | None:
    return _folder(path, _KEY, "header.json")


def _model(path: Path) -> Entry | None:
    return _folder(path, _MODEL, "config.json")


def _evaluated(path: Path) -> Entry | None:
    for marker in ("report.json", "answers.jsonl"):
        if (found := _folder(path, _KEY, marker)) is not None:
            return found
    return None


def _figures(path: Path) -> Entry | None:
    if path.suffix != ".json" or not _KEY.fullmatch(path.stem) or not path.is_file():
        return None
    size, used = _measure([path])
    return Entry(path.parent.name, path, size, used, path)


def _rewrites(path: Path) -> Entry | None:
    if path.suffix != ".sqlite" or not path.is_file():
        return None
    tails = (path.with_name(path.name + tail) for tail in _WAL)
    beside = tuple(p for p in (*tails, _lock(path)) if p.is_file())
    size, used = _measure([path, *beside])
    # the file itself belongs to SQLite: opening and closing it here would drop the locks of a connection
    return Entry(path.parent.name, path, size, used, _lock(path), beside=beside)


# kind -> the entry that a path is, or None
KINDS: dict[str, Callable[[Path], Entry | None]] = {
    **dict.fromkeys(ARRAYS, _arrays),
    "models": _model,
    "evaluations": _figures,
    "evaluated": _evaluated,
    "rewrites": _rewrites,
}


def _folder(path: Path, name: re.Pattern[str], marker: str) -> Entry | None:
    if not name.fullmatch(path.name) or not (path / marker).is_file():
        return None
    size, used = _measure(_files(path))
    if (path / marker).is_symlink():
        return None
    if path.parent.name in ARRAYS:
        used = (path / marker).lstat().st_mtime
    return Entry(path.parent.name, path, size, used, path / marker, (_lock(path),))


def _leftover(kind: str, path: Path) -> Entry | None:
    def left(why: str, *locks: Path) -> Entry:
        size, used = _measure(_files(path))
        return Entry(kind, path, size, used or path.lstat().st_mtime, path, locks, why)

    if path.name.startswith(WRITING):
        return left("a build that was killed")
    if (partial := _PARTIAL.fullmatch(path.name)) and kind == "models":
        return left("a model that was not finished", path.with_name(f"{partial['name']}.lock"))
    if _TEMPORARY.fullmatch(path.name):
        return left("a write that was killed")
    if path.suffix == ".lock" and (_KEY.fullmatch(path.stem) or _MODEL.fullmatch(path.stem)):
        return left("a lock of something that is gone")
    known = _MODEL if kind == "models" else _KEY
    if known.fullmatch(path.name) and _is_folder(path) and kind not in ("evaluations", "rewrites"):
        return left("incomplete", _lock(path))
    return None


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _files(path: Path) -> Iterator[Path]:
    """The files of a path, without following links."""
    if not _is_folder(path):
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)


def _measure(files: Iterator[Path] | list[Path]) -> tuple[int, float]:
    """Bytes, and the latest modification."""
    size, used = 0, 0.0
    for path in files:
        try:
            facts = path.lstat()
        except OSError:  # gone meanwhile
            continue
        size, used = size + facts.st_size, max(used, facts.st_mtime)
    return size, used
