"""`harmonize clean caches`: removes what was not used for long, what is too much, and leftovers of killed processes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harmonize.caches.clean import busy, expendable, remove
from harmonize.caches.entries import Entry, read_caches
from harmonize.commands.arguments import Parser, agreed
from harmonize.commands.caches import LEFTOVERS, entries, foreign_words, kinds_of
from harmonize.config.paths import cache_dir
from harmonize.config.units import parse_duration, parse_size, show_size

_SHOWN = 20


def run(argv: list[str]) -> int:
    """Lists, asks, removes.

    Raises:
        UsageError: Something else than caches.
        ConfigError: A duration, size or kind that is none.
        RunError: Nobody to ask.
    """
    parser = Parser(
        "clean",
        "Makes room in the cache directory. What is removed is computed again when a run needs it. What a living\n"
        "process uses stays. Without --older-than and --keep-under, only leftovers of killed processes go.",
        "  harmonize clean caches --older-than 7d\n"
        "  harmonize clean caches --keep-under 20GB --dry-run\n"
        "  harmonize clean caches --kind teacher --older-than 0d --yes",
    )
    parser.add_argument("what", nargs="?", choices=["caches"], help="caches")
    parser.add_argument("--older-than", metavar="TIME", help="what was not used for 30min, 12h, 7d, 2w")
    parser.add_argument(
        "--keep-under", metavar="SIZE", help="the oldest, until no more than 500MB, 20GB is left"
    )
    parser.add_argument(
        "--kind", action="append", default=[], help="only this kind (harmonize ls caches); may be repeated"
    )
    parser.add_argument(
        "--cache-dir", type=Path, help="the runs' paths.cache_dir, where it was set by an override"
    )
    parser.add_argument("--list", "--dry-run", action="store_true", help="only list them")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    given = parser.parse(argv)
    if given.what is None:
        from harmonize.cli import UsageError

        raise UsageError("clean what? Type: harmonize clean caches")
    older = None if given.older_than is None else parse_duration(given.older_than, "--older-than")
    under = None if given.keep_under is None else parse_size(given.keep_under, "--keep-under")
    kinds, now = kinds_of(given.kind), time.time()

    caches = read_caches(given.cache_dir or cache_dir())
    chosen = [e for e in caches.entries if e.kind in kinds]
    going = expendable(chosen, now, older, under)
    going += caches.leftovers if LEFTOVERS in kinds else ()
    left: list[tuple[Entry, str]] = [(e, why) for e in going if (why := busy(e, now))]
    going = [e for e in going if e not in [entry for entry, _ in left]]
    if caches.foreign:
        print(foreign_words(caches), file=sys.stderr)
    _tell(left)
    if not going:
        size = sum(e.size for e in chosen)
        print(f"Nothing to remove: {len(chosen)} caches with {show_size(size)} stay in {caches.root}.")
        if older is None and under is None and chosen:
            print("Choose some with --older-than 7d or --keep-under 20GB.")
        return 0
    shown = going if given.list else going[:_SHOWN]
    entries(shown, caches.root, now)
    if len(going) > len(shown):
        print(f"... and {len(going) - len(shown)} more; --dry-run lists all.")
    print(f"{len(going)} with {show_size(sum(e.size for e in going))} in {caches.root}.")
    if given.list:
        return 0
    if not given.yes and not agreed(f"Remove these {len(going)}? They are made again when they are needed."):
        print("Nothing was removed.")
        return 1
    # asking may have taken a while: each is looked at again
    ends = [(e, remove(e, caches.root, time.time())) for e in going]
    gone = [e for e, why in ends if not why]
    _tell([(e, why) for e, why in ends if why])
    print(f"Removed {len(gone)}: {show_size(sum(e.size for e in gone))}.")
    return 0


def _tell(left: list[tuple[Entry, str]]) -> None:
    for entry, why in left:
        print(f"Left ({why}): {entry.path}", file=sys.stderr)
