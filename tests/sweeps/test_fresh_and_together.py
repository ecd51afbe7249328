"""What a run leaves is the same, bit by bit, in a process of its own and after other runs that share what they load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.sweeps.fresh_and_together import PROCESSES, RUNS


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    model = str(shared / "models" / "stories260k")
    command = [sys.executable, "-m", "tests.sweeps.fresh_and_together", str(folder), model]
    subprocess.run(command, env=environment, check=True, cwd=ROOT, timeout=600, capture_output=True)
    return folder


def found(folder: Path) -> dict[str, Any]:
    """The results without what differs between any two runs: times, memory, and who filled the teacher's cache."""
    results = json.loads((folder / "results.json").read_text())
    for key in ("timing", "peak_memory_bytes"):
        del results[key]
    del results["config"]["study"], results["extra"]["teacher_forwards"]
    return dict(results)


@pytest.mark.parametrize("name", RUNS)
def test_runs_that_share_leave_what_a_fresh_process_leaves(studies: Path, name: str) -> None:
    alone = studies / f"{name}-alone" / f"0-{name}"
    others = [
        studies / study / f"{i}-{n}"
        for study, (names, shared) in PROCESSES.items()
        for i, n in enumerate(names)
        if shared and n == name
    ]
    assert len(others) == {"full": 3, "lora": 2}[name]
    for other in others:
        assert found(other) == found(alone), other
        for file in ("model/model.safetensors", "samples.jsonl"):
            assert (other / file).read_bytes() == (alone / file).read_bytes(), (other, file)


def test_the_two_runs_differ(studies: Path) -> None:
    full, lora = (studies / f"{name}-alone" / f"0-{name}" / "model" / "model.safetensors" for name in RUNS)
    assert full.read_bytes() != lora.read_bytes()
