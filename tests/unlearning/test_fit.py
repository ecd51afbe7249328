"""Training: accumulation equals a big batch, resume is exact, bad losses stop, the first Ctrl-C is graceful."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from harmonize.data.batch import collate
from harmonize.errors import Interrupted, Rejected, RunError, TrainingError
from harmonize.objectives.likelihood import cross_entropy
from harmonize.objectives.reduce import per_row
from harmonize.tracking.run_folder import RunFolder
from harmonize.unlearning import ranks
from harmonize.unlearning.callbacks import ValAxes, restore
from harmonize.unlearning.fit import GracefulStop, fit, resumed_step
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.steps import StepLoader, micro_batches
from harmonize.unlearning.terms import Term, build_terms, denominators
from tests.unlearning.toy import Rows, make_module, make_rows, terms, trainer_settings


def go(module: UnlearningModule, steps: int = 20, rows: int = 8, **more: object) -> int:
    sampler = Rows(make_rows(24), rows)
    settings = trainer_settings(max_steps=steps, **more.pop("settings", {}))  # type: ignore[arg-type]
    return fit(
        module,
        lambda start: StepLoader(sampler, lambda r: [r], start),  # type: ignore[arg-type]
        settings,
        title="toy",
        **more,  # type: ignore[arg-type]
    )


def weights(module: UnlearningModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.student.parameters()])


def test_accumulation_equals_a_big_batch() -> None:
    logs: dict[int, list[float]] = {}
    ends = []
    for parts in (1, 3):
        seen = logs.setdefault(parts, [])
        module = make_module(accumulate=parts, log=lambda m, s, seen=seen: seen.append(m["train/loss"]))
        go(module, steps=6)
        ends.append(weights(module))
    assert logs[1] == pytest.approx(logs[3], abs=1e-5)
    assert torch.allclose(ends[0], ends[1], atol=2e-5)


def test_counts_known_beforehand_are_those_the_objectives_return() -> None:
    batch = collate(make_rows(6), 0)
    for positions in ("all", "first"):
        term = Term("ce", cross_entropy, 1.0, {"forget": 1.0, "retain": 1.0}, {"positions": positions})
        log_probs = torch.zeros(len(batch.labels))
        _, counts = cross_entropy(log_probs, batch.row, batch.offset, batch.n_rows, positions=positions)  # type: ignore[arg-type]
        assert torch.equal(term.row_counts(batch), counts)


def test_each_role_is_its_own_mean() -> None:
    rows = make_rows(9, roles=("forget", "retain", "retain"))
    total = denominators(terms(), micro_batches(rows, 2, 0))
    assert total["ascent", "forget"] == sum(len(r.target) for r in rows if r.role == "forget")
    assert total["ce", "retain"] == sum(len(r.target) for r in rows if r.role == "retain")


def test_a_row_of_weight_two_counts_as_two_rows() -> None:
    rows = [r for r in make_rows(6) if r.role == "forget"]
    found = []
    for shown in ([replace(rows[0], weight=2.0), *rows[1:]], [rows[0], *rows]):
        module = make_module(terms=[Term("ce", cross_entropy, 1.0, {"forget": 1.0})])
        batches = micro_batches(shown, 1, 0)
        loss = module._forward(batches[0], denominators(module.terms, batches))["ce", "forget"]
        found.append(float(loss.detach()))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_a_row_of_another_role_reaches_no_gradient() -> None:
    grads = []
    for junk in (5, 9):
        rows = make_rows(4)
        rows[1] = make_rows(1, seed=junk, roles=("retain",))[0]
        module = make_module(terms=[Term("ce", cross_entropy, 1.0, {"forget": 1.0})])
        batches = micro_batches(rows, 1, 0)
        module._trainer = type("T", (), {"world_size": 1})()  # type: ignore[assignment]
        found = module._forward(batches[0], denominators(module.terms, batches))
        found["ce", "forget"].backward()
        grads.append(torch.cat([p.grad.flatten() for p in module.student.parameters() if p.grad is not None]))
    assert torch.allclose(grads[0], grads[1], atol=1e-7)


def test_resume_is_bitwise(tmp_path: Path) -> None:
    whole = make_module()
    go(whole, 20)
    first = make_module()
    go(first, 10, checkpoints=tmp_path)
    second = make_module()
    assert go(second, 20, checkpoints=tmp_path, resume=True) == 20
    assert torch.equal(weights(whole), weights(second))


KILLED = """
    import sys
    from pathlib import Path
    import torch
    from tests.unlearning.test_fit import go, weights
    from tests.unlearning.toy import make_module

    class Slow:
        pass

    import lightning as L
    import time

    class Sleep(L.Callback):
        def on_train_batch_end(self, trainer, *a):
            Path(sys.argv[1], "step").write_text(str(trainer.global_step))
            time.sleep(0.05)

    module = make_module()
    go(module, 40, checkpoints=Path(sys.argv[1]), resume=True, callbacks=[Sleep()] if sys.argv[2] == "slow" else [])
    torch.save(weights(module), Path(sys.argv[1], "end.pt"))
