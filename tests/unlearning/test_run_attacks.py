"""Whole runs with attacks: on the student, the target and a guarded model, through a real tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file

from harmonize.tracking.results import read_run
from tests.config.test_attacks import OF_THE_ISSUE
from tests.unlearning.test_guarded_runs import evaluate
from tests.unlearning.test_run import harmonize, shelf

__all__ = ["evaluate", "harmonize", "shelf"]  # fixtures

SMALL = (
    "attack.relearn.steps=[1,2]",
    "attack.relearn.facts=1",
    "attack.gcg.steps=1",
    "attack.gcg.max_facts=1",
    "attack.prefill.budget=3",
    "attack.sampling.draws=2",
    "attack.sampling.ks=[2]",
    "suite.leak_draws=2",
)


def test_a_battery_changes_no_weight_and_stands_beside_the_targets(harmonize: Any) -> None:
    plain = harmonize("peft=lora", "peft.merge=false", "suite.leak_draws=2", job="plain")
    attacked = harmonize("peft=lora", "peft.merge=false", "attack=battery", *SMALL, job="attacked")
    assert plain[0] == attacked[0] == 0, attacked[2]
    exported = [
        load_file(next((f / "model").glob("adapter_model.safetensors"))) for _, f, _ in (plain, attacked)
    ]
    assert all(torch.equal(exported[0][k], exported[1][k]) for k in exported[0])
    results = read_run(attacked[1]).results
    for name in OF_THE_ISSUE:
        metric, costs = results.metrics[f"asr_{name}"], results.extra["attack_costs"][name]
        beside = (results.target_metrics or {})[f"asr_{name}"]
        # this data has no `meta` to ask in reverse by, and the target has no adapter
        assert metric.n > 0 and (beside.n == metric.n or name == "adapter_removal")
        assert costs["answers"] > 0 and costs["declared"]["queries"] >= 1
    assert results.metrics["relearn_accuracy_related@2"].n == results.metrics["relearn_accuracy_forget@1"].n
    assert results.metrics["asr_battery_worst"].n == results.metrics["forget_accuracy"].n
    assert results.metrics["forget_leak@2"].value is not None
    # so small and untaught a model knows nothing, which the notes say of every attack on it
    assert any("fail on the untouched model already" in n and "asr_gcg" in n for n in results.notes)
    own = read_run(plain[1]).results.metrics
    assert all(results.metrics[k].value == m.value for k, m in own.items())  # the suite's own figures stay


def test_any_checkpoint_with_a_guard_and_its_target(harmonize: Any, evaluate: Any) -> None:
    status, folder, output = harmonize("method=guard_instruction", job="guarded")
    assert status == 0, output
    start = read_run(folder).results.config["model"]["name_or_path"]
    attacks = ["attack=[prefill,prune,sampling,relearn]", *(s for s in SMALL if "gcg" not in s)]
    run = evaluate(folder / "model", *attacks, f"target={start}")
    assert run.results.target_metrics and "asr_prefill_worst" in run.results.target_metrics
    assert run.metrics["asr_sampling_worst"].n > 0 and run.metrics["relearn_accuracy_unrelated@2"].n > 0
    asked = [s for s in run.samples() if s["attack"] == "prefill"]
    assert asked and all(s["prefill"] for s in asked)
    alone = evaluate(folder / "model", "attack=prune")
    assert any("target=<folder" in note for note in alone.results.notes)
