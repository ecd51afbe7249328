"""The table that a running sweep shows: what is done, what runs, how long it will take, what is best so far."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harmonize.errors import RunError
from harmonize.sweeps.queue import DONE, FAILED, REJECTED, RUNNING, WAITING, Entry
from harmonize.tracking.results import Results

_MANY = 20
_SHOWN = 6  # running or failed jobs that are named


class Board:
    """A live table on a terminal, one line per finished job elsewhere.

    Args:
        title: What the sweep is called.
        quiet: Shows nothing (a further process of a sweep that another one shows).
    """

    def __init__(self, title: str, quiet: bool = False) -> None:
        self.title, self.quiet = title, quiet
        # the real one: jobs print into their logs, and this must not
        self._console = Console(file=sys.stderr, highlight=False)
        self._live: Live | None = None
        self._took: list[float] = []
        self._best: tuple[float, str] | None = None
        self._read: set[str] = set()

    def __enter__(self) -> Board:
        if self._console.is_terminal and not self.quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def composing(self, number: int, count: int) -> None:
        """Says how far the jobs are composed, where that takes a while (a third of a second each, once)."""
        if self._live is not None:
            self._live.update(Text(f"{self.title}  composing job {number + 1} of {count}"), refresh=True)
        elif count >= _MANY and number == 0:
            self.say(f"{self.title}: composing {count} jobs ...")

    def show(self, entries: Sequence[Entry], running: Entry | None = None) -> None:
        """Draws the table anew."""
        self._look_for_best(entries)
        if self._live is not None:
            self._live.update(self._table(entries, running), refresh=True)

    def finished(self, entry: Entry, entries: Sequence[Entry], began: float | None = None) -> None:
        """Notes a job that has just ended; `began` where it ran in this process."""
        if entry.state in (DONE, REJECTED) and began is not None:
            self._took.append(time.perf_counter() - began)
        if self._live is None and not self.quiet and entry.state != RUNNING:
            count = sum(e.state in (DONE, FAILED, REJECTED) for e in entries)
            eta = f", eta {self._eta(entries)}" if self._took else ""
            what = (
                f"{entry.state}: {entry.error.splitlines()[0]}"
                if entry.error and entry.state != DONE
                else entry.state
            )
            self._console.print(
                Text(f"[{count}/{len(entries)}{eta}] {entry.folder.name}: {what}"), soft_wrap=True
            )

    def say(self, text: str) -> None:
        """One line that stays."""
        if not self.quiet:
            self._console.print(Text(text), soft_wrap=True)

    def _table(self, entries: Sequence[Entry], running: Entry | None) -> Table:
        counts = {s: sum(e.state == s for e in entries) for s in (DONE, RUNNING, FAILED, REJECTED, WAITING)}
        if running is not None and running.state == WAITING:
            counts[WAITING] -= 1
            counts[RUNNING] += 1
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="ellipsis", no_wrap=True)
        table.add_row(
            self.title,
            "  ".join(f"{name} {n}" for name, n in counts.items() if n or name != REJECTED)
            + f"  eta {self._eta(entries)}",
        )
        named: list[tuple[str, Any]] = [("running", running)] if running is not None else []
        named += [("running", e) for e in entries if e.state == RUNNING and e is not running]
        named += [("failed", e) for e in entries if e.state == FAILED]
        for what, entry in named[:_SHOWN]:
            why = f": {entry.error.splitlines()[0]}" if entry.error and what == "failed" else ""
            table.add_row(what, Text(f"{entry.folder.name}{why}"))
        if self._best is not None:
            table.add_row("best (val)", Text(f"{self._best[0]:.3f}  {self._best[1]}"))
        return table

    def _eta(self, entries: Sequence[Entry]) -> str:
        if not self._took:
            return "-"
        left = sum(e.state in (WAITING, RUNNING) for e in entries)
        hands = 1 + sum(e.state == RUNNING for e in entries)
        seconds = int(left * sum(self._took) / len(self._took) / hands)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def _look_for_best(self, entries: Sequence[Entry]) -> None:
        """Lowest forget + ASR on val among states within the floors, as keep-best scored them."""
        for entry in entries:
            if entry.state != DONE or entry.key in self._read:
                continue
            self._read.add(entry.key)
            try:
                found = val_score(entry.results())
            except RunError:
                continue
            if found is not None and (self._best is None or found < self._best[0]):
                self._best = (found, entry.folder.name)


def val_score(results: Results | None) -> float | None:
    """Score on val of the state that a run kept, or None where none was within the floors."""
    selection = results.extra.get("selection") if results else None
    if not isinstance(selection, dict) or selection.get("best_step") is None:
        return None
    looks = [look for look in selection.get("looks", []) if look.get("step") == selection["best_step"]]
    return float(looks[-1]["score"]) if looks else None