"""


def test_killed_and_resumed_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(KILLED))
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    victim = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "killed"), "slow"], env=environment
    )
    progress = tmp_path / "killed" / "step"
    deadline = time.monotonic() + 120
    while not (progress.exists() and progress.read_text() and int(progress.read_text()) >= 13):
        assert time.monotonic() < deadline and victim.poll() is None
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert (tmp_path / "killed" / "last.ckpt").exists() and not (tmp_path / "killed" / "end.pt").exists()
    for name in ("killed", "whole"):
        subprocess.run(
            [sys.executable, str(script), str(tmp_path / name), "fast"], env=environment, check=True
        )
    ends = [torch.load(tmp_path / n / "end.pt", weights_only=True) for n in ("killed", "whole")]
    assert torch.equal(*ends)


def explode(label_log_probs: Tensor, row: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    return per_row(label_log_probs * float("nan"), row, n_rows)


def test_a_loss_that_is_not_finite_stops_and_names_the_term(tmp_path: Path) -> None:
    module = make_module(terms=[*terms(), Term("boom", explode, 1.0, {"forget": 1.0})])
    before = weights(module)
    with pytest.raises(TrainingError, match="boom/forget"):
        go(module, 5, checkpoints=tmp_path)
    assert torch.equal(before, weights(module))


class PressCtrlC(L.Callback):
    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("foreground")
def test_ctrl_c_stops_after_the_step_and_can_be_resumed(tmp_path: Path) -> None:
    first = make_module()
    with pytest.raises(Interrupted, match="step 8 of 20"):
        go(first, 20, checkpoints=tmp_path, callbacks=[PressCtrlC()])
    second, whole = make_module(), make_module()
    go(second, 20, checkpoints=tmp_path, resume=True)
    go(whole, 20)
    assert torch.equal(weights(second), weights(whole))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_checkpoints_hold_tensors_and_primitives_only(tmp_path: Path) -> None:
    go(make_module(), 5, checkpoints=tmp_path)
    found = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert found["global_step"] == 5
    assert (tmp_path / "last.ckpt").stat().st_mode & 0o077 == 0


def test_frozen_weights_stay_out_of_checkpoints(tmp_path: Path) -> None:
    module = make_module()
    module.student.lm_head.weight.requires_grad_(False)
    again = make_module(module.student)
    go(again, 2, checkpoints=tmp_path)
    names = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert names and not any("lm_head" in n for n in names)


def test_keep_best_follows_the_rule_and_stops_early(tmp_path: Path) -> None:
    scores = iter([(True, 0.9), (False, 0.1), (True, 0.4), (True, 0.4), (True, 0.5), (True, 0.6)])
    module = make_module()
    states: list[Tensor] = []

    def look() -> dict[str, float]:
        states.append(weights(module))
        return {"forget_accuracy": 1.0}

    axes = ValAxes(look, lambda m: next(scores), every=2, max_steps=20, folder=tmp_path, patience=3)
    assert go(module, 20, callbacks=[axes]) == 12
    assert (axes.best_step, axes.best_score, axes.best_ok) == (8, 0.4, True)
    assert axes.path is not None
    restore(module, axes.path)
    assert torch.equal(weights(module), states[3])


def test_a_run_that_stopped_early_trains_no_further_when_resumed(tmp_path: Path) -> None:
    def axes() -> ValAxes:
        looks = {"forget_accuracy": 1.0}
        return ValAxes(
            lambda: looks, lambda m: (True, 0.5), every=2, max_steps=20, folder=tmp_path, patience=2
        )

    first, second = make_module(), make_module()
    assert go(first, 20, checkpoints=tmp_path, callbacks=[axes()]) == 6
    again = axes()
    assert go(second, 20, checkpoints=tmp_path, resume=True, callbacks=[again]) == 6
    assert torch.equal(weights(first), weights(second))
    assert again.best_step == 6 and len(again.history) == 3


def test_a_run_that_stays_below_its_floor_is_given_up(tmp_path: Path) -> None:
    """Two looks in a row: the one at step 2 alone is not enough, those at 6 and 8 are."""
    utility = iter([0.5, 0.9, 0.5, 0.4, 0.9])
    axes = ValAxes(
        lambda: {"utility_accuracy": next(utility)},
        lambda m: (True, 0.5),
        every=2,
        max_steps=20,
        folder=None,
        below=lambda m: max(0.0, 0.8 - m["utility_accuracy"]),
        floor_patience=2,
    )
    place = RunFolder(tmp_path).prepare()
    with pytest.raises(Rejected, match=r"Given up at step 8: utility lies 0\.400 below"), place.running():
        go(make_module(), 20, callbacks=[axes])
    told = json.loads((tmp_path / "status.json").read_text())
    assert told["state"] == "rejected"
    assert told["found"] == {"utility_accuracy": 0.4, "shortfall": pytest.approx(0.4)}


def test_a_disk_that_takes_no_best_state_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: Disk quota exceeded (os error 122)")

    monkeypatch.setattr("harmonize.unlearning.callbacks.save_file", full)
    axes = ValAxes(lambda: {}, lambda m: (True, 0.5), every=2, max_steps=4, folder=tmp_path)
    with pytest.raises(RunError, match=r"quota exceeded.*free some space"):
        go(make_module(), 4, checkpoints=tmp_path, callbacks=[axes])


def test_a_checkpoint_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert resumed_step(tmp_path, resume=True) is None
    (tmp_path / "last.ckpt").write_bytes(b"half a checkpoint")
    assert resumed_step(tmp_path, resume=False) is None
    with pytest.raises(RunError, match="overwrite=true"):
        resumed_step(tmp_path, resume=True)


def test_teacher_is_no_submodule() -> None:
    module = make_module()
    names = {n.split(".")[0] for n, _ in module.named_modules() if n}
    assert names == {"student"}


def test_terms_from_configuration() -> None:
    made = build_terms(
        {
            "forget": {
                "_target_": "harmonize.objectives.likelihood.gradient_ascent",
                "weight": 0.5,
                "roles": ["forget"],
            },
            "gone": None,
            "keep": {
                "_target_": "harmonize.objectives.likelihood.cross_entropy",
                "roles": {"retain": 1.0, "neighbor": 2.0},
                "positions": "first",
            },
        }
    )
    assert [t.name for t in made] == ["forget", "keep"]
    assert made[0].weight == 0.5 and made[1].roles == {"retain": 1.0, "neighbor": 2.0}
    assert made[1].settings == {"positions": "first"} and not made[0].needs_teacher


def test_a_ctrl_c_that_comes_while_ranks_meet_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, trainer = GracefulStop(), SimpleNamespace(should_stop=False)

    def meet(flag: bool) -> bool:
        if not flag:
            stop._note(signal.SIGINT, None)
        return flag

    monkeypatch.setattr(ranks, "any_of", meet)
    stop.on_train_batch_end(trainer)  # type: ignore[arg-type]
    assert not trainer.should_stop  # the others have not heard of it
    stop.on_train_batch_end(trainer)  # type: ignore[arg-type]
    assert trainer.should_stop
