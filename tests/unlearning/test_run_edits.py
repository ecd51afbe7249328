"""Whole runs with an edit or a repair: results, caches, purge, resume, and statistics of another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harmonize.cli import main
from harmonize.tracking.results import read_run
from harmonize.unlearning.run import _Run
from tests.unlearning.test_run import Run, harmonize, shelf

__all__ = ["harmonize", "shelf"]  # fixtures
QUICK = ("trainer.val_check_interval=0", "teacher.report=false", "suite.relearn=false")


def command(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0)


def test_a_method_that_only_edits(
    harmonize: Run,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = tmp_path / "own"
    status, folder, output = harmonize("method=ssd", "edit.alpha=2.0", *QUICK, job="ssd", cache=cache)
    assert status == 0, output
    assert "Edit ssd:" in output and "all weights" in output and "statistics" in output
    assert "After training: edit ssd" in (folder / "model" / "README.md").read_text()
    results = read_run(folder).results
    edit = results.extra["edit"]
    before = load_file(shared / "models" / "stories260k" / "model.safetensors")
    after = load_file(folder / "model" / "model.safetensors")
    differing = {n for n in after if not torch.equal(after[n], before[n].float())}
    assert differing == set(edit["tensors"]) != set()
    assert 0 < edit["total"]["share"] < 1 and edit["total"]["relative_change"] > 0
    assert results.extra["selection"]["steps"] == 0 and results.extra["teacher_forwards"] == 0
    assert {"statistics", "finish"} <= set(results.timing) and not (folder / "checkpoints").exists()
    monkeypatch.setenv("HARMONIZE_CACHE", str(cache))
    kept = sorted(p for p in (cache / "statistics").iterdir())
    assert len(kept) == 2
    command("ls", "caches", "--kind", "statistics")
    listed = capsys.readouterr().out
    assert all(p.name in "".join(listed.split()) for p in kept)
    assert command("purge", str(folder), "--yes") == 0
    assert not any(p.exists() for p in kept) and (folder / "results.json").exists()


def test_statistics_of_another_model_are_refused_before_training(
    harmonize: Run, shared: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "own"
    status, _, output = harmonize("method=ssd", *QUICK, job="first", cache=cache)
    assert status == 0, output
    other = tmp_path / "other"
    other.mkdir()
    for path in (shared / "models" / "stories260k").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    weights = load_file(other / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, other / "model.safetensors", {"format": "pt"})
    status, folder, output = harmonize(
        "method=npo",
        "edit=ssd",
        f"statistics.path={cache / 'statistics'}",
        f"model.name_or_path={other}",
        *QUICK,
        job="second",
    )
    assert status == 1 and "of another model" in output and "statistics.path=null" in output
    assert "Traceback" not in output and not (folder / "checkpoints").exists()
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("tuning", [(), ("peft=lora", "peft.target_modules=[q_proj,v_proj]")])
def test_a_run_killed_after_training_ends_the_same_bit_for_bit(
    harmonize: Run, tuning: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = "lora" if tuning else "full"
    overrides = (
        "method=npo",
        "edit=ssd",
        "edit.alpha=2.0",
        "repair=fpf",
        "repair.steps=3",
        "trainer.neighbor_floor=0",
        "trainer.utility_floor=0",
        *QUICK[1:],
        *tuning,
    )
    status, whole, output = harmonize(*overrides, job=f"{job}_whole")
    assert status == 0, output
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_results", killed)
        status, folder, output = harmonize(*overrides, job=f"{job}_killed")
        assert status == 130 and (folder / "checkpoints" / "last.ckpt").exists(), output
    status, folder, output = harmonize(*overrides, "resume=true", job=f"{job}_killed")
    assert status == 0, output
    one, two = (load_file(f / "model" / "model.safetensors") for f in (whole, folder))
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
    first, second = read_run(whole).results, read_run(folder).results
    assert first.extra["edit"] == second.extra["edit"] and first.extra["repair"] == second.extra["repair"]
    assert first.metrics == second.metrics and "Repair fpf: 3 steps" in output


def killed(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_an_edit_that_changes_nothing_is_told(harmonize: Run) -> None:
    status, folder, output = harmonize("method=ssd", "edit.alpha=1e30", *QUICK, job="nothing")
    assert status == 0 and "changed nothing" in output
    assert read_run(folder).results.extra["edit"]["total"]["changed"] == 0


def test_an_edit_that_breaks_the_model_stops_the_run(harmonize: Run) -> None:
    status, folder, output = harmonize("method=task_vector", "edit.alpha=1e300", *QUICK, job="broken")
    assert status == 1 and "not finite" in output and "Traceback" not in output
    assert not (folder / "model").exists()
