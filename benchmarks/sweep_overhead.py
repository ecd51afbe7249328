"""What a sweep costs over the bare runs: the same runs by `harmonize sweep` and one after another, in CPU seconds.

Both arms are fresh processes of one thread that find target, teacher and reference models in the cache, as all but the
first run of a study do; what a sweep adds is to compose the jobs beforehand, to look for what is done, and to keep the
table. Prints a JSON object with the bar (docs/sweeps.md); exits with 1 where it is missed or the arms' figures differ.

    python -m benchmarks.sweep_overhead [--jobs 4] [--steps 200] [--pairs 1]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonize.tracking.environment import git_state
from harmonize.tracking.results import read_results

BAR = 1.05
_BARE = """
import json, sys
from pathlib import Path
from harmonize.runners import runner
from harmonize.config.compose import compose_config
for i, overrides in enumerate(json.loads(sys.argv[2])):
    runner("unlearn")(compose_config("unlearn", overrides), Path(sys.argv[1]) / str(i))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 where the bar is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--jobs", type=int, default=4, help="runs in either arm")
    options.add_argument("--steps", type=int, default=200, help="optimizer steps of a run")
    options.add_argument("--pairs", type=int, default=1, help="times that both arms run")
    given = options.parse_args(argv)
    shared = ["dataset=sandbox", f"trainer.max_steps={given.steps}", "save_model=false", "logger=csv"]
    jobs = [[*shared, "trainer.enable_progress_bar=false", f"seed={i}"] for i in range(given.jobs)]
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        file = root / "overhead.yaml"
        file.write_text(
            f"# What does it cost?\noverrides: {json.dumps(shared)}\nsweep: {{seed: {list(range(given.jobs))}}}\n",
            encoding="utf-8",
        )
        bare(
            [[*job, "trainer.max_steps=2"] for job in jobs], root / "warm"
        )  # what all runs share is made once
        pairs = []
        for i in range(given.pairs):
            one = bare(jobs, root / f"bare{i}")
            two = cpu(
                [
                    "-m",
                    "harmonize",
                    "sweep",
                    str(file),
                    "--runs",
                    str(root),
                    "--study",
                    f"sweep{i}",
                    "--quiet",
                ]
            )
            pairs.append((one, two))
        same = figures(root / "bare0") == figures(root / "sweep0")
    ratio = statistics.median(b / a for a, b in pairs)
    found = {
        "jobs": given.jobs,
        "steps": given.steps,
        "bare_cpu_s": [round(a, 1) for a, _ in pairs],
        "sweep_cpu_s": [round(b, 1) for _, b in pairs],
        "added_per_job_s": round(statistics.median(b - a for a, b in pairs) / given.jobs, 2),
        "ratio": round(ratio, 3),
        "bar": BAR,
        "same_figures": same,
        "commit": str((git_state() or {}).get("commit", "unknown"))[:7],
    }
    print(json.dumps(found))
    return int(ratio > BAR or not same)


def bare(jobs: Sequence[Sequence[str]], folder: Path) -> float:
    """CPU seconds of the runs one after another in a process that does nothing else."""
    return cpu(["-c", _BARE, str(folder), json.dumps(jobs)])


def cpu(arguments: Sequence[str]) -> float:
    """CPU seconds of a Python process of one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def figures(study: Path) -> dict[int, dict[str, Any]]:
    """Every figure of every run, by seed."""
    runs = [read_results(path) for path in sorted(study.glob("*/results.json"))]
    return {run.seed: {name: metric.value for name, metric in run.metrics.items()} for run in runs}


if __name__ == "__main__":
    sys.exit(main())
