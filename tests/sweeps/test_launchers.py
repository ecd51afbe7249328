"""Launchers: joblib, submitit on this machine, and a real local Ray cluster each run two jobs, one of which fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harmonize.cli import main
from harmonize.config import plugins
from harmonize.errors import ConfigError
from harmonize.sweeps.ray_jobs import must_fit
from tests.conftest import ROOT

SCRIPT = Path(__file__).with_name("launchers_script.py")


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_jobs_run_in_other_processes_and_a_failing_one_stops_no_other(launcher: str, tmp_path: Path) -> None:
    own = {
        "joblib": ["hydra.launcher.n_jobs=2"],
        "submitit_local": ["hydra.launcher.timeout_min=2"],
        "ray": ["hydra.launcher.num_cpus=2"],
    }[launcher]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "-m", f"hydra/launcher={launcher}", *own, "seed=13,5", "study=s"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 1 and "unlucky" in ended.stderr, ended.stderr
    ran = {p.parent.name.split("_")[2]: p.read_text() for p in (tmp_path / "runs" / "s").glob("*/ran")}
    assert set(ran) == {"seed13", "seed5"} and str(os.getpid()) not in ran.values()


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["hydra/launcher=joblib", "seed=0"], "Add -m"),
        (
            ["-m", "hydra/launcher=submitit_slurm", "seed=0,1"],
            "SLURM's srun and sbatch are not on this machine",
        ),
        (
            ["-m", "hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1", "seed=0,1"],
            "no Ray cluster answers",
        ),
        # what no trial of a search could run with is told before the first one
        (
            ["-m", "hparams_search=pareto", "trainer.val_check_interval=0"],
            "floor_patience needs looks at val",
        ),
    ],
)
def test_what_cannot_run_is_told(
    argv: list[str],
    word: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main(["unlearn", *argv])
    assert ended.value.code == 1 and word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ({"srun": "exit 1"}, "SLURM's sbatch is not on this machine"),
        (
            {
                "srun": "exit 1",
                "sbatch": "exit 1",
                "sinfo": "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1",
            },
            "SLURM cannot be reached (sinfo failed: slurm_load_partitions: Unable to contact slurm controller)",
        ),
        (
            {
                "srun": "exit 1",
                "sbatch": "echo 'sbatch: error: invalid partition specified: gqu' >&2; exit 1",
                "sinfo": "echo 'gpu*'",
            },
            "SLURM has not taken the jobs: sbatch: error: invalid partition specified: gqu",
        ),
    ],
)
def test_slurm_that_cannot_be_reached_or_refuses_is_told_without_a_traceback(
    tools: dict[str, str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there, here = tmp_path / "bin", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    for name, lines in tools.items():
        (there / name).write_text(f"#!/bin/sh\n{lines}\n")
        (there / name).chmod(0o700)
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", str(there))
    with pytest.raises(SystemExit) as ended:
        main(["unlearn", "-m", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gqu", "seed=0,1"])
    told = capsys.readouterr().err
    assert ended.value.code == 1 and f"{words}." in told and "Traceback" not in told
    if "taken" not in words:
        assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("text", "extra"),
    [("hydra/launcher=ray", "ray"), ("hydra/sweeper=optuna", "optuna"), ("hydra/launcher=joblib", "joblib")],
)
def test_what_is_not_installed_is_told_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, text: str, extra: str
) -> None:
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    [problem] = plugins.plugin_problems([text], multirun=True)
    assert f"pip install 'harmonize[{extra}]'" in problem


def test_a_misspelt_launcher_is_told_and_an_own_one_is_known(tmp_path: Path) -> None:
    [problem] = plugins.plugin_problems(["hydra/launcher=rey"], multirun=True)
    assert problem.startswith(
        "hydra/launcher=rey: no such hydra/launcher. Did you mean 'ray'? Available: basic, "
    )
    own = tmp_path / "hydra" / "launcher" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [basic]\n", encoding="utf-8")
    assert not plugins.plugin_problems(["hydra/launcher=mine"], multirun=True, config_dirs=[tmp_path])


def test_a_job_that_no_cluster_can_take_is_told() -> None:
    must_fit({"CPU": 2.0}, 2, 0)
    with pytest.raises(ConfigError, match="asks for 1 cores and 1 GPUs, and the cluster has 2 and 0"):
        must_fit({"CPU": 2.0}, 1, 1)
