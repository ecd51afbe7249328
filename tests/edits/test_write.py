"""Writing an edit into live tensors, and the report of what changed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from harmonize.edits.write import write
from harmonize.errors import ModelError, TrainingError
from harmonize.unlearning.finish import live
from tests.models.tiny import tiny


def tensors() -> dict[str, torch.Tensor]:
    return {
        "model.layers.0.w": torch.tensor([3.0, 4.0]),
        "model.layers.1.w": torch.tensor([1.0, 1.0]),
        "model.layers.10.w": torch.tensor([2.0]),
        "norm.w": torch.tensor([1.0]),
    }


def test_report_by_hand() -> None:
    """Of (3, 4), norm 5, one entry moves by 1: half of the entries, a fifth of the norm."""
    weights = tensors()
    changes = {"model.layers.0.w": torch.tensor([3.0, 5.0]), "model.layers.1.w": torch.tensor([1.0, 1.0])}
    report = write(weights, changes, "mine")
    assert weights["model.layers.0.w"].tolist() == [3.0, 5.0]
    first = report.blocks["model.layers.0"]
    assert (first.share, first.relative) == (0.5, pytest.approx(0.2))
    assert list(report.tensors) == ["model.layers.0.w"]  # given, but as before: not changed
    assert (report.total.entries, report.total.changed) == (6, 1)
    assert report.total.relative == pytest.approx(1 / math.sqrt(25 + 2 + 4 + 1))
    assert list(report.blocks) == ["model.layers.0", "model.layers.1", "model.layers.10", "outside"]
    lines = report.lines()
    assert "1 tensors changed" in lines[0] and "16.67%" in lines[-1] and "20.00%" in lines[2]
    data = report.to_dict()
    assert data["total"]["share"] == pytest.approx(1 / 6) and data["name"] == "mine"
    assert set(data["tensors"]["model.layers.0.w"]) == {"entries", "changed", "share", "relative_change"}


def test_a_long_report_shows_a_dozen_blocks() -> None:
    weights = {f"h.{i}.w": torch.ones(2) for i in range(30)}
    report = write(weights, {n: v * (1 + i / 100) for i, (n, v) in enumerate(weights.items())}, "mine")
    lines = report.lines()
    assert len(lines) == 2 + 12 + 2 and "17 more blocks" in lines[-1] and "h.18" in lines[2]


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("nothing.w", torch.ones(1), ModelError, "no such tensor"),
        ("norm.w", torch.ones(2), ModelError, r"one of shape \[1\]"),
        ("norm.w", torch.tensor([math.nan]), TrainingError, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, value: Any, error: type[Exception], words: str) -> None:
    weights = tensors()
    with pytest.raises(error, match=words):
        write(weights, iter([(name, value)]), "mine")
    assert weights["norm.w"].tolist() == [1.0]


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "llama"])
def test_tied_weights_stay_tied_and_buffers_stay(name: str) -> None:
    model = tiny(name)
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied == (name != "llama")
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    weights = live(model)
    assert len({v.data_ptr() for v in weights.values()}) == len(weights)
    report = write(weights, ((n, 2 * v) for n, v in weights.items()), "double")
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    fresh = tiny(name).state_dict()
    for key, value in model.state_dict().items():
        expected = fresh[key] * (1 if key in buffers else 2)
        assert torch.equal(value, expected), key
    assert report.total.entries == sum(p.numel() for p in model.parameters())  # a tied one counts once
