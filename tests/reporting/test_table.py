"""Means and spreads by hand, gaps, what is best, and the four ways a table is written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from harmonize.reporting.claims import compare
from harmonize.reporting.columns import Cell, duration
from harmonize.reporting.escape import clean, csv_cell, latex, markdown
from harmonize.reporting.footnotes import views_note
from harmonize.reporting.one_run import run_table
from harmonize.reporting.study import load_study
from harmonize.reporting.table import Table, build_tables
from harmonize.reporting.writers import print_tables, to_csv, to_latex, to_markdown
from harmonize.tracking.direction import DOWN, UP
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import Results

Write = Callable[..., Path]
Make = Callable[..., dict[str, Metric]]


def rendered(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_tables([table], console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture()
def table(tmp_path: Path, write_run: Write, metrics: Make) -> Table:
    """Two methods over three seeds with known means."""
    target = metrics(forget_accuracy=1.0, neighbor_accuracy=0.98)
    gold = metrics(forget_accuracy=0.04)
    for seed, (bi, duet) in enumerate(zip((0.0, 0.02, 0.04), (0.2, 0.4, 0.6), strict=True)):
        write_run(
            tmp_path / f"b{seed}",
            method="bidirectional",
            seed=seed,
            found=metrics(forget_accuracy=bi, neighbor_accuracy=0.9, new_metric=0.5),
            target_metrics=target,
            gold_metrics=gold,
            seconds=60 + 60 * seed,
        )
        utility = {"utility_accuracy": 0.8} if seed < 2 else {}
        write_run(
            tmp_path / f"d{seed}",
            method="duet",
            seed=seed,
            prefill="none",
            found=metrics(forget_accuracy=duet, neighbor_accuracy=0.9, **utility),
            target_metrics=target,
        )
    (found,) = build_tables(load_study(tmp_path))
    return found


def test_mean_and_spread_worked_by_hand(table: Table) -> None:
    target, gold, bidirectional, duet = table.rows
    # (0.0 + 0.02 + 0.04) / 3 = 0.02; deviations -0.02, 0, 0.02; sqrt((4e-4 + 4e-4) / 2) = 0.02
    cell = bidirectional.cells["forget_accuracy"]
    assert cell == Cell(pytest.approx(0.02), pytest.approx(0.02), 3)
    assert cell.text("forget_accuracy") == "0.02±.02"
    # deviations -0.2, 0, 0.2: sqrt(0.08 / 2) = 0.2
    assert duet.cells["forget_accuracy"] == Cell(pytest.approx(0.4), pytest.approx(0.2), 3)
    assert bidirectional.cells["time"] == Cell(120.0, 60.0, 3)
    assert (target.label, target.n, target.is_reference) == ("target", 1, True)
    # The same target in six runs is one model, not six measurements.
    assert target.cells["forget_accuracy"] == Cell(1.0, None, 1)
    assert gold.label == "gold"
    assert [row.label for row in table.rows] == ["target", "gold", "bidirectional", "duet"]
    assert bidirectional.extra["new_metric"] == Cell(0.5, 0.0, 3)


def test_references_of_two_worlds_have_a_spread(tmp_path: Path, write_run: Write, metrics: Make) -> None:
    for world, value in ((0, 0.9), (1, 1.0)):
        for seed in (0, 1):
            write_run(
                tmp_path / f"{world}{seed}",
                seed=seed,
                config={"dataset.world_seed": world},
                target_metrics=metrics(forget_accuracy=value),
            )
    (table,) = build_tables(load_study(tmp_path))
    cell = table.rows[0].cells["forget_accuracy"]
    assert cell == Cell(pytest.approx(0.95), pytest.approx(math.sqrt(0.005)), 2)


def test_best_is_marked_among_methods_with_ties(table: Table) -> None:
    by_key = {column.key: column for column in table.columns}
    target, gold, bidirectional, duet = table.rows
    assert table.is_best(bidirectional, by_key["forget_accuracy"])
    assert not table.is_best(duet, by_key["forget_accuracy"])
    assert not table.is_best(target, by_key["neighbor_accuracy"])
    assert table.is_best(bidirectional, by_key["neighbor_accuracy"])
    assert table.is_best(duet, by_key["neighbor_accuracy"])
    assert not table.is_best(gold, by_key["forget_accuracy"])
    assert not table.is_best(bidirectional, by_key["utility_accuracy"])


def test_gaps_are_told(table: Table) -> None:
    notes = " ".join(table.footnotes)
    assert "duet, utility: 2 of 3 runs." in notes
    assert "– not measured: " in notes
    assert "utility (target, gold, bidirectional)" in notes
    nowhere = next(n for n in table.footnotes if n.startswith("Measured in no run"))
    assert "relearn" in nowhere and "utility" not in nowhere
    assert "relearn" not in rendered(table, 400).replace(nowhere, "").lower().replace("relearning", "")
    assert any(c.key == "relearn_accuracy" for c in table.columns), "a CSV has the same rows for every study"
    assert "time" not in notes
    told = views_note(table.rows)
    assert told == "Prefilled views in training: none: duet; random: bidirectional."
    assert told not in notes  # a column where there is room for one
    assert told in rendered(table, 400) and "Prefilled" not in to_latex([table], [])


def test_terminal_fits_80_columns_and_marks_the_best(table: Table) -> None:
    text = rendered(table)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "0.02±.02*" in text
    assert "forget↓" in text
    assert "neighbor↑" in text
    assert "2.0m" in text


def test_long_labels_fit_too(tmp_path: Path, write_run: Write) -> None:
    for value in ("a very long instruction " * 9, "short"):
        write_run(tmp_path / value[:5], method="bidirectional", config={"teacher.instruction": value})
    (table,) = build_tables(load_study(tmp_path))
    text = rendered(table)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_markdown(table: Table, tmp_path: Path) -> None:
    text = to_markdown(load_study(tmp_path), [table], [], ["Claim: x."])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert 3 < len(table.measured) < len(table.columns)
    assert {line.count(" | ") for line in rows} == {len(table.measured) + 2}
    assert "| bidirectional | random | 3 | **0.02±.02** | **0.90±.00** | – | 2.0m |" in text
    assert "- Claim: x." in text


def test_latex(table: Table) -> None:
    text = to_latex([table], [])
    assert r"\textbf{0.02$\pm$.02}" in text
    assert r"forget $\downarrow$" in text
    assert text.count(r"\midrule") == 2
    assert text.count("{") == text.count("}")


def test_csv_keeps_full_precision_and_every_metric(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv([table]))))
    (found,) = (r for r in rows if r["row"] == "bidirectional" and r["metric"] == "forget_accuracy")
    assert float(found["mean"]) == pytest.approx(0.02, abs=1e-15)
    assert (found["kind"], found["prefill"], found["runs"], found["runs_of"]) == (
        "method",
        "random",
        "3",
        "3",
    )
    assert [r["mean"] for r in rows if r["metric"] == "new_metric"] == ["0.5"]
    assert [r["mean"] for r in rows if r["row"] == "duet" and r["metric"] == "relearn_accuracy"] == [""]
    assert {r["mean"] for r in rows if r["metric"] == "time_s"} >= {"120.0"}


def test_foreign_text_is_escaped_everywhere(tmp_path: Path, write_run: Write) -> None:
    evil = "a|b\n<script>\x1b[31m [bold]\\input{x} & 50% $x_1$ \u202e `code`"
    for value in (evil, "plain"):
        write_run(tmp_path / ("evil" if value == evil else "plain"), config={"teacher.instruction": value})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "status.json").write_text('{"state": "failed", "error": "<b>|\\u001b[2J"}')
    study = load_study(tmp_path)
    (table,) = build_tables(study)
    terminal = rendered(table, width=200)
    assert "\x1b" not in terminal
    assert "[bold]" in terminal
    text = to_markdown(study, [table], [], [])
    assert "<" not in text
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {len(table.measured) + 4}
    tex = to_latex([table], [])
    assert r"\input" not in tex
    assert r"\textbackslash{}input\{x\} \& 50\% \$x\_1\$" in tex
    assert "\u202e" not in terminal + text + tex + to_csv([table])


@pytest.mark.parametrize(
    ("escape", "text", "expected"),
    [
        (latex, "a_b & c%", r"a\_b \& c\%"),
        (latex, r"\write18{rm}", r"\textbackslash{}write18\{rm\}"),
        (latex, "0.97±.01 ↑ ~^", r"0.97$\pm$.01 $\uparrow$ \textasciitilde{}\textasciicircum{}"),
        (markdown, "a|b *c* <d>", r"a\|b \*c\* &lt;d&gt;"),
        (csv_cell, "=HYPERLINK(1)", "'=HYPERLINK(1)"),
        (clean, "a\r\nb\tc\x07\x9b", "a b c"),
    ],
)
def test_escapes(escape: Callable[[str], str], text: str, expected: str) -> None:
    assert escape(text).strip() == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (42.4, "42s"), (99.6, "1.7m"), (3569, "59.5m"), (7200, "2.0h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_small_negative_numbers_do_not_print_as_minus_zero() -> None:
    assert Cell(-0.001, None, 1).text("x") == "0.00"


def test_compare(table: Table) -> None:
    table.rows[-1].prefill = "random"
    # 0.02 against 0.40, standard error sqrt(0.02**2 / 3 + 0.2**2 / 3) = 0.116: more than two errors apart.
    assert compare(table, "forget_accuracy", "bidirectional", "duet", DOWN) == "holds: 0.02 against 0.40"
    assert compare(table, "forget_accuracy", "duet", "bidirectional", DOWN).startswith("does not hold")
    assert compare(table, "neighbor_accuracy", "bidirectional", "duet", UP).startswith("undecided")
    assert compare(table, "utility_accuracy", "bidirectional", "duet", UP) == (
        "not tested: no single row 'bidirectional' with utility_accuracy"
    )
    assert "no single row 'npo'" in compare(table, "forget_accuracy", "npo", "duet", DOWN)


def test_compare_needs_equal_views(table: Table) -> None:
    found = compare(table, "forget_accuracy", "bidirectional", "duet", DOWN)
    assert found == "not tested: trained on different views (random and none)"


def test_an_attack_that_the_target_withstands_proves_nothing(
    tmp_path: Path, write_run: Write, metrics: Make
) -> None:
    """A flattering 0 stands in brackets, in the table of a run and in that of a study."""
    target = metrics(asr_opener=0.96, asr_answer_prefix=0.05)
    write_run(tmp_path / "a", found=metrics(asr_opener=0.0, asr_answer_prefix=0.0), target_metrics=target)
    (table,) = build_tables(load_study(tmp_path))
    assert any(
        "below 0.5 in ASR prefix (0.05): low figures there prove nothing" in n for n in table.footnotes
    )
    results = Results(config={}, seed=0, metrics=metrics(**{"asr_opener": 0.0, "asr_x@reverse": 0.0}))
    results.target_metrics = metrics(**{"asr_opener": 0.96, "asr_x@reverse": 0.05})
    console = Console(file=io.StringIO(), width=120)
    run_table(results, console)
    assert isinstance(console.file, io.StringIO)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "asr_opener ↓ 0.96 0.00 – 50" in lines and "asr_x@reverse ↑ (0.05) (0.00) – 50" in lines
    assert any(line.startswith("( ) the target withstands this attack") for line in lines)


def test_steps_stand_in_their_order(metrics: Make) -> None:
    names = ["x_@5", "x_@10", "x_@10-1", "x_@10-2", "x_@40", "y"]
    console = Console(file=io.StringIO(), width=120)
    run_table(Results(config={}, seed=0, metrics=metrics(**dict.fromkeys(reversed(names), 1.0))), console)
    assert isinstance(console.file, io.StringIO)
    assert [line.split()[0] for line in console.file.getvalue().splitlines()[1:]] == names


def test_the_table_of_one_run(metrics: Make) -> None:
    results = Results(
        config={},
        seed=0,
        metrics={"forget_accuracy": Metric(0.02, 40, 0.0, 0.05, False), "my_metric": Metric(None, 0)},
        target_metrics=metrics(forget_accuracy=0.99, utility_accuracy=0.95),
        notes=["The teacher refuses 9 % \x1b[31mof neighbors. [red]"],
    )
    console = Console(file=io.StringIO(), width=80)
    run_table(results, console)
    assert isinstance(console.file, io.StringIO)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines == [
        "metric target after interval n",
        "forget_accuracy ↓ 0.99 0.02 0.00-0.05 40",
        "utility_accuracy ↑ 0.95 – – –",
        "my_metric ↑ – – – 0",
        "Note: The teacher refuses 9 % [31mof neighbors. [red]",
    ]


def test_of_several_rows_of_a_method_the_plain_one_is_compared(
    tmp_path: Path, write_run: Write, metrics: Make
) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"d{seed}", seed=seed, found=metrics(asr_worst=0.5))
        for name, value, config in (
            ("plain", 0.1, {"method.objectives.push.weight": 1.0}),
            ("pull", 0.9, {}),
        ):
            found = metrics(asr_worst=value + 0.02 * seed)
            write_run(
                tmp_path / f"{name}{seed}", method="bidirectional", seed=seed, config=config, found=found
            )
    (table,) = build_tables(load_study(tmp_path))
    assert [row.label for row in table.rows] == ["bidirectional", "bidirectional ~push", "duet"]
    assert compare(table, "asr_worst", "bidirectional", "duet", DOWN) == "holds: 0.11 against 0.50"
