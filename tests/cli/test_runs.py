"""Runs and sweeps from the command line: folders, exit status, messages. The work itself is replaced."""

from __future__ import annotations

import json
import os
import stat
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from harmonize import runners
from harmonize.cli import main
from harmonize.commands.runs import expand, split_arguments
from harmonize.errors import HarmonizeError, Interrupted, ModelError
from harmonize.reporting.catalogue import names
from harmonize.tracking.run_folder import RunFolder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, Path, list[str]]]:
    """Runs in an empty folder; what the replaced work was called with."""
    calls: list[tuple[Any, Path, list[str]]] = []

    def run(cfg: Any, folder: Path) -> dict[str, float]:
        place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
        with place.running():
            calls.append((cfg, folder, list(sys.argv[1:])))
            if cfg.seed == 13:
                raise ModelError("the model is unlucky. Use seed=14.")
            if cfg.seed == 99:
                raise ZeroDivisionError("our own bug")
            if cfg.seed == 77:
                raise KeyboardInterrupt
        return {"forget_accuracy": 0.0}

    module = types.ModuleType("fake_work")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_work", module)
    for command in runners.RUNNERS:
        monkeypatch.setitem(runners.RUNNERS, command, "fake_work:run")
    monkeypatch.chdir(tmp_path)
    return calls


def status(argv: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    code = caught.value.code
    return code if isinstance(code, int) else 0


def state(folder: Path) -> str:
    return str(json.loads((folder / "status.json").read_text())["state"])


def test_one_run_has_its_folder_which_is_private(seen: list[Any]) -> None:
    assert status(["unlearn", "seed=3", "study=first"]) == 0
    (cfg, folder, _) = seen[0]
    assert folder == Path.cwd() / "runs/first/bidirectional_sandbox_seed3" and cfg.seed == 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {p.name for p in folder.iterdir()} <= {"status.json", ".lock"}


def test_a_mistake_makes_no_folder(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["unlearn", "method=bidirectionl", "sed=1"]) == 1
    text = capsys.readouterr().err
    assert "Did you mean method=bidirectional?" in text and "Did you mean seed=1?" in text
    assert "Traceback" not in text and not seen and not Path("runs").exists()


def test_flags_may_stand_anywhere(seen: list[Any]) -> None:
    assert status(["unlearn", "seed=0,1", "-m", "method=duet,grad_diff", "study=s"]) == 0
    assert sorted(p.name for p in Path("runs/s").iterdir() if p.is_dir()) == [
        f"{m}_sandbox_seed{s}" for m in ("duet", "grad_diff") for s in (0, 1)
    ]
    assert all(state(folder) == "done" for _, folder, _ in seen) and len(seen) == 4


def test_a_failing_job_stops_no_other(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["unlearn", "-m", "seed=12,13,99,14", "study=s"]) == 1
    states = {folder.name[-2:]: state(folder) for _, folder, _ in seen}
    assert states == {"12": "done", "13": "failed", "99": "failed", "14": "done"}
    text = capsys.readouterr().err
    assert "2 job(s) failed:" in text and "unlucky" in text
    assert text.count("Traceback") == 1, "our own bugs keep their traceback, a user's mistake has none"


def test_a_refused_combination_is_recorded_and_can_be_mended(seen: list[Any]) -> None:
    assert status(["unlearn", "-m", "seed=1,-1", "study=s"]) == 1
    assert len(seen) == 1
    refused = next(p for p in Path("runs/s").iterdir() if p.is_dir() and "seed-1" in p.name)
    assert state(refused) == "rejected"


def test_a_misspelt_value_of_a_sweep_is_told_before_the_first_job(
    seen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(["unlearn", "-m", "method=duet,dwet", "study=s"]) == 1
    assert "Did you mean method=duet?" in capsys.readouterr().err and not seen


def test_an_occupied_folder_is_refused(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["unlearn"]) == 0
    assert status(["unlearn"]) == 1
    assert "resume=true" in capsys.readouterr().err
    assert status(["unlearn", "overwrite=true"]) == 0
    assert len({folder for _, folder, _ in seen}) == 1


def test_errors_are_one_clean_message(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["unlearn", "seed=13"]) == 1
    text = capsys.readouterr().err
    assert text.count("the model is unlucky. Use seed=14.") == 1
    assert "Traceback" not in text and "HYDRA" not in text


def test_ctrl_c_ends_a_sweep_and_can_be_resumed(seen: list[Any]) -> None:
    assert status(["unlearn", "-m", "seed=76,77,78", "study=s"]) == 130
    assert [state(folder) for _, folder, _ in seen] == ["done", "interrupted"]
    found = json.loads((seen[1][1] / "status.json").read_text())
    assert found["next"].endswith("unlearn seed=77 study=s resume=true")
    assert status([*found["next"].split()[1:]]) == 130
    assert seen[2][1] == seen[1][1], "a job of a sweep is resumed alone, in its own folder"


def test_a_named_job_of_a_sweep_is_resumed_alone(seen: list[Any]) -> None:
    assert status(["unlearn", "-m", "seed=0,1", "job=mine"]) == 0
    folder, argv = seen[1][1], seen[1][2]
    assert folder.name == "mine_bidirectional_sandbox_seed1"
    assert status([*argv, "resume=true"]) == 0
    assert seen[2][1] == folder


def test_allow_comes_from_the_command_line(seen: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARMONIZE_ALLOW", "")
    target = "+callbacks.x={_target_: json.dumps, obj: 4}"
    assert status(["unlearn", target]) == 1 and not seen
    assert status(["unlearn", "--allow", "json", target]) == 0
    assert os.environ["HARMONIZE_ALLOW"] == "json"


@pytest.mark.parametrize(
    "argv", [["evaluate"], ["finetune"], ["diagnose"], ["sequence", "dataset.requests=2"]], ids=lambda a: a[0]
)
def test_other_commands_run_too(seen: list[Any], argv: list[str]) -> None:
    command = argv[0]
    assert status(argv) == 0
    assert seen[0][1].parent.name == command


def test_cfg_job_shows_the_configuration(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["unlearn", "method=duet", "--cfg", "job", "--resolve"]) == 0
    assert "positions: first" in capsys.readouterr().out and not seen
    assert not Path("runs").exists()


def test_help_lists_groups_and_examples(seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["unlearn", "--help"]) == 0
    text = capsys.readouterr().out
    assert f"method: {', '.join(names('method'))}\n" in text and "Examples" in text


def test_arguments_are_sorted() -> None:
    found = split_arguments(["a=1", "-m", "--config-dir", "d", "b=2", "--allow=x,y", "--info"])
    assert found.flags == ["-m", "--config-dir", "d", "--info=all"]
    assert found.overrides == ["a=1", "b=2"] and found.allow == ["x", "y"] and found.config_dirs == ["d"]
    with pytest.raises(HarmonizeError, match="--allow needs a value"):
        split_arguments(["--allow"])


def test_expand_visits_every_value() -> None:
    assert expand(["a=1,2", "b=3,4", "c=5"]) == [
        ["a=1", "b=3", "c=5"],
        ["a=2", "b=3", "c=5"],
        ["a=1", "b=4", "c=5"],
    ]


def test_interrupted_is_no_failure_message(capsys: pytest.CaptureFixture[str]) -> None:
    from harmonize.cli import guarded

    def stop() -> int:
        raise Interrupted("stopped; continue with resume=true")

    assert guarded(stop) == 130
    assert capsys.readouterr().err.startswith("stopped")
