"""A figure whose best value lies within its scale: marks by distance, and symbols, wherever a direction is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harmonize.errors import ConfigError
from harmonize.evaluation.paired import Paired
from harmonize.evaluation.stability import gap
from harmonize.reporting import experiment
from harmonize.reporting.against import orders
from harmonize.reporting.card import _figures
from harmonize.reporting.claims import compare
from harmonize.reporting.columns import Column
from harmonize.reporting.experiment import load_experiment
from harmonize.reporting.published import Ours, Published, PublishedRow
from harmonize.reporting.study import load_study
from harmonize.reporting.table import Table, build_tables
from harmonize.reporting.writers import to_csv, to_latex, to_markdown
from harmonize.tracking.direction import UP, towards
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import Results

Write = Callable[..., Path]
AREA = Column("mia_loss_auc", "MIA loss", "MIA", towards(0.5))
# Distances from 0.5: near .02 .03 .01; over .05 .02 .03 (one run below 0.5); far .40 .39 .41; under .30 .31 .29.
VALUES = {
    "near": (0.52, 0.53, 0.51),
    "over": (0.55, 0.48, 0.53),
    "far": (0.90, 0.89, 0.91),
    "under": (0.20, 0.19, 0.21),
}


@pytest.fixture()
def table(tmp_path: Path, write_run: Write) -> Table:
    for method, values in VALUES.items():
        for seed, value in enumerate(values):
            found = {AREA.key: Metric.of(value, 40, better=towards(0.5))}
            write_run(tmp_path / f"{method}{seed}", method=method, seed=seed, found=found)
    return build_tables(load_study(tmp_path), (AREA,))[0]


def test_marks_go_by_the_distance_of_the_runs(table: Table, tmp_path: Path) -> None:
    by_name = {row.label: row for row in table.rows}
    # the mean of 'over' is 0.52, as near as that of 'near', but its runs are farther off
    merits = {name: round(by_name[name].merit(AREA) or 0.0, 4) for name in VALUES}
    assert merits == {"near": -0.02, "over": -0.0333, "far": -0.4, "under": -0.3}
    marks = {name: table.mark(by_name[name], AREA) for name in VALUES}
    # near and over: differences .03 -.01 .02, t = 1.11, p = .38; the others differ by .28 or more in every seed
    assert marks == {"near": "best", "over": "noise", "far": "", "under": ""}
    text = to_markdown(load_study(tmp_path), [table], [], [])
    assert "| MIA loss →0.5 |" in text and "**0.52±.01**" in text and "0.52±.04≈" in text
    assert "MIA loss: the best value stands behind the arrow" in text
    assert r"$\rightarrow$0.5" in to_latex([table], [])
    assert ",best," in to_csv([table])


def test_claims_and_orders_go_by_distance(table: Table) -> None:
    assert compare(table, AREA.key, "near", "under", towards(0.5)).startswith("holds")
    assert compare(table, AREA.key, "far", "under", towards(0.5)).startswith("does not hold")
    rows = [PublishedRow("A", ["0.9"]), PublishedRow("B", ["0.45"]), PublishedRow("C", ["0.1"])]
    ours = Ours({"A": "far", "B": "near", "C": "under"}, {"AUC →0.5": AREA.key})
    (found,) = orders(Published("t", "s", "certain", ["AUC →0.5"], rows, [], ours), table)
    # published distances: .4, .05, .4; the first and the last tie
    assert (found.agree, found.differ, found.open) == ((("A", "B"), ("B", "C")), (), (("A", "C"),))


def test_two_models_on_either_side_of_the_best_value_are_not_told_apart() -> None:
    def pair(a: float, b: float) -> Paired:
        low, high = sorted((0.9 * (b - a), 1.1 * (b - a)))
        return Paired(40, 10, a, b, low, high, 0.001, "t", 0, 0)

    assert pair(0.9, 0.6).better(towards(0.5)) == "B" and pair(0.9, 0.6).better(UP) == "A"
    assert pair(0.2, 0.4).better(towards(0.5)) == "B" and pair(0.4, 0.2).better(towards(0.5)) == "A"
    assert pair(0.2, 0.6).better(towards(0.5)) == "" and pair(0.2, 0.6).better(UP) == "B"


def test_dips_go_by_distance() -> None:
    found = gap([(0, 0.9), (10, 0.5), (20, 0.3), (30, 0.6)], towards(0.5), window=10)
    assert found is not None
    assert found.drop == pytest.approx(0.2) and (found.drop_from, found.drop_to) == (10, 20)
    assert found.recovery == pytest.approx(0.3)  # from a distance of .4 to .1


def test_the_card_shows_the_best_value() -> None:
    leak = {"privleak": Metric.of(-12.0, 40, better=towards(0)), "gain": Metric.of(0.5, 40, better=UP)}
    text = "\n".join(_figures(Results(config={}, seed=0, metrics=leak), list(leak)))
    assert "| privleak →0 |" in text and "| gain ↑ |" in text


def test_an_experiment_names_a_best_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(better: str) -> None:
        column = f"{{metric: privleak, header: PrivLeak, better: {better}}}"
        text = f"# Mine?\nsweep: {{seed: [0]}}\noverrides: [dataset=sandbox]\ncolumns: [{column}]\n"
        (tmp_path / "mine" / "experiment.yaml").write_text(text)

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(experiment, "experiments", lambda: {"mine": tmp_path / "mine" / "experiment.yaml"})
    write("0")
    (column,) = load_experiment("mine").columns
    assert (column.better, column.arrow) == (towards(0), "→0")
    write("nearer")
    with pytest.raises(ConfigError, match=r"columns\[0\].better: expected higher, lower or the best value"):
        load_experiment("mine")
