"""What evaluating the sandbox's target costs: the default suite, and every attack, in CPU seconds of one thread.

Model and data are loaded, and a few questions were asked, before the clock starts. Prints a JSON object per line, with
the bar of each (docs/benchmarks.md), and exits with 1 where one is missed. The target is made first where the cache
does not have it, which takes minutes.

    python benchmarks/suite_cost.py [--only five_axes]
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch

from harmonize.config.compose import compose_config
from harmonize.tracking.environment import git_state
from harmonize.unlearning.figures import Evaluations
from harmonize.unlearning.setup import load_corpus
from harmonize.unlearning.targets import load_target

# Seconds: the default suite under 20 on two cores, all attacks under 5 minutes; here on one of them.
CASES: dict[str, tuple[list[str], float]] = {
    "five_axes": ([], 20.0),
    "battery": (["attack=battery"], 300.0),
}


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", choices=CASES)
    given = options.parse_args()
    torch.set_num_threads(1)
    missed = False
    for name, (overrides, bar) in CASES.items():
        if given.only in (None, name):
            found = measure(overrides) | {"what": name, "bar_cpu_s": bar}
            missed |= found["cpu_s"] > bar
            print(json.dumps(found))
    sys.exit(int(missed))


def measure(overrides: list[str]) -> dict[str, float]:
    """CPU and wall seconds of one evaluation of the target."""
    cfg = compose_config("evaluate", ["model.gold=null", *overrides])
    corpus = load_corpus(cfg)
    evaluations = Evaluations(cfg, corpus)
    loaded = load_target(cfg, corpus, None)
    evaluations.probe(loaded, 1, ("forget",))
    cpu, wall = time.process_time(), time.perf_counter()
    report = evaluations.run(loaded, cfg.split, progress=False)
    return {
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
        "answers": len(report.samples),
        "commit": str((git_state() or {}).get("commit", "unknown"))[:7],
    }


if __name__ == "__main__":
    main()
