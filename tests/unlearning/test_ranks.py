"""Several ranks on one machine (gloo): the trajectory of one process, disjoint rows, one folder, one Ctrl-C."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harmonize.config.compose import compose_config
from harmonize.errors import ConfigError, Rejected, RunError
from harmonize.tracking.loggers import read_metrics
from harmonize.tracking.results import read_run
from harmonize.unlearning import launch
from harmonize.unlearning.run import run
from tests.conftest import ROOT
from tests.unlearning.ranks_script import STEPS
from tests.unlearning.small import small_config

CASES = ("sum", "pcgrad", "fsdp2")


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks and one process alone saw, by name."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.unlearning.ranks_script", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    return {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_take_the_steps_of_one_process(trajectories: dict[str, Any], case: str) -> None:
    alone, first, second = (trajectories[name][case] for name in ("alone", "rank0", "rank1"))
    assert len(alone["losses"]) == STEPS and max(alone["losses"]) - min(alone["losses"]) > 0.1
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert first["weights"] == pytest.approx(alone["weights"], abs=1e-5)
    assert second["weights"] == first["weights"] and second["losses"] == first["losses"]


@pytest.mark.parametrize("case", CASES)
def test_ranks_see_disjoint_rows_which_make_up_the_step(trajectories: dict[str, Any], case: str) -> None:
    alone, first, second = (trajectories[name][case]["seen"] for name in ("alone", "rank0", "rank1"))
    for whole, one, other in zip(alone, first, second, strict=True):
        assert not set(one) & set(other) and [*one, *other] == whole


def config(shared: Path, folder: Path, *overrides: str) -> Any:
    own = ["suite.axes=[forget]", "suite.relearn=false", "suite.bootstrap=2", "suite.max_new_tokens=4"]
    own += ["method=npo", "save_model=false", "logger=csv", "trainer.log_every_n_steps=1", "seed=3"]
    return small_config(shared, folder, *own, *overrides)


def losses(folder: Path) -> list[float]:
    return [value for _, name, value in read_metrics(folder / "metrics.csv") if name == "train/loss"]


@pytest.mark.slow
def test_a_run_on_two_devices_is_one_run(shared: Path, tmp_path: Path) -> None:
    lora = ("peft=lora", "peft.r=4", "peft.target_modules=[q_proj,down_proj]", "optimizer.lr=1e-2")
    alone = tmp_path / "alone"
    run(config(shared, tmp_path, *lora), alone)
    two = tmp_path / "two"
    values = run(config(shared, tmp_path, *lora, "trainer.devices=2", "trainer.strategy=fsdp2"), two)
    assert losses(two) == pytest.approx(losses(alone), abs=1e-4) and len(losses(two)) == 4
    found = read_run(two)
    assert found.status["state"] == "done" and values["forget_accuracy"] is not None
    kept = {p.name for p in two.iterdir()}
    assert not [name for name in kept if name.startswith("rank-")] and "samples.jsonl" in kept
    metrics = read_run(alone).results.metrics
    for name, metric in found.results.metrics.items():
        if metric.value is not None:
            assert metric.value == pytest.approx(metrics[name].value, abs=1e-3), name


def test_ctrl_c_to_one_rank_stops_all_after_the_same_step(trajectories: dict[str, Any]) -> None:
    said = [trajectories[name]["interrupted"] for name in ("alone", "rank0", "rank1")]
    assert set(said) == {said[0]} and said[0].startswith(
        "Interrupted after step 3 of 50 (toy); the state was saved."
    )


def test_signals_are_passed_on_and_what_the_first_rank_raised_is_raised(
    tmp_path: Path, foreground: None
) -> None:
    wait = "import signal, sys, time; signal.signal(2, lambda *a: sys.exit(7)); print(flush=True); time.sleep(60)"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", wait],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline()
        process.stdout.close()
    with launch._signals_to(processes):
        os.kill(os.getpid(), signal.SIGINT)
        assert launch._ends(processes) == [7, 7]
    told = tmp_path / "error"
    told.write_bytes(pickle.dumps(("Rejected", "below the floor", {"shortfall": 0.5})))
    with pytest.raises(Rejected, match="below the floor") as raised:
        launch._raise(told, [1, 1], tmp_path)
    assert raised.value.found == {"shortfall": 0.5}
    with pytest.raises(RunError, match="-9, 1"):
        launch._raise(tmp_path / "none", [-9, 1], tmp_path)


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["trainer.devices=3"], "cannot be shared evenly by 3 devices"),
        (["trainer.devices=2", "weighter=guard"], "weighter=none, or trainer.devices=1"),
        (["trainer.strategy=fsdp2"], "needs several devices"),
        (["trainer.strategy=deepspeed_stage_3", "trainer.devices=2"], "is not offered"),
        (["trainer.strategy=dpd"], "Available: auto, ddp, fsdp2"),
        (
            ["trainer.devices=2", "trainer.strategy=fsdp2", "gradient=pcgrad"],
            "Use trainer.val_check_interval=0 gradient=sum",
        ),
    ],
)
def test_what_several_devices_cannot_do_is_told_first(overrides: list[str], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        compose_config("unlearn", overrides)


def test_only_unlearn_trains_on_several_devices() -> None:
    with pytest.raises(ConfigError, match="harmonize finetune works on one device"):
        compose_config("finetune", ["trainer.devices=2"])


def test_several_machines_are_started_from_outside(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torchrun --nnodes 2"):
        run(config(shared, tmp_path, "trainer.num_nodes=2"), tmp_path / "run")
