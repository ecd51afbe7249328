"""The Pareto front, the signed total against DUET's own rows, and what seeds cannot tell from the best."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harmonize.reporting.columns import COLUMNS, Cell
from harmonize.reporting.standing import pareto_front, shift, within_noise
from harmonize.reporting.study import load_study
from harmonize.reporting.table import Row, Table, build_tables
from harmonize.reporting.writers import to_csv, to_latex, to_markdown
from harmonize.tracking.direction import UP
from harmonize.tracking.metric import Metric
from tests.reporting.test_table import rendered

Write = Callable[..., Path]
Make = Callable[..., dict[str, Metric]]


def test_front_by_hand() -> None:
    assert pareto_front([(1, 1), (2, 0), (0, 2), (0, 1)]) == [True, True, True, False]
    assert pareto_front([(1, 1), (1, 1), (1, 0)]) == [True, True, False]
    assert pareto_front([]) == []


@pytest.mark.parametrize("seed", range(10))
def test_front_against_its_definition_and_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [tuple(p) for p in rng.integers(0, 4, size=(15, 3)).tolist()]
    found = pareto_front(points)
    assert any(found)
    for p, on in zip(points, found, strict=True):
        worse = [q for q in points if q != p and np.all(np.array(q) >= np.array(p))]
        assert on == (not worse)
    order = rng.permutation(15)
    assert pareto_front([points[i] for i in order]) == [found[i] for i in order]


def test_shift_is_the_sum_of_changes(metrics: Make) -> None:
    full = {"forget_accuracy": 1.0, "retain_accuracy": 0.9, "neighbor_accuracy": 0.8, "asr_worst": 1.0}
    before = metrics(**full, utility_accuracy=0.7)
    after = metrics(
        forget_accuracy=0.1, retain_accuracy=0.8, neighbor_accuracy=0.9, asr_worst=0.5, utility_accuracy=0.6
    )
    # 0.9 - 0.1 + 0.1 + 0.5 - 0.1
    assert shift(after, before) == pytest.approx(1.3)
    assert shift(before, after) == pytest.approx(-1.3)
    assert shift(before, before) == 0.0
    assert shift(metrics(**full), before) is None and shift(after, None) is None


def test_shift_follows_the_arithmetic_of_the_published_rows(metrics: Make) -> None:
    # DUET's table: forget 32.13 -> 4.27, retain 84.29 -> 78.33, MMLU 61.46 -> 61.45, second forget figure 39.99 -> 5.98
    # (here in the place of the attack): shift 55.90
    def block(forget: float, other: float, retain: float, utility: float) -> dict[str, Metric]:
        return metrics(
            forget_accuracy=forget,
            asr_worst=other,
            retain_accuracy=retain,
            neighbor_accuracy=0.0,
            utility_accuracy=utility,
        )

    base = block(32.13, 39.99, 84.29, 61.46)
    assert shift(block(4.27, 5.98, 78.33, 61.45), base) == pytest.approx(55.90, abs=1e-6)
    assert shift(block(0.0, 0.0, 0.0, 24.87), base) == pytest.approx(-48.76, abs=1e-6)


def test_within_noise_needs_shared_seeds() -> None:
    best = {("0",): 0.0, ("1",): 0.1, ("2",): 0.05}
    assert within_noise(best, best)
    assert within_noise(best, {("0",): 0.1, ("1",): 0.05, ("2",): 0.1})
    assert not within_noise(best, {k: v + 0.5 for k, v in best.items()})
    assert not within_noise(best, {("0",): 0.0}), "one shared seed tells nothing, and nothing is claimed"
    assert not within_noise(best, {("7",): 0.0, ("8",): 0.0})


@pytest.fixture
def study(tmp_path: Path, write_run: Write, metrics: Make) -> Path:
    target = metrics(
        forget_accuracy=1.0, retain_accuracy=1.0, neighbor_accuracy=1.0, asr_worst=1.0, utility_accuracy=1.0
    )
    rows: dict[str, Any] = {
        # forget, neighbor, asr, utility of seeds 0, 1, 2
        "bidirectional": [(0.00, 0.9, 0.1, 0.9), (0.02, 0.9, 0.1, 0.9), (0.01, 0.9, 0.1, 0.9)],
        "duet": [(0.02, 0.8, 0.3, 0.9), (0.01, 0.8, 0.3, 0.9), (0.03, 0.8, 0.3, 0.9)],
        "npo": [(0.60, 0.95, 0.9, 0.8), (0.62, 0.95, 0.9, 0.8), (0.61, 0.95, 0.9, 0.8)],
    }
    for method, seeds in rows.items():
        for seed, (forget, neighbor, asr, utility) in enumerate(seeds):
            write_run(
                tmp_path / f"{method}{seed}",
                method=method,
                seed=seed,
                found=metrics(
                    forget_accuracy=forget,
                    retain_accuracy=1.0,
                    neighbor_accuracy=neighbor,
                    asr_worst=asr,
                    utility_accuracy=utility,
                ),
                target_metrics=target,
            )
    return tmp_path


def test_the_table_marks_front_noise_and_total(study: Path) -> None:
    loaded = load_study(study)
    (table,) = build_tables(loaded)
    by_label = {row.label: row for row in table.rows}
    assert {label: row.front for label, row in by_label.items()} == {
        "target": None, "bidirectional": True, "duet": False, "npo": True
    }  # fmt: skip
    column = {c.key: c for c in table.columns}
    assert table.mark(by_label["bidirectional"], column["forget_accuracy"]) == "best"
    # differences 0.02, -0.01, 0.02: p = 0.42
    assert table.mark(by_label["duet"], column["forget_accuracy"]) == "noise"
    assert table.mark(by_label["npo"], column["forget_accuracy"]) == ""
    assert table.mark(by_label["target"], column["forget_accuracy"]) == ""
    assert by_label["target"].cells["shift"].text("shift") == "0.00"
    # 0.99 + 0 - 0.1 + 0.9 - 0.1
    assert by_label["bidirectional"].cells["shift"].text("shift") == "+1.69±.01"
    text = rendered(table)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "bidirectional†" in text and "0.02±.01≈" in text and "+1.69±.01*" in text
    notes = " ".join(table.footnotes)
    assert "† on the Pareto front of forget, neighbor, ASR worst, utility" in notes
    assert "≈ within noise of the best" in notes and "Shift: changes from the target" in notes
    assert "npo†" in to_markdown(loaded, [table], [], [])
    assert r"npo\dag{}" in to_latex([table], []) and r"0.02$\pm$.01$\approx$" in to_latex([table], [])


def test_csv_has_them_too(study: Path) -> None:
    found = list(csv.DictReader(io.StringIO(to_csv(build_tables(load_study(study))))))
    fronts = {r["row"]: r["front"] for r in found}
    assert fronts == {"target": "", "bidirectional": "1", "duet": "0", "npo": "1"}
    standing = {r["row"]: r["standing"] for r in found if r["metric"] == "forget_accuracy"}
    assert standing == {"target": "", "bidirectional": "best", "duet": "noise", "npo": ""}
    assert [float(r["mean"]) for r in found if r["metric"] == "shift" and r["row"] == "npo"] == [
        pytest.approx(0.24)
    ]


def made_up(n: int, seed: int) -> Table:
    """A table of n methods over three seeds, with ties, gaps and noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        by_seed = {
            c.key: {(str(s),): float(v) for s, v in enumerate(rng.integers(0, 9, 3) / 8)} for c in COLUMNS
        }
        cells = {k: Cell.of(v.values()) for k, v in by_seed.items() if rng.random() > 0.1}
        rows.append(
            Row(f"m{i}", i == 0, "none", 3, cells, seeds={k: v for k, v in by_seed.items() if k in cells})
        )
    return Table("t", ("d", "m"), rows, [])


@pytest.mark.parametrize("seed", range(3))
def test_marks_are_those_of_their_definition(seed: int) -> None:
    table = made_up(14, seed)
    methods = [row for row in table.rows if not row.is_reference]
    for column in COLUMNS:
        means = {r.label: round(c.mean, 2) for r in methods if (c := r.cells.get(column.key))}
        top = (max if column.better == UP else min)(means.values())
        best = [r for r in methods if means.get(r.label) == top and column.key not in ("time", "memory")]
        for row in table.rows:
            near = any(
                within_noise(b.seeds[column.key], row.seeds.get(column.key, {}))
                for b in best
                if row not in best and not row.is_reference
            )
            assert table.mark(row, column) == ("best" if row in best else "noise" if near else ""), column


def test_marks_of_a_thousand_rows_are_quick() -> None:
    table = made_up(1000, 0)
    began = time.process_time()
    marks = [table.mark(row, column) for row in table.rows for column in COLUMNS]
    assert time.process_time() - began < 8
    assert marks.count("best") >= len(COLUMNS) - 2
