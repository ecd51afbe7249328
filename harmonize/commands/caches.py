"""The cache directory as tables: for `harmonize ls caches` and `harmonize clean caches`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from harmonize.caches.describe import describe
from harmonize.caches.entries import KINDS, Caches, Entry, read_caches
from harmonize.config.units import show_age, show_size
from harmonize.errors import ConfigError, did_you_mean

LEFTOVERS = "leftovers"


def kinds_of(given: Sequence[str]) -> set[str]:
    """What `--kind` chooses; all kinds where it is not given.

    Raises:
        ConfigError: An unknown kind.
    """
    known = (*KINDS, LEFTOVERS)
    for name in given:
        if name not in known:
            raise ConfigError(
                f"--kind {name}: there is no such kind of cache. {did_you_mean(name, known)} For example "
                f"--kind {known[0]}."
            )
    return set(given or known)


def summary(caches: Caches, now: float) -> None:
    """Prints what there is by kind."""
    groups: dict[str, list[Entry]] = {}
    for entry in caches.entries:
        groups.setdefault(entry.kind, []).append(entry)
    if caches.leftovers:
        groups[LEFTOVERS] = list(caches.leftovers)
    rows = [
        (
            kind,
            str(len(found)),
            show_size(sum(e.size for e in found)),
            _ago(now - max(e.used for e in found)),
            _ago(now - min(e.used for e in found)),
        )
        for kind, found in sorted(groups.items(), key=lambda g: -sum(e.size for e in g[1]))
    ]
    print_table(("kind", "number", "size", "last used", "the oldest"), rows, right=(1, 2))


def entries(found: Sequence[Entry], root: Path, now: float) -> None:
    """Prints entries one by one, with what they are and where they lie below the cache directory."""
    rows = [
        (
            LEFTOVERS if e.leftover else e.kind,
            show_size(e.size),
            _ago(now - e.used),
            f"{describe(e)}\n{e.path.relative_to(root)}",
        )
        for e in found
    ]
    print_table(("kind", "size", "last used", "what, where"), rows, right=(1,))


def list_caches(root: Path, kinds: Sequence[str], every: bool) -> None:
    """`harmonize ls caches`."""
    chosen, now = kinds_of(kinds), time.time()
    caches = read_caches(root)
    if not caches.entries and not caches.leftovers:
        print(f"No caches in {caches.root} yet.")
    elif kinds or every:
        found = [e for e in caches.entries if e.kind in chosen]
        found += caches.leftovers if LEFTOVERS in chosen else ()
        entries(sorted(found, key=lambda e: (e.kind, -e.size)), caches.root, now)
        print(f"{_counted(found)} of {show_size(caches.size)} in {caches.root}.")
    else:
        from shutil import disk_usage

        free = show_size(disk_usage(caches.root).free)
        print(f"{show_size(caches.size)} in {caches.root} ({free} free on its disk)\n")
        summary(caches, now)
        print("\nOne by one: harmonize ls caches --all (or --kind teacher). Space: harmonize clean caches")
    if caches.foreign:
        print(foreign_words(caches))


def foreign_words(caches: Caches) -> str:
    """One line on what is none of ours."""
    shown = ", ".join(str(p.relative_to(caches.root)) for p in caches.foreign[:3])
    more = ", ..." if len(caches.foreign) > 3 else ""
    return f"Not made by harmonize, or a link, and never removed: {len(caches.foreign)} ({shown}{more})."


def print_table(
    columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()
) -> None:
    """A table without lines; the last column folds."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        last = i == len(columns) - 1
        table.add_column(column, no_wrap=not last, overflow="fold", justify="right" if i in right else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(highlight=False).print(table)


def _counted(found: Sequence[Entry]) -> str:
    return f"{len(found)} with {show_size(sum(e.size for e in found))}"


def _ago(seconds: float) -> str:
    age = show_age(max(0.0, seconds))
    return age if age == "now" else f"{age} ago"
