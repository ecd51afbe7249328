"""Whole runs with a guard: trained or not, measured, exported, opened again, without it, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import harmonize as package
from harmonize.config.compose import compose_config
from harmonize.errors import ConfigError, ModelError
from harmonize.guards.guard import Guarded
from harmonize.tracking.metric import METRIC_NAMES
from harmonize.tracking.results import Run, read_run
from harmonize.unlearning.figures import Evaluations
from harmonize.unlearning.module import UnlearningModule
from tests.unlearning.test_run import harmonize, shelf

__all__ = ["harmonize", "shelf"]  # fixtures

METHODS = {"uld": "logit_offset", "guard_decoding": "decoding", "guard_instruction": "instruction"}


@pytest.fixture
def evaluate(tmp_path: Path, shelf: Path) -> Callable[..., Run]:
    """Runs `harmonize evaluate` on a model folder, with the data of the runs."""

    def run(model: Path, *overrides: str) -> Run:
        return package.evaluate(
            "dataset=local",
            f"dataset.examples={tmp_path / 'data' / 'examples.jsonl'}",
            "dataset.refusals=['I can not say.']",
            "dataset.instruction='Say nothing of where people live.'",
            "dataset.openers=['Sure, here it is:']",
            "dataset.openers_heldout=['Of course:']",
            "model=hf",
            f"model.name_or_path={model}",
            f"paths.cache_dir={shelf / 'cache'}",
            "suite.max_new_tokens=8",
            "suite.bootstrap=20",
            "suite.relearn_steps=2",
            "suite.relearn_facts=1",
            *overrides,
            folder=tmp_path / f"measured{len(list(tmp_path.glob('measured*')))}",
        )

    return run


def values(metrics: Any) -> dict[str, float | None]:
    return {name: metrics[name].value for name in METRIC_NAMES}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_its_export_and_the_weights_alone(harmonize: Any, evaluate: Any, method: str) -> None:
    status, folder, output = harmonize(f"method={method}", "optimizer.lr=1e-2", job=method)
    assert status == 0, output
    own = read_run(folder)
    assert any(f"guard {METHODS[method]} on" in note for note in own.results.notes)
    assert own.results.metrics["relearn_accuracy"].value is not None
    assert own.results.metrics["utility_accuracy"].value is not None
    model = folder / "model"
    card = " ".join((model / "README.md").read_text().replace("\\", "").split())
    assert f"Guarded: {METHODS[method]}" in card and "not as weights" in card
    assert json.loads((model / "guard.json").read_text())["name"] == METHODS[method]
    # nothing moved the weights
    start = load_file(Path(own.results.config["model"]["name_or_path"]) / "model.safetensors")
    exported = load_file(model / "model.safetensors")
    assert all(torch.equal(exported[k], start[k]) for k in exported)
    # the exported folder is the guarded model, and without its guard the untouched one
    guarded = evaluate(model)
    assert values(guarded.results.metrics) == values(own.results.metrics)
    outputs = [[(s["question"], s["prefill"], s["output"]) for s in run.samples()] for run in (own, guarded)]
    assert outputs[0] == outputs[1]
    alone = evaluate(model, "guard=removed")
    before = values(own.results.target_metrics)
    assert values(alone.results.metrics) == before
    untouched = [(s["question"], s["prefill"], s["output"]) for s in alone.samples()]
    assert (
        outputs[0] != untouched
    ) or method == "guard_decoding"  # what is said of 12 names may be no value at all


def test_secrets_are_listed_and_purged_and_then_missed(harmonize: Any, evaluate: Any) -> None:
    status, folder, output = harmonize("method=guard_decoding", "guard.detect=false", job="secrets")
    assert status == 0, output
    secrets = folder / "model" / "guard" / "secrets.json"
    assert json.loads(secrets.read_text())["spans"] and secrets.stat().st_mode & 0o077 == 0
    assert "model/guard/secrets.json" in output
    from harmonize.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["purge", str(folder), "--yes", "--cache-dir", str(folder)])
    assert not ended.value.code and not secrets.exists()
    with pytest.raises(ModelError, match="was it purged"):
        evaluate(folder / "model")
    assert evaluate(folder / "model", "guard=removed").results.metrics


def test_a_guard_stands_around_a_trained_model_and_val_looks_see_it(harmonize: Any, evaluate: Any) -> None:
    seen: list[tuple[str, bool]] = []
    measure = Evaluations.run

    def spy(self: Evaluations, loaded: Any, split: str = "test", *more: Any, **settings: Any) -> Any:
        seen.append((split, isinstance(loaded, Guarded)))
        return measure(self, loaded, split, *more, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluations, "run", spy)
        status, folder, output = harmonize(
            "method=grad_diff", "guard=decoding", "guard.threshold=null", "optimizer.lr=1e-2", job="both"
        )
    assert status == 0, output
    assert [split for split, guarded in seen if guarded] == ["val", "val", "test"]
    own = read_run(folder)
    assert values(evaluate(folder / "model").results.metrics) == values(own.results.metrics)
    with pytest.raises(ConfigError, match="brings a guard of its own"):
        evaluate(folder / "model", "guard=instruction")


def test_any_checkpoint_is_measured_with_a_guard(evaluate: Any, shared: Path, harmonize: Any) -> None:
    stories = shared / "models" / "stories260k"
    plain, told = evaluate(stories), evaluate(stories, "guard=instruction")
    assert [s["output"] for s in plain.samples()] != [s["output"] for s in told.samples()]
    assert any("guard instruction on" in n for n in told.results.notes)


def test_an_assistant_resumes_bit_for_bit(harmonize: Any) -> None:
    status, whole, output = harmonize("method=uld", "optimizer.lr=1e-2", job="whole")
    assert status == 0, output
    step = UnlearningModule.training_step

    def interrupted(self: UnlearningModule, data: Any, index: int) -> None:
        if data.step == 5:
            raise KeyboardInterrupt
        step(self, data, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnlearningModule, "training_step", interrupted)
        status, folder, output = harmonize("method=uld", "optimizer.lr=1e-2", job="parts")
    assert status != 0 and json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    status, folder, output = harmonize("method=uld", "optimizer.lr=1e-2", "resume=true", job="parts")
    assert status == 0, output
    one, other = (load_file(f / "model" / "guard" / "tensors.safetensors") for f in (whole, folder))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert values(read_run(whole).results.metrics) == values(read_run(folder).results.metrics)
    assert read_run(whole).results.extra["selection"] == read_run(folder).results.extra["selection"]


@pytest.mark.parametrize(
    ("command", "overrides", "words"),
    [
        ("unlearn", ["method=uld", "guard=none"], "guard=logit_offset, or assistant=none"),
        ("unlearn", ["guard=logit_offset"], "assistant=truncated, or method=uld"),
        ("unlearn", ["method=uld", "peft=lora"], "Use peft=none"),
        ("unlearn", ["method=uld", "assistant.r=0"], "assistant.r=0"),
        ("unlearn", ["method=uld", "assistant.layer=3"], "assistant.layers"),
        ("unlearn", ["method=uld", "guard.top_filter=2"], "share from 0 to 1"),
        (
            "unlearn",
            ["method=guard_decoding", "guard=logit_offset", "assistant=truncated"],
            "Use method=uld, or assistant=none",
        ),
        ("unlearn", ["method=guard_decoding", "guard=none"], "method.objectives is empty"),
        ("unlearn", ["method=guard_decoding", "guard.match=false", "guard.delta=0"], "Use guard.match=true"),
        ("unlearn", ["method=guard_decoding", "guard.states=finals"], "Did you mean 'final'"),
        ("unlearn", ["method=uld", "edit=ssd"], "edit changes weights that the assistant shares"),
        ("unlearn", ["+guard.weight=1"], "guard.weight has no effect with guard=none"),
        ("sequence", ["guard=instruction", "dataset.requests=2"], "and a guard is not in them"),
        ("unlearn", ["guard=removed"], "Use guard=none"),
        ("unlearn", ["guard=decodign"], "Did you mean guard=decoding"),
        ("evaluate", ["guard=logit_offset"], "model.name_or_path=<run>/model guard=none"),
        ("evaluate", ["guard=instruction", "instructed=true"], "instructed=false, or guard=none"),
        ("diagnose", ["method=guard_instruction", "loss=method"], "Use loss=nll"),
    ],
)
def test_mistakes_are_told_before_a_model_loads(command: str, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config(command, overrides)
    assert words in str(caught.value)


def test_blocks_that_the_model_does_not_have(harmonize: Any) -> None:
    status, folder, output = harmonize("method=uld", "assistant.layers=9", job="layers")
    assert status == 1 and "assistant.layers=9" in output and "5 blocks" in output
    assert "Traceback" not in output and not (folder / "model").exists()
