"""The other commands: help, listings, show, validate, init, purge."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from harmonize.cli import COMMANDS, main


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    code = caught.value.code
    return code if isinstance(code, int) else 0


def test_help_and_listings_start_without_torch() -> None:
    """Under 1.5 s each; the best of three, in CPU time, so that a busy machine does not decide."""
    code = (
        "import sys, time; from harmonize.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'lightning', 'hydra', 'pandas'} & set(sys.modules), 'heavy import'\n"
        "print(time.process_time(), file=sys.stderr)"
    )
    for argv in (["--help"], ["ls", "methods"], ["ls", "--help"], ["diff", "--help"]):
        taken = []
        for _ in range(3):
            done = subprocess.run(
                [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True
            )
            taken.append(float(done.stderr.split()[-1]))
        assert min(taken) < 1.5, (argv, taken)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0 and run("--help") == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["unlern"], "Did you mean 'harmonize unlearn'?"),
        (["method=duet"], "Type: harmonize unlearn method=duet"),
        (["ls", "metods"], "Did you mean 'methods'?"),
        (["ls", "--wrong"], "--wrong"),
        (["purge"], "harmonize purge --help"),
        (["--frobnicate"], "which command?"),
    ],
)
def test_a_wrong_command_line_is_status_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("methods", "bidirectional"),
        ("method", "refusal_sft"),
        ("datasets", "sandbox_hard"),
        ("models", "hf"),
        ("suites", "five_axes"),
        ("attacks", "suite"),
        ("experiments", "tofu"),
        ("optimizers", "adamw"),
    ],
)
def test_ls(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", kind) == 0
    assert name in capsys.readouterr().out


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "method", "duet") == 0
    assert "positions: first" in capsys.readouterr().out
    assert run("show", "dataset", "tofu") == 0
    assert "root: ???" in capsys.readouterr().out
    assert run("show", "method", "dwet") == 1
    assert "Did you mean method=duet?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["method=npo"], "# formula  forget   forget             -(2 / beta) log sigmoid(-beta r)"),
        (["method=npo"], "# needs    reference (log-probabilities of the responses)"),
        (["methods", "npo"], "evidence: code"),
        (["method=npo", "method.objectives.forget.beta=0.5"], "beta: 0.5"),
        (["method=npo", "~method.objectives.keep"], "# code     harmonize.objectives.preference.npo\n"),
        (["method"], "name: bidirectional"),
        (["gradient=gu"], "# needs    Adam, AdamW or SGD without momentum"),
        (["optimizer", "optimizer.lr=0.5"], "lr: 0.5"),
    ],
)
def test_show_takes_what_is_typed_elsewhere(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", *argv) == 0
    said = capsys.readouterr().out
    assert text in said
    assert yaml.safe_load(said), "what is printed is YAML"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["npo"], "Type: harmonize show method=npo"),
        (["metod=npo"], "Did you mean 'method'?"),
        (["method=nop"], "Did you mean method=npo?"),
        (["method=npo", "method.objectives.forgt.beta=1"], "Did you mean method.objectives.forget.beta=1?"),
        (["method=npo", "--config-dir", "nowhere"], "there is no such folder"),
    ],
)
def test_show_names_the_nearest(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", *argv) == 1
    assert message in capsys.readouterr().err


def test_ls_methods_reads_well_in_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    mine = tmp_path / "method"
    mine.mkdir()
    (mine / "gentle.yaml").write_text("defaults: [npo, _self_]\nname: gentle\ndescription: Gentler\n")
    (mine / "weaker.yaml").write_text("# A weaker push.\ndefaults: [bidirectional, _self_]\nname: weaker\n")
    assert run("ls", "methods", "--config-dir", str(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert next(line for line in lines if line.startswith("gentle")).split() == [
        "gentle",
        "Gentler",
        "reference",
    ]
    assert (
        next(line for line in lines if line.startswith("weaker")).split()[1:]
        == "A weaker push. teacher".split()
    )
    assert next(line for line in lines if line.startswith("idk_dpo")).rstrip().endswith("reference, refusals")
    assert run("ls", "methods", "--config-dir", str(tmp_path / "nowhere")) == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_validate_tells_what_data_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", "dataset=sandbox_easy") == 0
    text = capsys.readouterr().out
    assert "is sound" in text and "neighbor" in text
    assert run("validate", "-m", "method=duet,grad_diff", "sampler.rows.forget=-1") == 1
    assert "whole number from 0" in capsys.readouterr().err


def test_init_then_validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", "mydata") == 0
    assert "harmonize unlearn dataset=local dataset.root=mydata" in capsys.readouterr().out
    model = ["model=hf", "model.name_or_path=."]
    assert run("validate", "dataset=local", "dataset.root=mydata", *model) == 0
    assert run("validate", "--config-dir", "mydata/conf", "dataset=mydata", *model) == 0
    assert run("init", "mydata") == 1


def test_purge_lists_asks_and_removes(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "study" / "job"
    job.mkdir(parents=True)
    ours, foreign = cache_dir / "teacher" / "x", tmp_path / "diary.txt"
    ours.mkdir(parents=True)
    foreign.write_text("keep me")
    (job / "samples.jsonl").write_text("{}\n")
    (job / "results.json").write_text("{}")
    (job / "status.json").write_text(json.dumps({"state": "done", "sensitive": [str(ours), str(foreign)]}))
    assert run("purge", str(tmp_path / "study"), "--list") == 0
    assert "samples.jsonl" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run("purge", str(job)) == 1
    assert "--yes" in capsys.readouterr().err and (job / "samples.jsonl").exists()
    assert run("purge", str(job), "--yes") == 0
    assert not (job / "samples.jsonl").exists() and not ours.exists()
    assert (job / "results.json").exists() and foreign.exists(), "a status file is no warrant to delete"
    assert run("purge", str(tmp_path / "cache")) == 1


def test_purge_reaches_another_cache_directory_when_it_is_named(
    tmp_path: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, other = tmp_path / "job", tmp_path / "scratch" / "teacher" / "x"
    job.mkdir()
    other.mkdir(parents=True)
    (job / "status.json").write_text(json.dumps({"state": "done", "sensitive": [str(other)]}))
    assert run("purge", str(job), "--yes") == 0
    assert other.exists() and "--cache-dir" in capsys.readouterr().err
    assert run("purge", str(job), "--yes", "--cache-dir", str(tmp_path / "scratch")) == 0
    assert not other.exists()


def test_completion_knows_sub_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", "harmonize unl")
    assert run("-sc", "query=bash") == 0
    assert capsys.readouterr().out.split() == ["unlearn"]
    monkeypatch.setenv("COMP_LINE", "harmonize unlearn method=re")
    assert run("-sc", "query=bash") == 0
    assert "method=refusal_sft" in capsys.readouterr().out


def test_reproduce_paper_table_is_reachable(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    assert run("reproduce-paper-table", "--help") == 0
    assert "--study" in capsys.readouterr().out
    assert time.perf_counter() - began < 60
