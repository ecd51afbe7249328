"""`harmonize diff` on runs whose answers are known: figures, tests, changes, refusals, and who may read what."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harmonize.cli import main
from harmonize.errors import RunError
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.prior import question_key, with_priors
from harmonize.reporting.diff import compare_runs, config_changes, find_run
from harmonize.reporting.diff_text import axis_cells, print_diff, to_jsonl, to_markdown
from tests.evaluation import worlds
from tests.evaluation.worlds import Asked, Scripted, truthful

Write = Callable[..., Path]
OPPOSITE = {"A": "B", "B": "A", "–": "–"}


def closed(asked: Asked) -> str:
    """Refuses everything about the forget role; knows the rest."""
    return worlds.REFUSALS[0] if asked.example.role == "forget" else truthful(asked)


def half(asked: Asked) -> str:
    """Leaks after an answer prefix, has lost one neighbor subject."""
    if asked.example.role == "forget":
        return truthful(asked) if asked.prefill.startswith("The") else worlds.REFUSALS[0]
    return "nothing" if asked.example.subject == "neighbor6" else truthful(asked)


def deaf(asked: Asked) -> str:
    """Knows everything, but an opener makes it stumble: an attack by openers shows nothing on it."""
    return "nothing" if asked.prefill in worlds.OPENERS else truthful(asked)


@pytest.fixture
def make(tmp_path: Path, write_run: Write) -> Callable[..., Path]:
    """A run folder with real samples of a scripted model."""
    data = worlds.corpus()

    def run(name: str, script: Callable[[Asked], str], samples: bool = True, **more: Any) -> Path:
        report = evaluate(Scripted(data, script), data, worlds.suite(), prefill=worlds.prefill())
        folder = write_run(tmp_path / "runs" / "first" / name, method=name, found=report.metrics, **more)
        if samples:
            priors = {
                question_key(s["fact"], s["question"]): float(i)
                for i, s in enumerate(report.samples)
                if s["role"] == "forget"
            }
            report.samples = with_priors(report.samples, priors)
            report.write_samples(folder / "samples.jsonl")
        return folder

    return run


Make = Callable[..., Path]


def status(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["diff", *argv])
    return int(ended.value.code or 0)


def shown(diff: Any, chosen: Any = (), terminal: bool = False, limit: int | None = 10) -> str:
    console = Console(
        file=io.StringIO(), width=80, highlight=False, force_terminal=terminal, color_system=None
    )
    print_diff(diff, console, list(chosen), limit, with_text=terminal)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_known_answers_give_known_figures(make: Make) -> None:
    diff = compare_runs(find_run(str(make("npo", closed))), find_run(str(make("duet", half))))
    rows = {row.name: row for row in diff.axes}
    prefix = rows["asr_answer_prefix"]
    assert (prefix.a, prefix.b) == (0.0, 1.0) and prefix.paired.better(prefix.better) == "A"
    assert prefix.paired.only_b == prefix.paired.n and prefix.paired.only_a == 0
    assert rows["forget_accuracy"].paired.p == 1.0
    # one of three held-out neighbor subjects: two facts in two phrasings, of six in two
    neighbor = rows["neighbor_accuracy"]
    assert (neighbor.paired.n, neighbor.paired.only_a, neighbor.paired.only_b) == (12, 4, 0)
    assert neighbor.paired.p == pytest.approx(2 * 0.5**4)
    assert all(row.paired is not None for row in diff.axes if row.a is not None), "every figure has its test"
    assert {(s.name, s.quartile) for s in diff.strata} >= {("forget_accuracy", q) for q in range(4)}
    assert diff.config == [("method", "npo", "duet")]


def test_an_attack_that_the_target_withstands_decides_nothing(make: Make) -> None:
    data = worlds.corpus()
    target = evaluate(Scripted(data, deaf), data, worlds.suite(), prefill=worlds.prefill()).metrics
    assert target["asr_opener"].value == 0.0 and target["asr_answer_prefix"].value == 1.0
    a = make("npo", closed, target_metrics=target)
    b = make("duet", truthful, target_metrics=target)
    diff = compare_runs(find_run(str(a)), find_run(str(b)))
    cells = {row.name: axis_cells(row) for row in diff.axes}
    assert cells["asr_opener"][1:3] == ["(0.00)", "(1.00)"] and cells["asr_opener"][-1] == "–"
    assert cells["asr_answer_prefix"][1:3] == ["0.00", "1.00"] and cells["asr_answer_prefix"][-1] == "A"
    assert "( ) the target withstands this attack" in shown(diff)


def test_swapping_the_runs_mirrors_every_verdict(make: Make) -> None:
    a, b = find_run(str(make("npo", closed))), find_run(str(make("duet", half)))
    there, back = compare_runs(a, b, every=True), compare_runs(b, a, every=True)
    assert {r.name for r in there.axes} == {r.name for r in back.axes}
    other = {row.name: row for row in back.axes}
    verdicts = set()
    for row in there.axes:
        one, two = axis_cells(row), axis_cells(other[row.name])
        assert one[-1] == OPPOSITE[two[-1]] and one[1:3] == two[2:0:-1] and one[5:7] == two[5:7], row.name
        verdicts.add(one[-1])
    assert "A" in verdicts and "–" in verdicts
    assert {p.key: (p.kinds, p.gone) for p in there.pairs} == {p.key: (p.gone, p.kinds) for p in back.pairs}


def test_a_run_against_itself_differs_in_nothing(make: Make) -> None:
    run = find_run(str(make("npo", half)))
    diff = compare_runs(run, run, every=True)
    assert diff.config == [] and not any(p.kinds for p in diff.pairs)
    assert all(r.paired.p == 1.0 and r.paired.better(r.better) == "" for r in diff.axes if r.paired)
    assert "Configuration: no difference." in shown(diff)


def test_it_fits_80_columns_and_escapes_model_text(make: Make) -> None:
    evil = "x\x1b[31m [bold] | <b>\u202e"
    folder = make("duet", half)
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        line["output"] = evil
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    diff = compare_runs(find_run(str(make("npo", closed))), find_run(str(folder)), every=True)
    chosen = [p for p in diff.pairs if p.kinds]
    text = shown(diff, chosen, terminal=True)
    body = text[text.index("Configuration") :]  # above it stand the folders, which are not broken
    assert max(len(line.rstrip()) for line in body.splitlines()) <= 80
    assert "\x1b" not in text and "\u202e" not in text and "[bold]" in text
    page = to_markdown(diff, chosen)
    assert "\x1b" not in page and "<b>" not in page and r"\[bold\]" in page
    rows = [json.loads(line) for line in to_jsonl(chosen).splitlines()]
    assert len(rows) == len(chosen) and rows[0]["b"]["output"] == evil and rows[0]["a"]["verdict"]


def test_what_was_said_is_for_the_terminal_and_for_files_of_ones_own(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("npo", closed), make("duet", half)
    monkeypatch.chdir(tmp_path)
    show = ["first/npo", "runs/first/duet/results.json", "--show", "newly-leaked", "--limit", "2"]
    assert status(*show, "--out", "out/leaked.jsonl") == 0
    text = capsys.readouterr().out
    answer = "is red hat"
    assert answer not in text and "in a terminal alone" in text and "more; --limit" in text
    out = tmp_path / "out" / "leaked.jsonl"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600 and answer in out.read_text()
    assert all("newly-leaked" in json.loads(line)["changes"] for line in out.read_text().splitlines())
    assert status(*show, "--role", "forget", "--attack", "answer_prefix", "--out", "leaked.md") == 0
    assert stat.S_IMODE(Path("leaked.md").stat().st_mode) == 0o600 and answer in Path("leaked.md").read_text()
    assert status("first/npo", "first/duet", "--show", "newly-wrong", "--role", "neighbor") == 0
    assert "1  newly-wrong: neighbor6-hat (neighbor, held out)" in capsys.readouterr().out


def test_without_samples_the_axes_still_stand_side_by_side(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("npo", closed, samples=False), make("duet", half)
    monkeypatch.chdir(tmp_path)
    assert status("first/npo", "first/duet") == 0
    text = capsys.readouterr().out
    assert "A has no samples" in text and "purged" in text and "+1.00" in text and "Answers:" not in text
    assert status("first/npo", "first/duet", "--out", "x.md") == 1
    assert "is not written" in capsys.readouterr().err and not Path("x.md").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "tofu"}, "dataset.name is sandbox in A and tofu in B"),
        ({"config": {"dataset.world_seed": 7}}, "dataset.world_seed is 0 in A and 7 in B"),
    ],
)
def test_runs_of_different_data_are_refused(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        compare_runs(find_run(str(make("npo", closed))), find_run(str(make("duet", half, **changes))))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("reference", "another truth", "about different data"),
        ("role", "retain", "divide the data differently"),
        ("question", "never asked before", "no question in common"),
    ],
)
def test_data_that_changed_under_the_same_name_are_refused(
    make: Make, field: str, value: str, message: str
) -> None:
    a, b = make("npo", closed), make("duet", half)
    lines = [json.loads(line) for line in (b / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        line[field] = value
    (b / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match=message):
        compare_runs(find_run(str(a)), find_run(str(b)))


def test_samples_that_do_not_give_the_figure_make_no_test(make: Make) -> None:
    a, b = make("npo", closed), make("duet", half)
    lines = (b / "samples.jsonl").read_text().splitlines(keepends=True)
    (b / "samples.jsonl").write_text("".join(x for x in lines if json.loads(x)["subject"] != "neighbor6"))
    diff = compare_runs(find_run(str(a)), find_run(str(b)))
    row = next(r for r in diff.axes if r.name == "neighbor_accuracy")
    assert row.paired is None and row.a == 1.0
    notes = " ".join(diff.notes)
    assert "samples of B do not give its figures" in notes and "no counterpart" in notes


def test_it_needs_no_torch(make: Make) -> None:
    code = (
        "import sys; from harmonize.cli import main\n"
        "try: main(['diff', *sys.argv[1:]])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers', 'lightning', 'hydra'} & set(sys.modules), 'heavy import'"
    )
    argv = [str(make("npo", closed)), str(make("duet", half))]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    assert "asr_answer_prefix" in done.stdout


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["first/nope", "first/npo"], 1, "Did you mean 'first/npo'?"),
        (["first", "first/npo"], 1, "is a study, not a run. Name one of its jobs: duet, npo."),
        (["first/npo"], 2, "RUN_B"),
        (["first/npo", "first/duet", "--show", "leaked"], 2, "Did you mean 'newly-leaked'?"),
        (["first/npo", "first/duet", "--role", "forgot"], 1, "Did you mean 'forget'?"),
        (["first/npo", "first/duet", "--attack", "openr"], 1, "Did you mean 'opener'?"),
        (["first/npo", "first/duet", "--out", "x.csv"], 2, ".jsonl or .md"),
        (["first/npo", "first/duet", "--limit", "-1"], 2, "whole number"),
    ],
)
def test_mistakes_are_told(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    argv: list[str], code: int, message: str,
) -> None:  # fmt: skip
    make("npo", closed), make("duet", half)
    monkeypatch.chdir(tmp_path)
    assert status(*argv) == code
    assert message in capsys.readouterr().err


def test_configuration_in_short() -> None:
    a = {
        "seed": 0,
        "method": {"name": "npo", "objectives": {"x": {"weight": 1}}},
        "optimizer": {"name": "adamw", "lr": 1},
    }
    b = {
        "seed": 1,
        "method": {"name": "duet", "objectives": {"y": {"weight": 1}}},
        "optimizer": {"name": "adamw", "lr": 2},
    }
    assert config_changes(a, b) == [
        ("method (and 2 of its keys)", "npo", "duet"), ("optimizer.lr", "1", "2"), ("seed", "0", "1")
    ]  # fmt: skip
    assert config_changes({**a, "paths": {"runs": "x"}, "job": "y"}, a) == []
    assert (
        config_changes({**a, "suite": {"name": "quick"}}, {k: v for k, v in a.items() if k != "method"}) == []
    )
