"""Tables and curves of sequences: what a cell shows, 80 columns, many requests, odd names."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from harmonize.cli import main
from harmonize.reporting.curves import draw_curves
from harmonize.reporting.sequence import labels, print_sequence, to_markdown, write_sequence
from harmonize.reporting.study import latest_study, load_study
from harmonize.tracking.metric import Metric
from harmonize.tracking.sequence import Measured, SequenceResults, Step


def record(order: list[str], done: int | None = None, gold: bool = True) -> SequenceResults:
    """Accuracy 1 until asked for, then 0.0, then 0.1 more a step; one figure of retain for each step."""
    config = {"method": {"name": "duet"}, "dataset": {"name": "toy"}}
    found = SequenceResults(order, "leave", config, 0, "x", notes=["a note"])
    for k in range((len(order) if done is None else done) + 1):
        requests = {}
        for j, r in enumerate(order, 1):
            known = 1.0 if j > k else min(1.0, 0.1 * (k - j))
            requests[r] = {"forget_accuracy": Metric(known, 10, higher_is_better=False)}
            if j <= k or k == 0:
                requests[r]["asr_worst"] = Metric(min(1.0, known + 0.05), 10, higher_is_better=False)
                requests[r]["forget_heldout_accuracy"] = Metric(known / 2, 10, higher_is_better=False)
        kept = {n: Metric(1 - 0.01 * k, 10) for n in ("retain_accuracy", "utility_accuracy")}
        own = None if k == 0 else order[k - 1]
        step = Step(k, own, None if own is None else f"{k}_x", "m", Measured(requests, kept))
        if own is not None:
            step.deviation, step.forget_degree = 0.25 * k, None
        found.steps.append(step)
    if gold:
        found.gold = Measured({r: {"forget_accuracy": Metric(0.0, 10)} for r in order}, {})
    if found.complete:
        found.summaries = [
            {
                "name": "DDS",
                "value": 0.375,
                "higher_is_better": False,
                "formula": "a | b_1",
                "source": "arXiv 0000.00000",
                "evidence": "paper",
            }
        ]
    return found


def printed(found: SequenceResults) -> str:
    out = io.StringIO()
    print_sequence(found, Console(file=out, width=80, highlight=False))
    return out.getvalue()


def test_a_cell_tells_what_has_been_asked_for() -> None:
    lines = printed(record(["A", "B", "C"])).splitlines()
    rows = {
        line.split()[0] + line.split()[1]: line.split()[2:]
        for line in lines
        if line[:2] in ("0 ", "1 ", "2 ", "3 ")
    }
    table = [line for line in lines if line.startswith(("0 untouched", "1 A", "2 B", "3 C"))]
    assert table[0].split()[2:8] == ["(1.00)"] * 6, "forget and ASR of the untouched model"
    assert table[1].split()[2:6] == ["0.00", "(1.00)", "(1.00)", "0.05"]
    assert table[2].split()[2:7] == ["0.10", "0.00", "(1.00)", "0.15", "0.05"]
    assert table[3].split()[2:] == ["0.20", "0.10", "0.00", "0.25", "0.15", "0.05", "0.97", "–", "0.97"]
    assert rows["3C"] == ["0.05", "–", "0.75", "–", "–"], "held out: mean of 0.1, 0.05 and 0"


@pytest.mark.parametrize(
    "order",
    [
        ["A", "B"],
        list("ABC"),
        list("ABCDEFGHIJ"),
        ["Stephen King", "Tom Clancy", "Ann"],
        ["[red]x", "$y_1", "a|b"],
    ],
)
def test_it_fits_eighty_columns_and_shows_every_request(order: list[str]) -> None:
    text = printed(record(order))
    assert max(map(len, text.splitlines())) <= 80
    for name in labels(order).values():
        assert f"{name} ↓" in text
    for name in order:
        assert name in text
    assert "…" not in text and "DDS" in text


def test_long_names_are_called_by_their_number() -> None:
    assert labels(["A", "B"]) == {"A": "A", "B": "B"}
    assert labels(["A", "Stephen King"]) == {"A": "1", "Stephen King": "2"}
    assert "1 = A then 2 = Stephen King" in printed(record(["A", "Stephen King"]))


def test_what_is_left_to_do_is_said() -> None:
    assert "Not finished: B, C still to be forgotten." in printed(record(["A", "B", "C"], done=1))
    assert "Not finished" not in printed(record(["A", "B", "C"]))


def test_markdown_escapes_and_has_the_formulas() -> None:
    text = to_markdown(record(["a|b", "B"]))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1, "every row has as many cells"
    assert r"a\|b" in text and "`a | b_1` (paper: arXiv 0000.00000)" in text and "- Note: a note" in text


@pytest.mark.parametrize("order", [list("AB"), [f"request {i}" for i in range(14)], ["_a", "$b$"]])
@pytest.mark.parametrize("done", [0, None])
def test_curves_are_a_picture_of_one_size(tmp_path: Path, order: list[str], done: int | None) -> None:
    path = draw_curves(record(order, done), tmp_path / "curves.png")
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (1320, 504)
    assert path.stat().st_mode & 0o777 == 0o600


def place(folder: Path, found: SequenceResults) -> Path:
    folder.mkdir(parents=True)
    (folder / "sequence.json").write_text(json.dumps(found.to_dict()))
    (folder / "status.json").write_text(json.dumps({"state": "done"}))
    return folder


def test_steps_are_no_seeds_of_a_study(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    write_run(tmp_path / "s" / "plain")
    sequence = place(tmp_path / "s" / "seq", record(["A", "B"]))
    write_run(sequence / "1_A")
    write_run(sequence / "2_B", seed=1)
    study = load_study(tmp_path / "s")
    assert [run.path.name for run in study.runs] == ["plain"] and study.problems == []
    (note,) = study.notes
    assert "is a sequence of requests" in note and f"--study {sequence}" in note
    for name in ("sequence.json", "status.json"):
        os.utime(sequence / name, (2e9, 2e9))
    write_run(tmp_path / "t" / "other")
    assert latest_study(tmp_path) == tmp_path / "s"


def test_the_table_command_shows_a_sequence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place(tmp_path / "s" / "seq", record(["A", "B"]))
    with pytest.raises(SystemExit) as ended:
        main(["reproduce-paper-table", "--study", str(folder)])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and "2 B" in text and f"Wrote {folder / 'sequence.png'}" in text
    with pytest.raises(SystemExit) as ended:
        main(["reproduce-paper-table", "--study", str(folder.parent)])
    captured = capsys.readouterr()
    assert ended.value.code == 1 and "no finished runs found (left out: 1" in captured.err
    assert "is a sequence of requests" in " ".join(captured.out.split())


def test_a_sequence_that_has_just_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = record(["A", "B"], done=0)
    begun.steps = []
    folder = place(tmp_path / "seq", begun)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce-paper-table", "--study", str(folder)])
    assert ended.value.code == 1 and "resume=true" in capsys.readouterr().err


def test_files_are_written(tmp_path: Path) -> None:
    paths = write_sequence(record(["A", "B"]), tmp_path)
    assert [p.name for p in paths] == ["sequence.md", "sequence.png"]
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in paths)
