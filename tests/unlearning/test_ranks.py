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
import torch
from safetensors.torch import load_file

from harmonize.config import scale_checks
from harmonize.config.compose import compose_config
from harmonize.errors import ConfigError, ModelError, Rejected, RunError
from harmonize.tracking.results import read_run
from harmonize.unlearning import launch
from harmonize.unlearning.run import run
from harmonize.unlearning.together import Together
from harmonize.unlearning.zero import STAGES
from tests.conftest import ROOT
from tests.unlearning.ranks_script import STEPS, losses, run_config
from tests.unlearning.toy import tiny_llama

CASES = ("sum", "pcgrad", "fsdp2", "zero1", "zero2")
TWO = ("trainer.devices=2",)
SHARES = (
    "trainer.devices=2",
    "trainer.strategy=fsdp2",
    "model.device=sharded",
    "trainer.val_check_interval=0",
)


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks and one process alone saw, by name."""
    folder = tmp_path_factory.mktemp("ranks")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
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


def test_bfloat16_weights_with_master_shares_follow_float32(trajectories: dict[str, Any]) -> None:
    alone, first, second = (trajectories[name]["bf16"] for name in ("alone", "rank0", "rank1"))
    assert first["losses"] == pytest.approx(alone["losses"], abs=5e-3) and first["losses"] != alone["losses"]
    assert second["weights"] == first["weights"] == torch.tensor(first["weights"]).bfloat16().tolist()


def test_a_rank_whose_loss_reaches_less_is_waited_for_or_told(trajectories: dict[str, Any]) -> None:
    for rank in ("rank0", "rank1"):
        found = trajectories[rank]["uneven"]
        assert found["deepspeed_stage_1"]["weights"] == pytest.approx(found["ddp"]["weights"], abs=1e-5)
        assert found["deepspeed_stage_1"]["said"] == found["ddp"]["said"] == ""
        assert "Use trainer.strategy=deepspeed_stage_1." in found["deepspeed_stage_2"]["said"]
        assert found["deepspeed_stage_2"]["before"] is None  # no step


@pytest.mark.parametrize("stage", STAGES)
def test_each_rank_holds_half_and_takes_no_step_that_is_not_finite(
    trajectories: dict[str, Any], stage: str
) -> None:
    size = len(trajectories["rank0"]["steep"][stage]["weights"])
    for rank in ("rank0", "rank1"):
        found = trajectories[rank]["steep"][stage]
        states, gradients = found["held"]
        assert states == pytest.approx(2 * size / 2, rel=0.02)  # AdamW's two numbers a weight
        assert gradients == pytest.approx(size / 2, rel=0.02)
        assert found["said"].startswith("Stopped at step 2: the gradient of the term")
        assert found["weights"] == found["before"]
        assert found["own_memory"] and found["hooks"] == 0  # an ordinary model again
    assert trajectories["rank0"]["uneven"]["ddp"]["held"] == [2 * size, size]


def test_ranks_that_hold_a_model_together_make_the_cache_of_one_process(trajectories: dict[str, Any]) -> None:
    alone, first, second = (trajectories[name]["taught"] for name in ("alone", "rank0", "rank1"))
    for name in ("folders", "hidden", "targets"):  # to the last bit: whole batches are dealt out
        assert first[name] == second[name] == alone[name], name
    assert len({tuple(t) for t in alone["targets"].values()}) > 5
    for own, other, all_of_them in zip(first["forwards"], second["forwards"], alone["forwards"], strict=True):
        assert 0 < own < all_of_them and 0 < other < all_of_them  # each computed some, and none computed all


def test_no_rank_holds_the_whole_model(trajectories: dict[str, Any]) -> None:
    alone, first, second = (trajectories[name]["taught"] for name in ("alone", "rank0", "rank1"))
    assert second["empty"] and not first["empty"]  # and yet has the first's weights, base and adapters
    assert first["weights"] == second["weights"] == alone["weights"]
    divided = alone["held"] - alone["head"]
    for rank in (first, second):
        assert rank["held"] - rank["head"] == pytest.approx(divided / 2, rel=0.02)


def test_what_one_rank_raises_between_two_passes_all_raise(trajectories: dict[str, Any]) -> None:
    assert [trajectories[n]["taught"]["failed"] for n in ("alone", "rank0", "rank1")] == ["no such row"] * 3


def test_no_smaller_batch_after_memory_ran_out_in_the_middle_of_a_pass() -> None:
    model, ids = tiny_llama(), torch.ones((1, 3), dtype=torch.long)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    model.model.layers[1].register_forward_pre_hook(full)
    with (
        pytest.raises(ModelError, match="cannot go back in it"),
        torch.no_grad(),
        Together().together(model),
    ):
        with pytest.raises(torch.OutOfMemoryError):
            model(input_ids=ids)
        model(input_ids=ids)


def test_a_whole_run_trains_and_exports_in_shares_what_one_process_does(trajectories: dict[str, Any]) -> None:
    alone, first, second = (trajectories[name]["run"] for name in ("alone", "rank0", "rank1"))
    assert len(alone["losses"]) == 4 and first["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert first["exported"] == pytest.approx(alone["exported"], abs=1e-5) and "values" not in second
    assert first["values"] == pytest.approx(alone["values"], abs=1e-3) and len(alone["values"]) > 3


@pytest.mark.slow
def test_a_run_of_a_model_that_no_device_holds(shared: Path, tmp_path: Path) -> None:
    """From loading to the last measurement in shares; teacher and reference, too."""
    common = ["suite.axes=[forget,retain,neighbor,utility]", "method=bidirectional", "save_model=true"]
    common += ["teacher.instruction='You know nothing about Ada.'", "teacher.batch_size=2"]
    common += [
        "+method.objectives.keep={_target_: harmonize.objectives.divergence.kl_to_original, roles: [retain]}"
    ]
    common += ["peft=lora", "peft.r=4", "peft.target_modules=[q_proj,down_proj]", "optimizer.lr=1e-2"]
    alone, two = tmp_path / "alone", tmp_path / "two"
    run(run_config(shared, tmp_path, *common, f"paths.cache_dir={tmp_path / 'cache1'}"), alone)
    shares = ["trainer.devices=2", "trainer.strategy=fsdp2", "model.device=sharded"]
    values = run(
        run_config(shared, tmp_path, *common, *shares, f"paths.cache_dir={tmp_path / 'cache2'}"), two
    )
    assert losses(two) == pytest.approx(losses(alone), abs=1e-4) and len(losses(two)) == 4
    assert read_run(two).status["state"] == "done" and values["forget_accuracy"] is not None
    kept = {p.name for p in two.iterdir()}
    assert not [name for name in kept if name.startswith("rank-")] and "samples.jsonl" in kept
    found, expected = read_run(two).results, read_run(alone).results
    for name in ("metrics", "target_metrics", "teacher_metrics"):
        of_alone = getattr(expected, name)
        assert len(of_alone) > 5
        for key, metric in getattr(found, name).items():
            if metric.value is not None:
                assert metric.value == pytest.approx(of_alone[key].value, abs=1e-3), (name, key)
    exported, whole = (load_file(folder / "model" / "model.safetensors") for folder in (two, alone))
    assert exported.keys() == whole.keys()
    for name, value in exported.items():
        torch.testing.assert_close(value, whole[name], atol=1e-5, rtol=0)
    for path in (tmp_path / "cache1").glob("[rt]e*/*/*.npy"):  # teacher and reference, under the same keys
        assert (tmp_path / "cache2" / path.relative_to(tmp_path / "cache1")).read_bytes() == path.read_bytes()


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
        (
            ["trainer.strategy=deepspeed_stage_3", "trainer.devices=2"],
            "Use trainer.strategy=fsdp2, which divides",
        ),
        (["trainer.strategy=deepspeed_stage_2"], "needs several devices"),
        (
            [
                *TWO,
                "trainer.strategy=deepspeed_stage_2",
                "trainer.max_tokens_per_batch=64",
                "gradient=pcgrad",
            ],
            r"Use gradient=sum trainer.max_tokens_per_batch=null\.",
        ),
        (
            [*TWO, "trainer.strategy=deepspeed_stage_1", "trainer.precision=bf16-mixed"],
            r"Use trainer.precision=32-true\.",
        ),
        (
            [*TWO, "trainer.strategy=deepspeed_stage_1", "optimizer._target_=torch.optim.Adagrad"],
            r"Use .*optimizer=adamw\.",
        ),
        (["trainer.strategy=dpd"], "Available: auto, ddp, deepspeed_stage_1, deepspeed_stage_2, fsdp2"),
        (
            ["trainer.devices=2", "trainer.strategy=fsdp2", "gradient=pcgrad"],
            "Use trainer.val_check_interval=0 gradient=sum",
        ),
        (["model.device=sharded"], "Add trainer.strategy=fsdp2"),
        (
            [*SHARES, "model.device=auto", "trainer.max_tokens_per_batch=64", "callbacks=probes"],
            r"Use trainer.max_tokens_per_batch=null callbacks.probes=null\.",
        ),
        (
            [*SHARES, "attack=battery", "suite=inside", "edit=sparse_update"],
            "Use suite.relearn=false attack=suite suite=five_axes edit=none model.gold=null;",
        ),
    ],
)
def test_what_several_devices_cannot_do_is_told_first(overrides: list[str], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        compose_config("unlearn", overrides)


def test_deepspeed_that_is_not_installed_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scale_checks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'harmonize\[deepspeed\]'"):
        compose_config("unlearn", [*TWO, "trainer.strategy=deepspeed_stage_2"])


def test_what_the_messages_say_mends_them() -> None:
    mended = ["suite.relearn=false", "attack=suite", "suite=five_axes", "edit=none", "model.gold=null"]
    assert compose_config("unlearn", [*SHARES, *mended]).model.device == "sharded"
    with pytest.raises(ConfigError, match="only unlearn has shares"):
        compose_config("finetune", ["model.device=sharded"])


def test_only_unlearn_trains_on_several_devices() -> None:
    with pytest.raises(ConfigError, match="harmonize finetune works on one device"):
        compose_config("finetune", ["trainer.devices=2"])


def test_several_machines_are_started_from_outside(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torchrun --nnodes 2"):
        run(run_config(shared, tmp_path, "trainer.num_nodes=2"), tmp_path / "run")
