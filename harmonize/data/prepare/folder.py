"""Writing a prepared data set: a folder of JSON Lines per role and split that appears whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from harmonize.data.corpus import content_hash
from harmonize.data.example import ROLES, Example, Role
from harmonize.data.jsonl import example_of_row, line_of
from harmonize.data.prepare.overlap import Overlap
from harmonize.data.split import SPLITS, assign
from harmonize.errors import DataError

SCHEMA_VERSION = 1
FACTS, CARD, LOCK = "dataset.json", "CARD.md", ".lock"
SAMPLES = 3  # of each role and split, in the card
# Holds the place of a split that is not known yet, so that it stands where a split stands.
_UNKNOWN = "train"

Transform = Callable[[list[Example]], list[Example]]
Card = Callable[[Mapping[str, Any], Mapping[str, Sequence[Example]]], str]


def file_name(role: str, split: str) -> str:
    """`forget.train.jsonl`."""
    return f"{role}.{split}.jsonl"


FILES: tuple[str, ...] = tuple(file_name(role, split) for role in ROLES for split in SPLITS)


def check_output(output: str | Path, overwrite: bool) -> None:
    """Whether a prepared data set may be written there.

    Raises:
        DataError: The folder exists and is not to be replaced, or holds something that is not ours to remove.
    """
    folder = Path(output).expanduser()
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise DataError(f"{folder} exists and is no folder. Choose another one: output=<folder>.")
    entries = {p.name for p in folder.iterdir()} - {LOCK}
    foreign = sorted(entries - {FACTS, CARD, *FILES})
    if foreign or (entries and FACTS not in entries):
        named = ", ".join((foreign or sorted(entries))[:3])
        raise DataError(
            f"{folder} holds something else ({named}), which is left as it is. Choose another one: output=<folder>."
        )
    if entries and not overwrite:
        raise DataError(
            f"{folder} holds a prepared data set already. Replace it with overwrite=true, or choose another folder: "
            "output=<folder>."
        )


class FolderWriter:
    """Takes examples one by one, splits them by subject, and writes the folder.

    Everything is written beside the folder and moved there in one step, so that a stop at any moment leaves either
    the old state or the new one; what a killed process left behind is removed by the next. Between `add` and `finish`
    memory holds subjects, not examples, unless a `transform` asks for all of them.

    Args:
        output: The folder to make.
        overwrite: Whether a prepared data set that is there is replaced.

    Raises:
        DataError: See `check_output`; or the place cannot be written.
    """

    def __init__(self, output: str | Path, overwrite: bool = False) -> None:
        check_output(output, overwrite)
        self.output = Path(output).expanduser().absolute()
        self._subjects: dict[tuple[Role, str], str] = {}
        self._spills: dict[Role, IO[str]] = {}
        self._referred: set[str] = set()
        self._lock = -1

    def __enter__(self) -> FolderWriter:
        with _explained(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
            self._work = Path(tempfile.mkdtemp(dir=self.output.parent, prefix=self._prefix))  # mode 0700
            self._lock = _locked(self._work / LOCK)
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._spills.values():
            stream.close()
        if self._lock >= 0:
            os.close(self._lock)
        shutil.rmtree(self._work, ignore_errors=True)

    @property
    def _prefix(self) -> str:
        return f".{self.output.name}.partial-"

    @property
    def _old(self) -> Path:
        """Where the folder that is replaced waits until the new one is in place."""
        return self.output.with_name(f".{self.output.name}.replaced")

    def _remove_stale(self) -> None:
        """What a process left that was killed; a folder that it had moved away comes back."""
        if self._old.exists():
            if self.output.exists():
                shutil.rmtree(self._old)
            else:
                os.rename(self._old, self.output)
        for folder in self.output.parent.glob(f"{self._prefix}*"):
            handle = _locked(folder / LOCK) if folder.is_dir() else -1
            if handle >= 0:  # whoever made it is gone
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)

    def add(self, example: Example) -> None:
        """Takes one example; ids are unique.

        Raises:
            DataError: A split that contradicts its subject's, or no room on the disk.
        """
        example = example if example.subject else replace(example, subject=example.id)
        key = (example.role, example.subject)
        known = self._subjects.get(key, "")
        if known and example.split and known != example.split:
            raise DataError(
                f"Subject '{example.subject}' ({example.role}) is in split '{known}' and, by example "
                f"'{example.id}', in '{example.split}'. A subject has one split."
            )
        self._subjects[key] = known or example.split
        if example.anchor_of is not None:
            self._referred.add(example.anchor_of)
        with _explained(self.output):
            if example.role not in self._spills:
                self._spills[example.role] = _private(self._work / f"spill.{example.role}")
            placed = replace(example, split=example.split or _UNKNOWN)
            _write_line(self._spills[example.role], placed, self.output)

    def finish(
        self,
        facts: Callable[[dict[str, Any]], Mapping[str, Any]],
        card: Card,
        shares: Mapping[str, Any] | None = None,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> dict[str, Any]:
        """Splits, writes and moves.

        Args:
            facts: Given counts, files and overlap, returns all that `dataset.json` is to hold.
            card: Given the facts and samples by file name, returns `CARD.md`.
            shares, seed: As in `data.split.assign`.
            transform: Changes the list of all examples (anchors) once they have splits; new ones may come without.

        Returns:
            What `dataset.json` holds.

        Raises:
            DataError: No examples, shares that cannot be met, or a folder that cannot be written.
        """
        if not self._subjects:
            raise DataError("Nothing is left to write: no example passed the checks.")
        splits = self._assigned(self._subjects, shares, seed)
        stream = self._examples(splits)
        if transform is not None:
            stream = iter(self._transformed(transform(list(stream)), shares, seed))
        with _explained(self.output):
            written = self._write(stream)
            found = dict(facts(written))
            text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
            for name, content in ((FACTS, text + "\n"), (CARD, card(found, self._samples))):
                with _private(self._work / name) as out:
                    out.write(content)
            self._move()
        return found

    def _assigned(
        self, subjects: Mapping[tuple[Role, str], str], shares: Mapping[str, Any] | None, seed: int
    ) -> dict[tuple[Role, str], str]:
        """Subjects decide the split, so one stand-in for each is enough."""
        stand_ins = [Example(s, role, "", "", s, split=split) for (role, s), split in subjects.items()]
        try:
            assigned = assign(stand_ins, shares, seed)
        except DataError as error:
            raise DataError(str(error).replace("dataset.split", "split")) from None
        return {(e.role, e.subject): e.split for e in assigned}

    def _examples(self, splits: Mapping[tuple[Role, str], str]) -> Iterator[Example]:
        """What was added, role by role, with its split; a link to an anchor's question that is gone is dropped."""
        there: set[str] = set()
        for role in ROLES:
            if role not in self._spills:
                continue
            self._spills[role].close()
            with (self._work / f"spill.{role}").open(encoding="utf-8") as stream:
                for line in stream:
                    problems: list[str] = []
                    example = example_of_row(row := json.loads(line), "", None, problems)
                    if example is None:
                        raise DataError(f"Example '{row['id']}', {'; '.join(problems)}")
                    if role == Role.FORGET and example.id in self._referred:
                        there.add(example.id)
                    linked = example.anchor_of is None or example.anchor_of in there
                    yield replace(
                        example,
                        split=splits[role, example.subject],
                        anchor_of=example.anchor_of if linked else None,
                    )

    def _transformed(
        self, examples: list[Example], shares: Mapping[str, Any] | None, seed: int
    ) -> list[Example]:
        """New examples get a split; subjects that moved to another role keep one split there."""
        subjects: dict[tuple[Role, str], str] = {}
        for e in examples:
            subjects[e.role, e.subject] = subjects.get((e.role, e.subject)) or e.split
        splits = self._assigned(subjects, shares, seed)
        order = {role: i for i, role in enumerate(ROLES)}
        placed = [replace(e, split=splits[e.role, e.subject]) for e in examples]
        return sorted(placed, key=lambda e: order[e.role])

    def _write(self, examples: Iterable[Example]) -> dict[str, Any]:
        outs: dict[str, IO[str]] = {}
        counts: dict[str, int] = {}
        subjects: dict[str, set[str]] = {}
        overlap = Overlap()
        # (hash, example) of the samples; the same ones whatever the order.
        heaps: dict[str, list[tuple[int, str, Example]]] = {}
        try:
            for e in examples:
                name = file_name(e.role, e.split)
                if name not in outs:
                    outs[name] = _private(self._work / name)
                _write_line(outs[name], e, self.output)
                counts[name] = counts.get(name, 0) + 1
                subjects.setdefault(name, set()).add(e.subject)
                overlap.add(e)
                rank = (-int(content_hash("sample", e.id)[:16], 16), e.id, e)
                heap = heaps.setdefault(name, [])
                (heapq.heappush if len(heap) < SAMPLES else heapq.heappushpop)(heap, rank)
        finally:
            for out in outs.values():
                out.close()
        for role in self._spills:
            (self._work / f"spill.{role}").unlink()
        self._samples = {name: [e for *_, e in sorted(heap, reverse=True)] for name, heap in heaps.items()}
        files = {
            name: {
                "examples": counts[name],
                "subjects": len(subjects[name]),
                "bytes": (self._work / name).stat().st_size,
                "sha256": sha256_of(self._work / name),
            }
            for name in FILES
            if name in counts
        }
        return {"files": files, "overlap": overlap.found()}

    def _move(self) -> None:
        """Into place; an old folder is moved away first and removed last."""
        (self._work / LOCK).unlink(missing_ok=True)
        self._work.chmod(0o700)
        if self.output.exists():
            os.rename(self.output, self._old)
        os.rename(self._work, self.output)
        shutil.rmtree(self._old, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def _write_line(out: IO[str], example: Example, folder: Path) -> None:
    try:
        out.write(line_of(example, folder))
    except UnicodeEncodeError:
        raise DataError(
            f"Example '{example.id}' holds characters that are no valid Unicode (lone surrogates). Repair its source."
        ) from None


def _private(path: Path) -> IO[str]:
    """A new text file of mode 0600, whatever the umask."""
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    return os.fdopen(handle, "w", encoding="utf-8", newline="\n")


def _locked(path: Path) -> int:
    """A handle that holds the lock of a working folder, or -1 if a living process has it."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return -1
    return handle


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns errors of the operating system into a sentence."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}). Free some space, or choose another "
            "place: output=<folder>."
        ) from error
