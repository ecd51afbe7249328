"""Gradient cosines against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.unlearning.cosines import add, cosine, gradients, gram, layer_of, pairwise


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("model.layers.0.self_attn.q_proj.weight", "layer 0"),
        ("transformer.h.11.mlp.c_fc.bias", "layer 11"),
        ("base_model.model.model.layers.3.mlp.up_proj.lora_A.default.weight", "layer 3"),
        ("model.norm.weight", "head"),
        ("lm_head.weight", "head"),
    ],
)
def test_layers_by_name(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_cosines_by_hand() -> None:
    # first layer: (1, 0) and (1, 1): 1 / sqrt 2; second: (2) and (-3): -1; total: (1 - 6) / (sqrt 5 * sqrt 11)
    a = (torch.tensor([1.0, 0.0]), torch.tensor([[2.0]]))
    b = (torch.tensor([1.0, 1.0]), torch.tensor([[-3.0]]))
    found = pairwise({"a": a, "b": b}, ["layer 0", "head"])
    assert list(found) == ["layer 0", "head", "total"]
    assert found["layer 0"]["a", "b"] == pytest.approx(1 / math.sqrt(2))
    assert found["head"]["a", "b"] == pytest.approx(-1.0)
    assert found["total"]["a", "b"] == pytest.approx(-5 / math.sqrt(55))


def test_two_tensors_of_one_layer_count_together_and_missing_ones_are_zero() -> None:
    a = (torch.tensor([3.0]), torch.tensor([4.0]), None)
    b = (torch.tensor([3.0]), None, torch.tensor([4.0]))
    inner = gram([a, b], ["layer 0", "layer 0", "layer 1"])
    assert inner["layer 0"].tolist() == [[25.0, 9.0], [9.0, 9.0]]
    assert inner["layer 1"].tolist() == [[0.0, 0.0], [0.0, 16.0]]
    assert inner["total"].tolist() == [[25.0, 9.0], [9.0, 25.0]]
    assert cosine(inner["total"])[0, 1] == pytest.approx(9 / 25)
    assert math.isnan(cosine(inner["layer 1"])[0, 1])


def test_gradients_of_losses_that_share_a_forward() -> None:
    w, v = torch.tensor([2.0, 1.0], requires_grad=True), torch.tensor(5.0, requires_grad=True)
    shared = w * w
    losses = {"first": shared[0], "second": shared[1] * v}
    found = gradients(losses, [w, v])
    assert found["first"][0] is not None
    assert found["first"][0].tolist() == [4.0, 0.0]
    assert found["first"][1] is None
    assert [None if g is None else g.tolist() for g in found["second"]] == [[0.0, 10.0], 1.0]
    assert w.grad is None
    (shared.sum() * v).backward()  # the graph is still there
    assert w.grad is not None


def test_gradients_taken_in_parts_add_up() -> None:
    one, two = [torch.tensor([1.0]), None, None], (torch.tensor([2.0]), torch.tensor([3.0]), None)
    assert [None if g is None else g.tolist() for g in add(add(None, one), two)] == [[3.0], [3.0], None]


def test_gradients_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="one tensor for each parameter"):
        gram([(torch.zeros(1),)], ["layer 0", "head"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 100))
def test_cosines_are_symmetric_bounded_and_blind_to_scale(seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    found = [tuple(torch.randn(5, generator=draw) for _ in range(3)) for _ in range(3)]
    layers = ["layer 0", "layer 0", "head"]
    matrix = cosine(gram(found, layers)["total"])
    assert torch.equal(matrix, matrix.T)
    assert torch.allclose(matrix.diagonal(), torch.ones(3, dtype=torch.float64))
    scaled = [tuple(t * scale for t in found[0]), *found[1:]]
    assert torch.allclose(cosine(gram(scaled, layers)["total"]), matrix, atol=1e-6)
