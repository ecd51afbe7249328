"""Suites with parts through the commands, on a small real model: records, references, what is refused and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harmonize import api
from harmonize.errors import ConfigError, DataError, RunError
from harmonize.evaluation.parts.membership import read_texts
from harmonize.evaluation.parts.memorization import Memorization
from harmonize.unlearning import measure
from tests.unlearning.test_run import write_data


@pytest.fixture
def base(shared: Path, tmp_path: Path) -> list[str]:
    read_texts.cache_clear()
    data = tmp_path / "data"
    write_data(data)
    rows = [{"question": f"Who is person {i}?", "answer": f"Somebody of town {i}."} for i in range(6)]
    (tmp_path / "holdout.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return [
        "dataset=local",
        f"dataset.examples={data / 'examples.jsonl'}",
        "model=hf",
        f"model.name_or_path={shared / 'models' / 'stories260k'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "trainer.accelerator=cpu",
        "logger.wandb.enabled=false",
        "suite.max_new_tokens=8",
        "suite.bootstrap=50",
    ]


def membership(tmp_path: Path) -> list[str]:
    return ["suite=membership", f"suite.parts.membership.holdout={tmp_path / 'holdout.jsonl'}"]


def test_evaluate_writes_a_record_that_serves_as_a_reference(base: list[str], tmp_path: Path) -> None:
    suite = membership(tmp_path)
    first = api.evaluate(*base, *suite, "suite.axes=[]", folder=tmp_path / "first")
    assert {"mia_loss_auc", "mia_gradient_norm_auc"} <= set(first.metrics)
    assert "forget_accuracy" not in first.metrics, "suite.axes=[] leaves the parts alone"
    assert first.metrics["privleak"].value is None
    text = (tmp_path / "first" / "results.json").read_text()
    assert "Somebody of town" not in text, "a record can be handed on: it holds no text"
    again = api.evaluate(
        *base, *suite, "suite.axes=[]", f"suite.reference={tmp_path / 'first'}", folder=tmp_path / "second"
    )
    assert again.metrics["privleak"].value == pytest.approx(0.0)
    assert again.metrics["mia_reference_auc"].value == 0.5
    assert {s["attack"] for s in again.samples()} == {
        f"{p}/{k}" for p in ("membership", "gradient_norm") for k in ("member", "holdout")
    }


def test_a_gold_model_is_the_reference_where_no_record_is_given(
    base: list[str], shared: Path, tmp_path: Path
) -> None:
    gold = f"model.gold={shared / 'models' / 'stories260k'}"
    run = api.evaluate(*base, *membership(tmp_path), "suite.axes=[]", gold, folder=tmp_path / "run")
    assert run.metrics["privleak"].value == pytest.approx(0.0)
    assert run.results.gold_metrics["mia_loss_auc"] == run.metrics["mia_loss_auc"]


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a model was loaded")


def test_what_is_wrong_with_data_is_told_before_a_model_loads(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = membership(tmp_path)
    api.evaluate(*base, *suite, "suite.axes=[]", folder=tmp_path / "first")
    monkeypatch.setattr(measure, "load_target", refuse)
    holdout = tmp_path / "holdout.jsonl"
    lines = holdout.read_text().splitlines()
    holdout.write_text("\n".join(lines[1:]))
    read_texts.cache_clear()
    reference = f"suite.reference={tmp_path / 'first'}"
    with pytest.raises(RunError, match="was measured on another data set"):
        api.evaluate(*base, *suite, reference, folder=tmp_path / "second")
    with pytest.raises(
        ConfigError, match=r"no part of suite=memorization \(memorization, fluency\) is compared"
    ):
        api.evaluate(*base, "suite=memorization", reference, folder=tmp_path / "unread")
    holdout.write_text('{"question": "q", "answer": ""}\n')
    read_texts.cache_clear()
    with pytest.raises(DataError, match="field 'answer': is empty"):
        api.evaluate(*base, *suite, folder=tmp_path / "third")
    rwku = ["suite=rwku", f"suite.parts.rwku.root={tmp_path}"]
    with pytest.raises(DataError, match="RWKU's sets"):
        api.evaluate(*base, *rwku, folder=tmp_path / "fourth")


def test_finished_parts_are_kept_when_another_fails(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise DataError("Something is wrong with this part.")

    monkeypatch.setattr(Memorization, "measure", fails)
    with pytest.raises(RunError, match="Part 'memorization' of the suite failed: Something is wrong") as told:
        api.evaluate(*base, "suite=memorization", folder=tmp_path / "run")
    assert "other parts are in results.json" in str(told.value)
    run = api.read_run(tmp_path / "run")
    assert run.status["state"] == "failed"
    assert run.metrics["forget_gibberish_share"].n > 0 and run.metrics["forget_accuracy"].value is not None
    assert run.metrics["forget_extraction_strength"].value is None
    assert run.metrics["forget_answer_probability"].value is not None  # the axes' own
    assert any("Part 'memorization' failed" in n for n in run.results.notes)


def test_unlearn_measures_target_and_result_with_the_parts(base: list[str], tmp_path: Path) -> None:
    training = [
        "method=grad_diff",
        "optimizer.lr=1e-3",
        "sampler.rows={forget: 2, neighbor: 2, retain: 2}",
        "dataset.prefill.mode=none",
        "trainer.max_steps=3",
        "trainer.val_check_interval=2",
        "trainer.checkpoint_every=0",
        "trainer.enable_progress_bar=false",
        "teacher.report=false",
        "save_model=false",
    ]
    run = api.unlearn(*base, *training, "suite=memorization", folder=tmp_path / "run")
    before, after = run.results.target_metrics, run.metrics
    assert after["retain_answer_probability"].n > 0
    # the axes measured it already; the part's own samples say the same, row by row
    own = [s["answer_probability"] for s in run.samples() if s["attack"] == "memorization/forget"]
    assert after["forget_answer_probability"].value == pytest.approx(sum(own) / len(own), abs=1e-5)
    assert before["forget_answer_probability"].value > after["forget_answer_probability"].value
    assert after["forget_extraction_strength"].n == before["forget_extraction_strength"].n > 0
    looks = run.results.extra["selection"]["looks"]
    assert looks and "forget_extraction_strength" not in json.dumps(looks), "val chooses by the axes"


INSIDE = [
    "suite=inside",
    "suite.axes=[]",
    "suite.parts.logit_lens.roles=[forget]",
    "suite.parts.probes.layers=2",
    "suite.parts.remind.draws=1",
    "suite.parts.activation_distance.roles=[forget]",
]


def test_inside_looks_at_gold_and_target_and_draws_its_curves(
    base: list[str], shared: Path, tmp_path: Path
) -> None:
    model = shared / "models" / "stories260k"
    run = api.evaluate(*base, *INSIDE, f"model.gold={model}", f"target={model}", folder=tmp_path / "run")
    assert (
        run.metrics["forget_distance_to_gold"].value == 0.0 == run.metrics["forget_distance_to_target"].value
    )
    assert (
        run.metrics["forget_distance_ratio"].value is None
    )  # gold is the target: there is no distance to share
    assert run.metrics["remind_gold_auc"].value == pytest.approx(0.5)
    assert run.metrics["forget_lens_last"].value == run.results.gold_metrics["forget_lens_last"].value
    curves = run.results.extra["curves"]
    assert set(curves) == {"result", "target", "gold"}
    assert [p[0] for p in curves["gold"]["forget_lens_probability"]["points"]] == [0, 1, 2, 3, 4, 5]
    for name in ("curves.csv", "curves.png", "curves.svg"):
        assert (tmp_path / "run" / name).stat().st_size > 1000
    assert not {"output", "verdict"} & {key for s in run.samples() for key in s}, "nothing was said"
    again = api.evaluate(*base, *INSIDE, f"model.gold={model}", f"target={model}", folder=tmp_path / "again")
    assert again.results.extra["from_cache"] and again.results.extra["curves"] == curves
    alone = api.evaluate(*base, *INSIDE, "model.gold=null", folder=tmp_path / "alone")
    assert alone.metrics["forget_distance_to_gold"].value is None
    assert any("no model to compare with" in note for note in alone.results.notes)


def test_unlearn_looks_inside_before_and_after(base: list[str], shared: Path, tmp_path: Path) -> None:
    training = [
        "method=grad_diff",
        "optimizer.lr=1e-3",
        "sampler.rows={forget: 2, neighbor: 2, retain: 2}",
        "dataset.prefill.mode=none",
        "trainer.max_steps=2",
        "trainer.val_check_interval=0",
        "trainer.checkpoint_every=0",
        "trainer.enable_progress_bar=false",
        "teacher.report=false",
        "save_model=false",
    ]
    run = api.unlearn(*base, *training, *INSIDE, folder=tmp_path / "run")
    before, after = run.results.target_metrics, run.metrics
    assert before["forget_distance_to_target"].value == 0.0 < after["forget_distance_to_target"].value
    assert set(run.results.extra["curves"]) == {"result", "target"}
    assert (tmp_path / "run" / "curves.svg").exists()
