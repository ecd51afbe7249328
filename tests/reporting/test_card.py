"""The card of an exported model: complete, honest about what is missing, and free of any text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import ModelCard

from harmonize.data.corpus import Corpus, content_hash, digests
from harmonize.data.example import Example
from harmonize.reporting.card import model_card, trained_card
from harmonize.tracking.metric import METRIC_NAMES, Metric
from harmonize.tracking.results import Results

Make = Callable[..., dict[str, Metric]]
INSTRUCTION = "never speak of Verdant Quillfeather"


@pytest.fixture()
def results(metrics: Make) -> Results:
    config: dict[str, Any] = {
        "method": {
            "name": "duet",
            "description": "One | two",
            "paper": "arXiv 1",
            "evidence": "code",
            "fidelity": "As <published>.",
            "objectives": {"pull": {"weight": 0.5, "roles": ["forget", "retain"]}, "size": {"weight": 2}},
        },
        "dataset": {"name": "people", "prefill": {"mode": "none"}, "instruction": INSTRUCTION},
        "model": {"name_or_path": "hf:owner/base"},
        "teacher": {"instruction": INSTRUCTION},
        "peft": {"peft_type": "LORA", "merge": True},
        "optimizer": {"lr": 1e-4},
        "suite": {"confidence": 0.9},
    }
    found = metrics(**dict.fromkeys(METRIC_NAMES, 0.25), **{"forget_leak@8": 0.125}) | {
        "asr_gcg": Metric(0.5, 50, None, None, False),
        "asr_opener": Metric(0.0, 12, 0.0, 0.1, False),
    }
    return Results(
        config=config,
        seed=3,
        metrics=found,
        target_metrics=metrics(asr_gcg=0.9, asr_opener=0.25, asr_worst=1.0, forget_accuracy=1.0),
        gold_metrics=metrics(asr_gcg=0.125),
        git={"commit": "abc123", "dirty": True},
        notes=["A | note <b>"],
        extra={
            "data": "d" * 64,
            "data_parts": {"forget": {"examples": 12, "trained": 8, "subjects": 4, "sha256": "e" * 64}},
            "start_model": "f" * 64,
            "attack_costs": {
                "gcg": {
                    "declared": {"access": "weights", "queries": 1, "rows": 256, "steps": 0},
                    "answers": 24,
                }
            },
            "selection": {"rule": "lowest", "best_step": 50, "steps": 100},
        },
    )


def test_the_hub_reads_its_header(results: Results) -> None:
    card = ModelCard(model_card(results))
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.base_model) == (
        "transformers",
        "text-generation",
        "owner/base",
    )
    assert data.tags == ["harmonize", "unlearning"]
    read = {e.metric_type: (e.dataset_name, e.metric_value) for e in data.eval_results}
    assert read == {name: ("people", 0.0 if name == "asr_opener" else 0.25) for name in METRIC_NAMES}


def test_what_it_says(results: Results) -> None:
    text = model_card(results)
    for line in (
        "- duet: One \\| two (arXiv 1; evidence: code)",
        "- Terms: pull (weight 0.5, on forget, retain), size (weight 2, on weights)",
        f"- Start model: hf:owner/base, weights SHA-256 `{'f' * 64}`",
        "- Steps: 100, kept: 50; learning rate: 0.0001",
        f"- Data set: people, SHA-256 `{'d' * 64}`",
        f"| forget | 12 | 8 | 4 | `{'e' * 64}` |",
        "| metric | this model | 90% interval | n | start | gold |",
        "| asr\\_opener ↓ | 0.000 | 0.00 to 0.10 | 12 | 0.250 | – |",
        "| asr\\_gcg ↓ | 0.500 | – | 50 | 0.900 | 0.125 |",
        "They fail on the start model, too, and prove nothing here: asr\\_opener.",
        "| gcg | weights | 1 | 256 | 0 | 24 |",
        "- One run with seed 3: other seeds give other figures.",
        "- A \\| note &lt;b&gt;",
        "- Seed: 3; commit: abc123 with changes",
    ):
        assert line in text, line
    untried = text.split("Not tried")[1]
    assert "quantize" in untried
    assert "gcg" not in untried
    assert "<published>" not in text
    assert "Quillfeather" not in text
    assert "No gold model" not in text
    assert "adapter alone" not in text


def test_what_is_missing_is_said(results: Results) -> None:
    results.metrics = {"forget_accuracy": Metric(0.5, 4)}
    results.target_metrics = results.gold_metrics = None
    results.extra = {}
    results.config["peft"]["merge"] = False
    results.config["model"]["name_or_path"] = "/models/mine"
    text = model_card(results)
    assert "base_model" not in text
    assert "Not measured: forget_heldout_accuracy, relearn_accuracy" in text
    for sentence in (
        "No attack was measured",
        "No gold model was measured",
        "holds an adapter alone",
        "kept: the last",
    ):
        assert sentence in text
    results.metrics["asr_worst"] = Metric(0.5, 4)
    assert "The start model was not attacked beside it" in model_card(results)


def test_a_trained_model_says_that_it_knows() -> None:
    config = {
        "model": {"name_or_path": "hf:o/b"},
        "trainer": {"max_steps": 9},
        "optimizer": {"lr": 0.1},
        "seed": 1,
    }
    text = trained_card("people", "target", config, "d" * 64)
    assert ModelCard(text).data.tags == ["harmonize", "target"]
    assert "knows the forget set" in text
    assert "d" * 64 in text
    gold = trained_card("people", "gold", {**config, "from_scratch": True}, "d" * 64)
    assert "never saw the forget set" in gold
    assert "random weights" in gold
    assert "base_model" not in gold


def test_digests_follow_the_role_alone() -> None:
    def example(i: int, role: str, split: str = "train") -> Example:
        return Example(
            id=f"{role}-{i}", role=role, question="q", answer="a", subject=f"s{i % 2}", split=split
        )

    forget = (example(0, "forget"), example(1, "forget"), example(2, "forget", "test"))
    one, other = (digests(Corpus("x", (*forget, example(0, "retain", split)))) for split in ("train", "test"))
    assert one["forget"] == other["forget"]
    assert one["retain"]["sha256"] != other["retain"]["sha256"]
    assert {k: one["forget"][k] for k in ("examples", "trained", "subjects")} == {
        "examples": 3, "trained": 2, "subjects": 2,
    }  # fmt: skip
    assert len(one["forget"]["sha256"]) == len(content_hash("")) == 64
