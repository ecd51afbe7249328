"""Our figures against published ones: differences where they mean something, the order of methods elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from harmonize.errors import RunError
from harmonize.reporting.against import against, deltas, orders
from harmonize.reporting.columns import Cell, Column
from harmonize.reporting.grid import Grid, print_grid, to_csv, to_latex, to_markdown
from harmonize.reporting.markup.document import page
from harmonize.reporting.markup.tables import of_grid
from harmonize.reporting.published import load_published
from harmonize.reporting.table import Row, Table
from harmonize.tracking.direction import DOWN

PUBLISHED = """
published:
  - title: Theirs
    source: a note
    certainty: S
    columns: ["A ↓", "B ↑"]
    rows: {base: ["50.0", "60.0"], one: ["10.0", "40.0"], two: ["20.0", null], three: ["30.0", "55.0"]}
    ours:
      rows: {base: target, one: m1, two: m2, three: m3}
      order: {"A ↓": forget_accuracy}
      profiles:
        full: {scale: 100, columns: {"A ↓": forget_accuracy}, tolerance: {"A ↓": 2.0}, notes: [Another prompt.]}
"""


def row(label: str, values: dict[str, float] | None, reference: bool = False) -> Row:
    seeds = dict(enumerate(values.values())) if values else {}
    cells = {"forget_accuracy": Cell.of(values.values()) if values else None}
    by_seed = {"forget_accuracy": {(str(k),): v for k, v in seeds.items()}}
    return Row(label, reference, "none", 2, cells, {}, label, by_seed)


@pytest.fixture
def table() -> Table:
    rows = [
        row("target", {"0": 0.5}, reference=True),
        row("m1", {"0": 0.11, "1": 0.11}),
        row("m2", {"0": 0.40, "1": 0.41}),
        row("m3", None),
    ]
    return Table("sandbox", ("d", "m"), rows, [], (Column("forget_accuracy", "forget", "forget", DOWN),))


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., list]:  # type: ignore[type-arg]
    def load(text: str = PUBLISHED) -> list:  # type: ignore[type-arg]
        path = tmp_path / "published.yaml"
        path.write_text(text)
        return load_published(path)

    return load


def test_differences_by_hand(table: Table, published: Callable[..., list]) -> None:  # type: ignore[type-arg]
    (block,) = published()
    found = {d.row: d for d in deltas(block, table, "full")}
    assert found["base"].difference == pytest.approx(0.0) and found["base"].verdict == "within"
    assert found["one"].difference == pytest.approx(1.0) and found["one"].verdict == "within"
    # (0.40 + 0.41) / 2 x 100 - 20
    assert found["two"].difference == pytest.approx(20.5) and found["two"].verdict == "outside"
    assert found["three"].difference is None and found["three"].verdict == ""
    assert deltas(block, table, "sandbox") == []


def test_the_grid_of_differences_and_the_sentences(table: Table, published: Callable[..., list]) -> None:  # type: ignore[type-arg]
    (grid,), lines = against(published(), [table], "full")
    assert [row[3] for row in grid.rows] == ["50.00", "11.00±.00", "40.50±.71", "–"]
    assert [row[4] for row in grid.rows] == ["0.00", "+1.00", "+20.50", "–"] or grid.rows[0][4] == "+0.00"
    assert grid.notes[0].startswith("2 of 3 figures lie within the tolerance, 1 could not be compared.")
    assert grid.notes[1] == "Another prompt."
    assert not any("No difference" in line for line in lines)
    grids, lines = against(published(), [table], "sandbox")
    assert grids == [] and "Theirs. No difference is printed here: --profile full prints one." in lines
    assert against([], [table], "sandbox") == (
        [],
        ["No published figure of this table is known to this project, so nothing is set against one."],
    )


def test_the_order_of_methods_by_hand(table: Table, published: Callable[..., list]) -> None:  # type: ignore[type-arg]
    (block,) = published()
    (found,) = orders(block, table)  # the target is no method, and m3 has no figure
    assert (found.agree, found.differ, found.open) == ((("one", "two"),), (), ())
    table.rows[3] = row("m3", {"0": 0.10, "1": 0.42})
    (found,) = orders(block, table)
    # m3 against either: two seeds that disagree tell nothing
    assert (len(found.agree), len(found.differ), len(found.open)) == (1, 0, 2)
    table.rows[3] = row("m3", {"0": 0.05, "1": 0.06})
    (found,) = orders(block, table)
    assert set(found.differ) | set(found.open) == {("one", "three"), ("two", "three")}
    assert "of 3 pairs of methods 1 stand as published" in str(found)
    table.rows[3], table.rows[2] = row("m3", None), row("m2", {"0": 0.9})
    (found,) = orders(block, table)
    assert found.open == (("one", "two"),)  # one seed tells nothing
    assert "of 1 pair of methods 0 stand as published, 1 undecided (one and two)." in str(found)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("one: m1", "uno: m1", "ours.rows: 'uno' is not in the published table"),
        ('order: {"A ↓"', 'order: {"C ↓"', "ours.order: 'C ↓' is not"),
        ('columns: {"A ↓": f', 'columns: {"X": f', "ours.profiles.full: 'X' is not"),
    ],
)
def test_a_counterpart_of_nothing_is_refused(
    published: Callable[..., list], old: str, new: str, message: str
) -> None:  # type: ignore[type-arg]
    with pytest.raises(RunError, match=message):
        published(PUBLISHED.replace(old, new))


def test_a_grid_everywhere() -> None:
    grid = Grid("T & <b>", ["", "figure"], [["a|b", "+0.10"], ["=x", "–"]], ["Note 5%."])
    assert "| a\\|b | +0.10 |" in to_markdown(grid)
    assert r"a\textbar{}b & +0.10 \\" in to_latex(grid)
    assert to_csv(grid).splitlines() == [",figure", "a|b,'+0.10", "'=x,–"]
    html = page("t", [of_grid(grid)])
    assert "<b>" not in html and "T &amp; &lt;b&gt;" in html and "<td><bdi>a|b</bdi></td>" in html
    assert "http" not in html.replace("http-equiv", "")  # nothing from the network
    console = Console(file=io.StringIO(), width=80)
    print_grid(grid, console)
    assert isinstance(console.file, io.StringIO) and "Note 5%." in console.file.getvalue()
