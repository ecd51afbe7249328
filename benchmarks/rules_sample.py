"""A random sample of what the `rules` rewriter makes of one book, for judging by a reader.

Reads the book, cuts it into tasks, rewrites, validates and removes near-duplicates as `harmonize prepare` does with its
defaults, then draws pairs without replacement. Prints one JSON line (counts, rejections, seconds) and a Markdown table.

    python benchmarks/rules_sample.py BOOK.txt [--seed 20260416] [--count 100] [--words 300]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path

from harmonize.data.sources import books
from harmonize.data.unify.chunks import tasks_of
from harmonize.data.unify.rules import VERSION, Rules
from harmonize.data.unify.task import Failure, Pair
from harmonize.data.unify.validate import Duplicates, Limits, reason


def main() -> None:
    """Draws and prints."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("book", type=Path)
    options.add_argument("--seed", type=int, default=20260416)
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--words", type=int, default=300)
    given = options.parse_args()
    started, cpu = time.perf_counter(), time.process_time()
    good, counts = pairs_of(given.book, given.words)
    seconds = time.perf_counter() - started
    facts = {
        "book": given.book.name,
        "bytes": given.book.stat().st_size,
        "rules": VERSION,
        "pairs": len(good),
        "rejected": dict(counts),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "seed": given.seed,
    }
    print(json.dumps(facts))
    print("\n| # | question | value | evidence |\n|---:|---|---|---|")
    for number, pair in enumerate(random.Random(given.seed).sample(good, min(given.count, len(good))), 1):
        print(f"| {number} | {_cell(pair.question)} | {_cell(pair.value)} | {_cell(pair.evidence)} |")


def pairs_of(book: Path, words: int) -> tuple[list[Pair], Counter[str]]:
    """Valid pairs of a book in order, and how many were rejected for which reason."""
    rules, limits, duplicates = Rules(), Limits(), Duplicates()
    good: list[Pair] = []
    counts: Counter[str] = Counter()
    for record in books.read(forget=str(book)).read():
        for task in tasks_of(record, words):
            (found,) = rules.rewrite([task])
            if isinstance(found, Failure):
                counts[found.reason] += 1
                continue
            for pair in found:
                why = reason(pair, task, limits) or ("duplicate" if duplicates.seen(pair) else None)
                if why:
                    counts[why] += 1
                else:
                    good.append(pair)
    return good, counts


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")


if __name__ == "__main__":
    main()
