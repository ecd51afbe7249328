"""Time and peak memory of `harmonize prepare` over 1, 2, 4, ... books: time should grow linearly, memory hardly at all.

Every size runs the whole command in a fresh process (rules, one worker, no anchors): read, cut, rewrite, validate,
remove near-duplicates, split, write. The books of a folder are taken in order of their names; when they are used up
they come again with their letters turned, so that no pair is a duplicate. Prints a Markdown table and JSON lines.

    python benchmarks/prepare_throughput.py FOLDER [--sizes 1 2 4 8]
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

_SOME = 50_000  # smaller files are no books


def main() -> None:
    """Runs every size in a child process and prints."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    options.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument(
        "--one", action="store_true", help="prepare every book of the folder in this process"
    )
    given = options.parse_args()
    if given.one:
        print(json.dumps(measure(given.folder)))
        return
    rows = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as home:
            megabytes = fill(Path(home), given.folder, size)
            command = [sys.executable, str(Path(__file__).resolve()), home, "--one"]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=home)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append({"books": size, "mb": round(megabytes, 2), **found})
    print("| books | MB | pairs kept | CPU s | CPU s per MB | peak MiB |\n|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['books']} | {row['mb']:.2f} | {row['kept']} | {row['cpu_s']:.1f} "
            f"| {row['cpu_s'] / row['mb']:.1f} | {row['peak_mib']:.0f} |"
        )
    print()
    for row in rows:
        print(json.dumps(row))


def fill(home: Path, folder: Path, size: int) -> float:
    """Writes `size` books into `home`. Returns megabytes."""
    books = sorted(f for f in folder.glob("*.txt") if f.stat().st_size > _SOME)
    written = 0
    for i in range(size):
        text = books[i % len(books)].read_text(encoding="utf-8")
        if turn := i // len(books):
            # another name for every name: other questions with other answers, of the same shapes
            text = re.sub(r"\b[A-Z][a-z]{3,}\b", lambda m: m[0] + "ax" * turn, text)
        written += (home / f"book{i:03d}.txt").write_text(text, encoding="utf-8")
    return written / 1e6


def measure(home: Path) -> dict[str, float]:
    """Prepares the folder's books as one forget set. Returns pairs kept, CPU seconds and peak memory."""
    from harmonize.cli import main as harmonize

    files = ",".join(sorted(f.name for f in home.glob("*.txt")))
    arguments = [f"source.root={home}", f"source.forget=[{files}]", "anchors=none", "workers=1"]
    try:
        harmonize(
            ["prepare", "source=books", *arguments, f"output={home}/out", f"paths.cache_dir={home}/cache"]
        )
    except SystemExit as ended:
        if ended.code:
            raise
    used = resource.getrusage(resource.RUSAGE_SELF)
    with (home / "out" / "forget.train.jsonl").open(encoding="utf-8") as lines:
        kept = sum(1 for _ in lines)
    return {"kept": kept, "cpu_s": round(used.ru_utime, 1), "peak_mib": used.ru_maxrss / 1024}


if __name__ == "__main__":
    main()
