"""A study survives kill -9 at any moment, and several processes share one without doing anything twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.sweeps.many_processes import JOBS, KILLS

STUDIES = ("killed", "together")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.sweeps.many_processes", str(folder)]
    subprocess.run(command, env=environment, check=True, cwd=ROOT, timeout=600)
    return folder


def told(studies: Path, name: str) -> Counter[str]:
    return Counter((studies / name / "begun.txt").read_text().splitlines())


def results(studies: Path, name: str) -> dict[int, float]:
    found = [json.loads(p.read_text()) for p in (studies / name / "runs" / "s").glob("*/results.json")]
    assert len(found) == JOBS
    return {r["seed"]: r["metrics"]["forget_accuracy"]["value"] for r in found}


@pytest.mark.parametrize("name", STUDIES)
def test_every_job_is_done_exactly_once(studies: Path, name: str) -> None:
    lines = told(studies, name)
    assert not [line for line in lines if line.startswith("error")]
    # a job is begun anew once; after that it is only ever resumed, and never when it was done
    assert all(lines[f"begin {seed} new"] == 1 for seed in range(JOBS))
    assert not [line for line in lines if line.endswith((" done", " failed"))]
    folders = list((studies / name / "runs" / "s").glob("*/status.json"))
    assert [json.loads(p.read_text())["state"] for p in folders] == ["done"] * JOBS


def test_the_kills_hit(studies: Path) -> None:
    lines = told(studies, "killed")
    assert lines["killed"] == KILLS
    assert sum(n for line, n in lines.items() if line.endswith(" running")) >= KILLS // 4, (
        "runs were cut short"
    )


@pytest.mark.parametrize("name", STUDIES)
def test_results_are_those_of_an_undisturbed_study(studies: Path, name: str) -> None:
    assert results(studies, name) == pytest.approx({seed: seed / JOBS for seed in range(JOBS)})
