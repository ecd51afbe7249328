"""What reading many runs costs, on fewer of them with doubled bars; benchmarks/study_cost.py has a thousand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.many_runs import write_runs
from harmonize.commands.report import run as report
from harmonize.reporting import figure
from harmonize.reporting.command import main

RUNS = 200
# CPU seconds for a thousand runs are 5 and 20; a fifth of the runs may take a fifth, and this machine twice as long.
TABLE, PAGE = 2 * 5 / 5, 2 * 20 / 5


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "many"
    write_runs(folder, RUNS, rows=20)
    return folder


def test_a_table_with_its_figures_comes_in_time(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    canvas = figure.Figure
    monkeypatch.setattr(figure, "Figure", lambda **given: drawn.append(1) or canvas(**given))
    began = time.process_time()
    assert main(["--study", str(study)]) == 0
    assert time.process_time() - began < TABLE
    assert len(drawn) == 1  # PNG and SVG are one drawing
    assert {f.name for f in (study / "report").glob("radar.*")} == {"radar.png", "radar.svg", "radar.csv"}


def test_a_page_comes_in_time(study: Path) -> None:
    began = time.process_time()
    assert report([str(study)]) == 0
    assert time.process_time() - began < PAGE
