"""Time and peak memory of the `rules` rewriter over 1, 2, 4, ... books: time should grow linearly, memory not at all.

Every size runs in a fresh process, which streams: read, cut, rewrite, validate, forget. The books of a folder are
taken in order of their names, again and again. Prints a Markdown table and one JSON line per size; last, what the
table of near-duplicates costs per pair.

    python benchmarks/rules_throughput.py FOLDER [--sizes 1 2 4 8 16 32]
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from harmonize.data.sources import books
from harmonize.data.unify.chunks import tasks_of
from harmonize.data.unify.rules import Rules
from harmonize.data.unify.task import Failure, Pair
from harmonize.data.unify.validate import Duplicates, Limits, reason


def main() -> None:
    """Runs every size in a child process and prints."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    options.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    options.add_argument("--one", type=int, help="measure this size in this process and stop")
    given = options.parse_args()
    if given.one:
        print(json.dumps(measure(given.folder, given.one)))
        return
    rows = [_child(given.folder, size) for size in given.sizes]
    print("| books | MB | pairs | CPU s | CPU s per MB | peak MiB |\n|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['books']} | {row['mb']:.2f} | {row['pairs']} | {row['cpu_s']:.1f} "
            f"| {row['cpu_s'] / row['mb']:.2f} | {row['peak_mib']:.0f} |"
        )
    print()
    for row in rows:
        print(json.dumps(row))
    print(json.dumps(duplicates(given.folder)))


def measure(folder: Path, size: int) -> dict[str, float]:
    """Counts, CPU seconds and the process's peak memory for `size` books."""
    files = list(itertools.islice(itertools.cycle(_books(folder)), size))
    started = time.process_time()
    made = sum(1 for _ in _pairs(files))
    return {
        "books": size,
        "mb": sum(f.stat().st_size for f in files) / 1e6,
        "pairs": made,
        "cpu_s": round(time.process_time() - started, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def duplicates(folder: Path) -> dict[str, float]:
    """What the table of near-duplicates holds after every book once."""
    table = Duplicates()
    made = kept = 0
    for pair in _pairs(_books(folder)):
        made += 1
        kept += not table.seen(pair)
    return {"pairs": made, "kept": kept, "hashes_per_pair": round(len(table) / kept, 1)}


def _pairs(files: list[Path]) -> Iterator[Pair]:
    rules, limits = Rules(), Limits()
    for file in files:
        for record in books.read(forget=str(file)).read():
            for task in tasks_of(record):
                (found,) = rules.rewrite([task])
                if not isinstance(found, Failure):
                    yield from (pair for pair in found if reason(pair, task, limits) is None)


def _books(folder: Path) -> list[Path]:
    return sorted(f for f in folder.glob("*.txt") if f.stat().st_size > 50_000)


def _child(folder: Path, size: int) -> dict[str, float]:
    command = [sys.executable, __file__, str(folder), "--one", str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, float] = json.loads(done.stdout)
    return row


if __name__ == "__main__":
    main()
