"""Rewrites that were paid for once: a content-addressed store on disk, and a rewriter that asks it first."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harmonize.caches.use import hold, touch
from harmonize.data.unify.task import Failure, Pair, SlowRewriter, Task
from harmonize.errors import RunError

FOLDER = "rewrites"
_LAYOUT = 1
_WAIT = 60.0  # seconds for another process to finish its write

_TABLE = """
CREATE TABLE IF NOT EXISTS rewrites (
    task TEXT PRIMARY KEY, pairs TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, reply_tokens INTEGER NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A rewrite as it was stored, with the tokens it once took."""

    pairs: list[Pair]
    tokens: tuple[int, int]


class RewriteCache:
    """The rewrites of one rewriter, in one SQLite file of mode 0600 that several processes may use at once.

    Every rewrite is its own transaction in a write-ahead log: a process that is killed loses at most the rewrite it
    was just writing, and never leaves a file that cannot be read.

    Args:
        folder: The cache directory's folder for rewrites.
        rewriter: Its name; with the fingerprint the name of the file.
        fingerprint: `Rewriter.fingerprint`.

    Raises:
        RunError: The file cannot be made, opened or read.
    """

    def __init__(self, folder: str | Path, rewriter: str, fingerprint: str) -> None:
        self.path = Path(folder) / f"{rewriter}-{fingerprint[:24]}.sqlite"
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made before SQLite does, which would go by the umask; its log files follow the mode of this one.
            lock = self.path.with_suffix(
                ".lock"
            )  # of our own: a second handle on the file would end SQLite's locks
            for path in (self.path, lock):
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            touch(self.path)
            hold(lock)
            self._db = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # Safe when a process dies; a power cut may cost the last rewrites, never the file.
            self._db.execute("PRAGMA synchronous=NORMAL")
            (layout,) = self._db.execute("PRAGMA user_version").fetchone()
            if layout not in (0, _LAYOUT):
                raise sqlite3.DatabaseError(f"layout {layout}")
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA user_version={_LAYOUT}")

    def get(self, task: Task) -> Kept | None:
        """The rewrite of a task, if there is one."""
        with self._explained():
            query = "SELECT pairs, prompt_tokens, reply_tokens FROM rewrites WHERE task = ?"
            row = self._db.execute(query, (task.key,)).fetchone()
            return None if row is None else Kept(_pairs(row[0]), (row[1], row[2]))

    def put(self, task: Task, pairs: Sequence[Pair], tokens: tuple[int, int] = (0, 0)) -> None:
        """Stores a rewrite; one that is there already stays, so that all processes go on with the same."""
        text = json.dumps([asdict(pair) for pair in pairs], ensure_ascii=False)
        with self._explained():
            self._db.execute("INSERT OR IGNORE INTO rewrites VALUES (?, ?, ?, ?)", (task.key, text, *tokens))

    def __len__(self) -> int:
        """Rewrites stored."""
        with self._explained():
            return int(self._db.execute("SELECT count(*) FROM rewrites").fetchone()[0])

    def close(self) -> None:
        """Gives the file back."""
        self._db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RunError(
                f"{self.path}: the cache of rewrites cannot be used ({error}). Free some space, or choose another "
                "place with paths.cache_dir=<folder>."
            ) from error
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.path}: the cache of rewrites is damaged or of another version ({error}). Remove it; what it "
                "held is rewritten again."
            ) from error
        except OSError as error:
            raise RunError(f"{self.path}: cannot be opened ({error.strerror or error}).") from error


class Remembering:
    """A rewriter that asks the cache first, and hands it every new result at once. Equal tasks are rewritten once.

    Attributes:
        calls: Tasks that the rewriter was asked in this process.
        found: Tasks that were in the cache.
        tokens: (prompt, reply) tokens of all results so far, whenever they were paid for.
        paid: The same of this process alone.
    """

    cached = True

    def __init__(self, rewriter: SlowRewriter, cache: RewriteCache) -> None:
        self.rewriter, self.cache = rewriter, cache
        self.name, self.fingerprint, self.batch = rewriter.name, rewriter.fingerprint, rewriter.batch
        self.calls = self.found = 0
        self.tokens, self.paid = (0, 0), (0, 0)
        self._counted: set[str] = set()

    def rewrite(self, tasks: Sequence[Task]) -> list[list[Pair] | Failure]:
        """As the rewriter does; failures are not stored, so the next run tries them again."""
        known: dict[str, Kept | None] = {task.key: self.cache.get(task) for task in tasks}
        missing = list({task.key: task for task in tasks if known[task.key] is None}.values())
        self.found += sum(kept is not None for kept in known.values())
        self.calls += len(missing)

        def store(task: Task, pairs: list[Pair], tokens: tuple[int, int]) -> None:
            self.cache.put(task, pairs, tokens)
            self.paid = _sum(self.paid, tokens)

        failures: dict[str, Failure] = {}
        for task, made in zip(missing, self.rewriter.rewrite(missing, store), strict=True):
            if isinstance(made, Failure):
                failures[task.key] = made
            else:
                self.cache.put(task, made)  # for a rewriter that does not hand over; without effect otherwise
                # Read back: it may be another process's, and then all must go on with that one.
                known[task.key] = self.cache.get(task)
        for key, kept in known.items():
            if kept is not None and key not in self._counted:
                self._counted.add(key)
                self.tokens = _sum(self.tokens, kept.tokens)
        results: list[list[Pair] | Failure] = []
        for task in tasks:
            kept = known[task.key]
            results.append(failures[task.key] if kept is None else kept.pairs)
        return results


def _pairs(text: str) -> list[Pair]:
    return [Pair(**{**item, "paraphrases": tuple(item["paraphrases"])}) for item in json.loads(text)]


def _sum(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]
