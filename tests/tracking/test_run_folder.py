"""A run folder: who may use it, and what its status says however the run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harmonize.errors import ConfigError, Interrupted, RunError, TrainingError
from harmonize.tracking import files, run_folder
from harmonize.tracking.run_folder import RunFolder, sensitive_files


def status(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((path / "status.json").read_text())
    return found


def test_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study" / "job", command="harmonize unlearn seed=1").prepare()
    with folder.running():
        assert status(folder.path)["state"] == "running"
        folder.write_json("results.json", {"a": 1})
        folder.next = "harmonize reproduce-paper-table"
    found = status(folder.path)
    assert found["state"] == "done"
    assert found["command"] == "harmonize unlearn seed=1"
    assert found["pid"] == os.getpid()
    assert found["next"] == "harmonize reproduce-paper-table"
    assert found["ended"]
    assert found["error"] is None


def test_modes_are_private(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study" / "job").prepare()
    with folder.running():
        folder.write_text("deep/er/text.txt", "x")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert (folder / "deep" / "er").stat().st_mode & 0o777 == 0o700
    for path in folder.path.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o777 == 0o600, path


def test_a_folder_made_by_hydra_is_free_and_made_private(tmp_path: Path) -> None:
    job = tmp_path / "job"
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "config.yaml").write_text("seed: 0")
    (job / "unlearn.log").write_text("")
    folder = RunFolder(job).prepare()
    assert folder.previous_state is None
    assert job.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("entry", ["status.json", "results.json", "checkpoints", "samples.jsonl"])
def test_occupied_is_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / entry).write_text("{}")
    with pytest.raises(RunError, match=f"occupied.*{entry}.*resume=true.*overwrite=true"):
        RunFolder(tmp_path).prepare()
    assert (tmp_path / entry).read_text() == "{}"


def test_overwrite_removes_only_what_a_run_wrote(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "keep").write_text("x")
    job = tmp_path / "job"
    (job / "checkpoints").mkdir(parents=True)
    (job / "checkpoints" / "last.ckpt").write_text("x")
    (job / "results.json").write_text("{}")
    (job / "my_notes.txt").write_text("mine")
    (job / "model").symlink_to(outside)
    RunFolder(job).prepare(overwrite=True)
    assert not (job / "checkpoints").exists()
    assert not (job / "results.json").exists()
    assert not (job / "model").exists()
    assert (job / "my_notes.txt").read_text() == "mine"
    assert (outside / "keep").exists()


def test_resume_keeps_everything_and_tells_how_it_ended(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "job").prepare()
    with pytest.raises(TrainingError), first.running():
        first.record_sensitive(tmp_path / "teacher_cache")
        (first.path / "checkpoints").mkdir()
        raise TrainingError("the loss 'push' is not finite at step 7")
    assert status(first.path)["state"] == "failed"
    assert status(first.path)["error"] == "the loss 'push' is not finite at step 7"
    second = RunFolder(tmp_path / "job").prepare(resume=True)
    assert second.previous_state == "failed"
    assert (second.path / "checkpoints").is_dir()
    with second.running():
        pass
    assert str(tmp_path / "teacher_cache") in str(status(second.path)["sensitive"])


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exclude each other"):
        RunFolder(tmp_path).prepare(resume=True, overwrite=True)


def test_in_use_is_refused_even_with_overwrite(tmp_path: Path) -> None:
    first = RunFolder(tmp_path).prepare()
    with first.running():
        for override in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
                RunFolder(tmp_path).prepare(**override)
    RunFolder(tmp_path).prepare(resume=True)


def test_interrupt(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, command="harmonize unlearn").prepare()
    with pytest.raises(Interrupted, match="harmonize unlearn resume=true"), folder.running():
        folder.write_text("samples.jsonl", "{}\n")
        raise KeyboardInterrupt
    assert status(tmp_path)["state"] == "interrupted"
    assert status(tmp_path)["next"] == "harmonize unlearn resume=true"
    assert (tmp_path / "samples.jsonl").read_text() == "{}\n"


def test_an_exit_caused_by_an_interrupt_counts_as_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).prepare()
    with pytest.raises(Interrupted), folder.running():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does
    assert status(tmp_path)["state"] == "interrupted"


def test_our_own_bug_keeps_its_type_and_leaves_a_traceback(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).prepare()
    with pytest.raises(ZeroDivisionError), folder.running():
        1 / 0  # noqa: B018
    found = status(tmp_path)
    assert found["state"] == "failed"
    assert found["error"] == "ZeroDivisionError: division by zero"
    assert "test_run_folder.py" in str(found["traceback"])


def test_rejected(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).prepare()
    with pytest.raises(ConfigError), folder.running():
        raise ConfigError("no such thing")
    assert status(tmp_path)["state"] == "rejected"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/runs/x"),
        PermissionError(13, "Permission denied", "/runs/x"),
        RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_or_unwritable_disk_is_one_clear_message(tmp_path: Path, error: Exception) -> None:
    folder = RunFolder(tmp_path).prepare()
    with pytest.raises(RunError, match=r"cannot be written.*is kept.*choose another place"), folder.running():
        raise error
    assert status(tmp_path)["state"] == "failed"


def test_status_that_cannot_be_written_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path).prepare()
    with pytest.raises(TrainingError, match="not finite") as caught, folder.running():

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
        raise TrainingError("loss not finite")
    assert "could not be recorded" in caught.value.__notes__[0]
    assert status(tmp_path)["state"] == "running"  # the last state that reached the disk


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        RunFolder(tmp_path / "file").prepare()
    with pytest.raises(RunError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "job").prepare()


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_folder.os, "open", refuse)
    with pytest.raises(RunError, match=r"cannot be written \(Permission denied\)"):
        RunFolder(tmp_path).prepare()


def test_a_killed_run_leaves_a_status_and_can_be_resumed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from harmonize.tracking.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).prepare().running() as run:\n"
        "    run.write_json('half.json', {'step': 3})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert status(tmp_path)["state"] == "running"
    folder = RunFolder(tmp_path).prepare(resume=True)
    assert folder.previous_state == "running"
    assert json.loads((tmp_path / "half.json").read_text()) == {"step": 3}


def test_sensitive_files(tmp_path: Path) -> None:
    job, cache = tmp_path / "job", tmp_path / "cache"
    cache.mkdir()
    folder = RunFolder(job).prepare()
    with folder.running():
        folder.record_sensitive(cache, tmp_path / "gone")
        folder.write_jsonl("samples.jsonl", [{"answer": "x"}])
        (job / "checkpoints").mkdir()
        folder.write_json("results.json", {})
    assert folder.sensitive_files() == [job / "samples.jsonl", job / "checkpoints", cache]
    assert sensitive_files(job) == folder.sensitive_files()


def test_a_termination_signal_ends_a_run_as_ctrl_c_does(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="resume=true"), RunFolder(tmp_path / "run").prepare().running():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert RunFolder(tmp_path / "run").read_status()["state"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before
