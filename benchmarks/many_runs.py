"""Made-up finished runs, as large as real ones: what reading a study costs is timed on as many as one likes.

python -m benchmarks.many_runs FOLDER [--runs 1000]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonize.tracking.metric import METRIC_NAMES, Metric
from harmonize.tracking.results import RESULTS, SAMPLES, STATUS, Results
from harmonize.tracking.run_folder import METRICS_CSV

ROWS = 36  # methods: as many as the largest study in docs has, and four
ASKED = 60  # questions in a run's samples
LOOKS = (50, 100, 150, 200)
_MORE = tuple(f"asr_attack_{i}" for i in range(20))  # figures that have no column


def write_runs(folder: Path, runs: int, rows: int = ROWS) -> None:
    """Writes runs of `rows` methods over seeds into `folder`, the same for the same arguments."""
    for i in range(runs):
        _write(folder / f"run_{i}", i % rows, i // rows)


def _write(place: Path, method: int, seed: int) -> None:
    place.mkdir(parents=True)
    draw = random.Random(f"{method} {seed}")
    noisy = {
        name: min(1.0, max(0.0, method / ROWS + draw.gauss(0, 0.05))) for name in (*METRIC_NAMES, *_MORE)
    }
    results = Results(
        config=_config(method, seed),
        seed=seed,
        metrics=_metrics(noisy),
        target_metrics=_metrics(dict.fromkeys(noisy, 1.0)),
        teacher_metrics=_metrics(dict.fromkeys(noisy, 0.25)),
        gold_metrics=_metrics(dict.fromkeys(noisy, 0.5)),
        timing={"unlearning": 60.0 + method, "training": 40.0, "evaluation": 20.0, "total": 90.0},
        peak_memory_bytes=700 * 2**20,
        extra={"selection": {"looks": [{"step": step, **noisy} for step in LOOKS]}, "data": "0" * 64},
    )
    (place / RESULTS).write_text(json.dumps(results.to_dict(), indent=1), encoding="utf-8")
    (place / STATUS).write_text(json.dumps({"state": "done", "error": None}), encoding="utf-8")
    logged = [f"{step},train/loss,{3 / step}" for step in range(10, 201, 10)]
    logged += [
        f"{step},term_weighted/term/{role},{1 / step}" for step in range(10, 201, 10) for role in "fnr"
    ]
    logged += [f"{step},val/{name},{value}" for step in LOOKS for name, value in noisy.items()]
    (place / METRICS_CSV).write_text("\n".join(["step,name,value", *logged]) + "\n", encoding="utf-8")
    said = (json.dumps(_sample(i, draw)) for i in range(ASKED))
    (place / SAMPLES).write_text("\n".join(said) + "\n", encoding="utf-8")


def _config(method: int, seed: int) -> dict[str, Any]:
    """As wide as a composed configuration."""
    return {
        "seed": seed,
        "method": {"name": f"method_{method}", "objectives": {"pull": {"weight": 1.0, "k": 8}}},
        "dataset": {"name": "sandbox", "world_seed": seed, "prefill": {"mode": "random"}},
        "model": {"name_or_path": "sandbox:target"},
        **{f"group_{i}": {f"option_{j}": f"a value of {j}" for j in range(10)} for i in range(14)},
    }


def _metrics(values: dict[str, float]) -> dict[str, Metric]:
    return {
        name: Metric.of(
            value, 120, max(0.0, value - 0.1), min(1.0, value + 0.1), better=METRIC_NAMES.get(name, False)
        )
        for name, value in values.items()
    }


def _sample(i: int, draw: random.Random) -> dict[str, Any]:
    role = ("forget", "neighbor", "retain")[i % 3]
    correct = draw.random() < 0.5
    return {
        "example_id": f"subject-{i}-fact",
        "fact": f"subject-{i}",
        "role": role,
        "trained": i % 2 == 0,
        "attack": ("none", "opener", "answer_prefix")[i % 9 // 3],
        "question": "name the birthplace that belongs to the subject .",
        "reference": "the birthplace of the subject is somewhere",
        "output": "the birthplace of the subject is somewhere" if correct else "sorry , i cannot say",
        "verdict": "correct" if correct else "refused",
        "score": float(correct),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Writes them."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    options.add_argument("--runs", type=int, default=1000)
    given = options.parse_args(argv)
    write_runs(given.folder, given.runs)


if __name__ == "__main__":
    main()
