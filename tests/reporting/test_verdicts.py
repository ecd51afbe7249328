"""Verdicts: intervals and judgements by hand, pairs that agree in all but one thing, the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harmonize.errors import RunError
from harmonize.reporting.command import main
from harmonize.reporting.estimates import Effect, estimated, judge
from harmonize.reporting.experiment import experiments
from harmonize.reporting.similarity import changes, cosines, draw_similarity, similarity_csv, similarity_grid
from harmonize.reporting.study import load_study
from harmonize.reporting.verdicts import (
    EXPECT,
    Comparison,
    find,
    judge_claims,
    load_claims,
    verdict_of,
)
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import read_results, write_results

Write = Callable[..., Path]
Make = Callable[..., dict[str, Metric]]


def test_the_interval_by_hand() -> None:
    # mean 2, sd 1, t(2, .975) = 4.302653: 2 ± 4.302653 / sqrt(3)
    found = estimated([1.0, 2.0, 3.0])
    assert found is not None and found.n == 3 and found.mean == 2
    assert found.low == pytest.approx(2 - 4.302652730 / math.sqrt(3))
    assert found.high == pytest.approx(2 + 4.302652730 / math.sqrt(3))
    assert estimated([]) is None
    assert estimated([0.5]) == Effect(0.5, None, None, 1)
    assert str(Effect(-0.001, -0.1, 0.2, 2)) == "0.00 [-0.10, +0.20]"


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.04, 0.10, 0.05, "supported"),
        (0.01, 0.06, 0.05, "undecided"),  # above 0, but the mean is below the margin
        (-0.02, 0.30, 0.05, "undecided"),
        (0.01, 0.04, 0.05, "not supported"),  # there, and too small to count
        (-0.30, -0.10, 0.05, "not supported"),
        (-0.04, 0.01, -0.05, "supported"),  # no harm
        (-0.06, 0.01, -0.05, "undecided"),
        (-0.20, -0.06, -0.05, "not supported"),
    ],
)
def test_what_an_effect_says(low: float, high: float, margin: float, expected: str) -> None:
    assert judge(Effect((low + high) / 2, low, high, 5), margin) == expected


def test_one_unit_decides_nothing() -> None:
    assert judge(Effect(0.9, None, None, 1), 0.05) == "undecided"
    assert judge(None, 0.05) == "undecided"


def comparison(**given: Any) -> Comparison:
    usual: dict[str, Any] = {
        "text": "a test",
        "experiment": "loss_ablation",
        "base": {"method.name": "duet"},
        "changed": {"method.name": "bidirectional"},
        "metric": "asr_worst",
        "expect": "lower",
        "margin": 0.05,
    }
    return Comparison(**{**usual, **given})


@pytest.fixture
def loss(tmp_path: Path, write_run: Write, metrics: Make) -> Path:
    """Two worlds, two seeds, two modes: the difference is -0.3 with views and -0.1 without; and one run more."""
    for world in (10, 11):
        for seed in (0, 1):
            for mode, gain in (("random", 0.3), ("none", 0.1)):
                for method, value in (("duet", 0.8), ("bidirectional", 0.8 - gain - 0.02 * seed)):
                    write_run(
                        tmp_path / "loss_ablation" / f"{method}{world}{seed}{mode}",
                        method=method,
                        seed=seed,
                        prefill=mode,
                        config={
                            "dataset.world_seed": world,
                            "optimizer.lr": 1e-3 if method == "duet" else 1e-4,
                        },
                        found=metrics(asr_worst=value, utility_accuracy=0.97 + 0.01 * seed),
                        target_metrics=metrics(utility_accuracy=0.98),
                    )
    write_run(tmp_path / "loss_ablation" / "alone", seed=7, found=metrics(asr_worst=0.1))
    return tmp_path / "loss_ablation"


def of(test: Comparison, folder: Path) -> Any:
    from harmonize.reporting.experiment import load_experiment

    return find(test, load_study(folder), load_experiment(test.experiment))


def test_pairs_agree_in_all_else_and_units_are_worlds_and_seeds(loss: Path) -> None:
    found = of(comparison(), loss)
    # a unit is the mean of both modes: seed 0 -(0.3 + 0.1) / 2, seed 1 the same less 0.02
    assert (found.pairs, found.effect.n, found.worlds) == (8, 4, 2)
    assert found.effect.mean == pytest.approx(-0.21) and found.start == pytest.approx(0.8)
    assert found.verdict == "supported"
    assert found.also == ("optimizer.lr",)  # what the two are not equal in is told
    assert found.command == "reproduce-paper-table --experiment loss_ablation --profile sandbox --run"
    assert of(comparison(expect="higher"), loss).verdict == "not supported"
    assert of(comparison(margin=0.5), loss).verdict == "not supported"
    cramped = of(comparison(margin=0.9), loss)
    assert cramped.why == "no room: the other side is at its end already"


def test_against_the_target_and_without_runs(loss: Path) -> None:
    harmless = comparison(base="target", metric="utility_accuracy", expect="no lower", margin=0.02)
    found = of(harmless, loss)
    # -0.01 in seed 0, 0 in seed 1: mean -0.005, t(3) = 3.18 x 0.00577 / 2
    assert found.effect.mean == pytest.approx(-0.005)
    assert (found.verdict, found.effect.n) == ("supported", 4)
    missing = of(comparison(metric="relearn_accuracy"), loss)
    assert (missing.verdict, missing.why) == ("undecided", "no pair of runs with relearn_accuracy")
    one = of(
        comparison(
            base={"method.name": "duet", "dataset.world_seed": "10", "seed": "0"},
            changed={"method.name": "bidirectional", "dataset.world_seed": "10", "seed": "0"},
        ),
        loss,
    )
    assert (one.verdict, one.why) == ("undecided", "one world and seed: no interval")


def test_the_verdict_of_a_claim(loss: Path) -> None:
    good, bad = of(comparison(), loss), of(comparison(expect="higher"), loss)
    beside = of(comparison(expect="higher", decides=False), loss)
    none = of(comparison(metric="relearn_accuracy"), loss)
    assert verdict_of([good, beside]) == "supported"
    assert verdict_of([good, none]) == "undecided"
    assert verdict_of([good, none, bad]) == "not supported"
    assert verdict_of([beside]) == "undecided"


def test_the_claims_that_ship() -> None:
    claims = load_claims()
    assert [claim.id for claim in claims] == ["C1", "C2", "C3", "C4"]
    for claim in claims:
        assert any(test.decides for test in claim.tests)
        for test in claim.tests:
            assert test.experiment in experiments() and test.expect in EXPECT and test.margin > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims: 1", "list under 'claims'"),
        ("claims: [{id: C1, claim: x, tests: [{text: a}]}]", "C1, test 1: missing base, changed"),
        (
            "claims: [{id: C1, claim: x, tests: [{text: a, experiment: b, base: target, changed: {}, metric: m, "
            "expect: more, margin: 1}]}]",
            "expect is one of higher",
        ),
    ],
)
def test_a_malformed_file_of_claims(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(RunError, match=message):
        load_claims(path)


def test_the_page(loss: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--verdicts", "--runs", str(loss.parent), "--out", str(tmp_path / "page")]) == 0
    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.split("Wrote ")[0].splitlines()) <= 80
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert names == {f"verdicts.{kind}" for kind in ("md", "tex", "csv", "html", "png", "svg")}
    text = (tmp_path / "page" / "verdicts.md").read_text()
    for claim in load_claims():
        assert f"| {claim.id} | {claim.text} |" in text
    assert "no runs" in text and "--experiment gradient\\_similarity --profile sandbox --run" in text
    page = (tmp_path / "page" / "verdicts.html").read_text()
    assert "data:image/svg+xml;base64," in page and "http://" not in page.replace("http://www.w3.org", "")
    with pytest.raises(RunError, match="no such folder of studies"):
        main(["--verdicts", "--runs", str(tmp_path / "nowhere")])


@pytest.fixture
def diagnoses(tmp_path: Path, write_run: Write, metrics: Make) -> Path:
    """Two worlds, one loss, raw and qa; the mean cosine of forget and retain goes from 0.1 to 0.3 and from 0 to 0.4."""
    for world, (raw, qa) in ((10, (0.1, 0.3)), (11, (0.0, 0.4))):
        folder = write_run(
            tmp_path / "gradient_similarity" / str(world),
            config={"dataset.world_seed": world, "loss": "method"},
            found=metrics(cosine_forget_retain=qa),
        )
        results = read_results(folder / "results.json")
        results.extra["diagnoses"] = [
            {"name": form, "cosines": {"total": {"forget~retain": [value - 0.1, value + 0.1]}}}
            for form, value in (("raw", raw), ("qa", qa))
        ]
        write_results(folder, results)
    return tmp_path / "gradient_similarity"


def test_similarity_by_hand(diagnoses: Path, tmp_path: Path) -> None:
    blocks = cosines(load_study(diagnoses))
    assert [(b.loss, b.form) for b in blocks] == [("method", "raw"), ("method", "qa")]
    assert sorted(changes(*blocks, ("forget", "retain")).values()) == pytest.approx([0.2, 0.4])
    (cells,) = similarity_grid(blocks, "t").rows
    assert cells[:4] == ["method", "forget and retain", "0.05±.07", "0.35±.07"]
    # 0.3 ± 12.706 x 0.1414 / sqrt(2)
    assert cells[4] == "+0.30 [-0.97, +1.57]"
    assert similarity_csv(blocks).splitlines()[1].startswith("method,raw,forget,retain,0,10,0.1")
    paths = draw_similarity(blocks, tmp_path, ["png", "svg"])
    assert [p.name for p in paths] == ["similarity.png", "similarity.svg", "similarity.csv"]
    assert paths[1].read_bytes() == draw_similarity(blocks, tmp_path, ["svg"])[0].read_bytes()
    with pytest.raises(RunError, match="no finished diagnosis"):
        cosines(load_study(tmp_path / "gradient_similarity", keep=lambda run: False))


def test_similarity_through_the_command(diagnoses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--study", str(diagnoses)]) == 0
    out = capsys.readouterr().out
    assert "forget and retain" in out and "Missing: 7 of the 9 runs of gradient_similarity" in out
    names = {path.name for path in (diagnoses / "report").iterdir()}
    assert {"table.md", "table.tex", "table.csv", "table.html", "similarity.png", "similarity.csv"} <= names


def test_a_claim_on_diagnoses(diagnoses: Path) -> None:
    (claim, *_) = load_claims()
    ((_, findings),) = judge_claims([claim], diagnoses.parent)
    by_text = {f.test.text: f for f in findings}
    found = by_text["forget and retain, the method's own losses"]
    assert found.effect is not None and found.effect.mean == pytest.approx(0.3) and found.effect.n == 2
    assert by_text["forget and neighbor, the method's own losses"].effect is None
