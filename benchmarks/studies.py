"""Several runs in one study against as many single runs: CPU seconds of the whole process tree (Linux).

Both arms find the sandbox's models, the teacher's cache and the figures of target and gold on disk; a run before them
sees to that. Half of the single runs come before the study, half after it. The arms' results must be equal but for
times, or the pair counts as failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.place import Place

_DEFAULT_STEPS = 400
_CHILD_SUBREAPER = 36  # of prctl(2): what our processes leave behind is ours to wait for, and to count
_OURS = (
    "timing",
    "peak_memory_bytes",
    "config",
    "git",
)  # of results.json: what may differ between any two runs


def r1(place: Place) -> Iterator[dict[str, Any]]:
    """16 shortened runs, and 4 of the default length; a study of 16 against one of 8."""
    for runs, steps in ((16, 20), (4, _DEFAULT_STEPS)):
        yield from study(runs, steps)
    yield twice(8, 20)


def study(runs: int, steps: int) -> Iterator[dict[str, Any]]:
    """One pair: a study of so many seeds, and each seed by itself.

    Args:
        runs: Even. steps: Of each; fewer than the default are looked at on val once, at the end.
    """
    fixed = _fixed(steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _seconds(_single(fixed, folder / "before", 0))
        half = runs // 2
        alone = [_seconds(_single(fixed, folder, seed)) for seed in range(half)]
        together = _seconds(_sweep(fixed, folder, runs))
        alone += [_seconds(_single(fixed, folder, seed)) for seed in range(half, runs)]
        apart = _apart(folder / "study", folder / "single")
    about = {"runs": runs, "steps": steps}
    yield {"parity": f"{runs} runs", "loss": 0.0, "gradient": 0.0, "apart": apart, "ok": not apart, **about}
    if apart:
        return
    yield {
        **_pair("one study", "single runs", together / sum(alone)),
        "cpu_seconds": {"study": round(together, 1), "single": [round(s, 1) for s in alone]},
        "saved": round((sum(alone) - together) / runs, 2),
        **about,
    }


def twice(runs: int, steps: int) -> dict[str, Any]:
    """A study of twice as many seeds against one of `runs`: half of the small ones before it, half after."""
    fixed = _fixed(steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _seconds(_single(fixed, folder / "before", 0))
        few = [_seconds(_sweep(fixed, folder / "first", runs))]
        many = _seconds(_sweep(fixed, folder / "twice", 2 * runs))
        few.append(_seconds(_sweep(fixed, folder / "last", runs)))
    return {
        **_pair("twice the runs", "one study", 2 * many / sum(few)),
        "predicted": 2.0,
        "cpu_seconds": {"study": [round(s, 1) for s in few], "twice": round(many, 1)},
        "runs": runs,
        "steps": steps,
    }


def _pair(first: str, second: str, found: float) -> dict[str, Any]:
    """A ratio of one pair."""
    ratio = dict.fromkeys(("ratio_median", "q1", "q3"), round(found, 4))
    return {"arm_a": first, "arm_b": second, "of": "CPU seconds", **ratio, "n": 1}


def _fixed(steps: int) -> list[str]:
    fixed = ["dataset=sandbox", "method=bidirectional", f"trainer.max_steps={steps}"]
    return fixed if steps == _DEFAULT_STEPS else [*fixed, f"trainer.val_check_interval={steps}"]


def _sweep(fixed: Sequence[str], folder: Path, runs: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sweep.yaml"
    file.write_text(
        yaml.safe_dump({"study": "study", "overrides": fixed, "sweep": {"seed": list(range(runs))}})
    )
    return ["sweep", str(file), "--runs", str(folder), "--quiet"]


def _single(fixed: Sequence[str], folder: Path, seed: int) -> list[str]:
    where = [f"paths.runs={folder}", "study=single", f"job=seed{seed}", "trainer.enable_progress_bar=false"]
    return ["unlearn", *fixed, f"seed={seed}", *where]


def _seconds(arguments: Sequence[str]) -> float:
    """CPU seconds of a command and of every process that it leaves behind."""
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "WANDB_MODE": "offline"}
    before = _used()
    command = [sys.executable, "-m", "harmonize", *arguments]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return _used() - before


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _apart(together: Path, alone: Path) -> list[int]:
    """Seeds whose results differ between the arms."""
    ours, theirs = (
        {found["seed"]: {k: v for k, v in found.items() if k not in _OURS} for found in _results(folder)}
        for folder in (together, alone)
    )
    return sorted(seed for seed in ours.keys() | theirs.keys() if ours.get(seed) != theirs.get(seed))


def _results(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob("*/results.json"):
        yield json.loads(path.read_text(encoding="utf-8"))
