"""Fixtures of the reporting tests; makes `tests.objectives` importable."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harmonize.tracking.metric import METRIC_NAMES, Metric
from harmonize.tracking.results import Results

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@pytest.fixture()
def metrics() -> Callable[..., dict[str, Metric]]:
    """Metrics by name with the direction each has."""

    def make(**values: float | None) -> dict[str, Metric]:
        return {
            name: Metric.of(value, 50, better=METRIC_NAMES.get(name, True)) for name, value in values.items()
        }

    return make


@pytest.fixture()
def write_run(metrics: Callable[..., dict[str, Metric]]) -> Callable[..., Path]:
    """Makes the folder of a made-up run."""

    def write(
        folder: Path,
        *,
        method: str = "duet",
        seed: int = 0,
        state: str | None = "done",
        error: str | None = None,
        config: dict[str, Any] | None = None,
        prefill: str = "random",
        dataset: str = "sandbox",
        seconds: float = 60.0,
        found: dict[str, Metric] | None = None,
        **references: dict[str, Metric] | None,
    ) -> Path:
        folder.mkdir(parents=True)
        plain: dict[str, Any] = {
            "seed": seed,
            "method": {"name": method, "objectives": {"pull": {"weight": 1.0, "k": 8}}},
            "dataset": {"name": dataset, "world_seed": 0, "prefill": {"mode": prefill}},
            "model": {"name_or_path": "sandbox:target"},
            "paths": {"runs": str(folder)},
        }
        for key, value in (config or {}).items():
            node = plain
            *parents, last = key.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        results = Results(
            config=plain,
            seed=seed,
            metrics=metrics(forget_accuracy=0.1, neighbor_accuracy=0.9) if found is None else found,
            timing={"unlearning": seconds, "total": 2 * seconds},
            **references,
        )
        (folder / "results.json").write_text(json.dumps(results.to_dict()))
        if state is not None:
            (folder / "status.json").write_text(json.dumps({"state": state, "error": error}))
        return folder

    return write
