"""What reading a study costs: the table and the page of 1,000 made-up runs, in CPU seconds of fresh processes.

Prints a JSON object per line, with the bar of each (docs/report.md), and exits with 1 where one is missed.

    python -m benchmarks.study_cost [--runs 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.many_runs import write_runs
from harmonize.tracking.environment import git_state

# Seconds for a thousand runs.
COMMANDS: dict[str, tuple[list[str], float]] = {
    "table": (["reproduce-paper-table", "--study"], 5.0),
    "page": (["report"], 20.0),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 where a bar is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--runs", type=int, default=1000)
    given = options.parse_args(argv)
    missed = False
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / "many"
        write_runs(study, given.runs)
        for what, (command, bar) in COMMANDS.items():
            found = {"what": what, "runs": given.runs, **cost([*command, str(study)]), "bar_cpu_s": bar}
            missed |= found["cpu_s"] > bar
            print(json.dumps(found), flush=True)
    return int(missed)


def cost(command: Sequence[str]) -> dict[str, Any]:
    """CPU and wall seconds of one command of harmonize in a process of its own."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "harmonize", *command],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {
        "cpu_s": round(cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "commit": str((git_state() or {}).get("commit", "unknown"))[:7],
    }


if __name__ == "__main__":
    sys.exit(main())
