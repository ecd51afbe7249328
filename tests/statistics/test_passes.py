"""Statistics against a slow loop over rows and positions, one plain forward each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harmonize.data.batch import Row
from harmonize.errors import ModelError
from harmonize.models.head import Head
from harmonize.models.lora import apply_peft
from harmonize.statistics import fit_stats
from harmonize.statistics.passes import linear_layers, own_name
from tests.models.tiny import some_rows, tiny

ARCHITECTURES = ("llama", "qwen2", "gpt2", "gemma2")  # plain; tied; Conv1D; a soft-capped head


def slow_loss(model: Any, row: Row) -> torch.Tensor:
    """Mean negative log-likelihood of the response, without batch, padding or the head seam."""
    ids = [*row.prompt, *row.prefill, *row.target]
    found = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    start = len(ids) - len(row.target)
    return -torch.stack([found[start + j - 1, t] for j, t in enumerate(row.target)]).mean()


def slow_gradient(model: Any, rows: list[Row]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.stack([slow_loss(model, r) for r in rows]).mean().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def stats(kind: str, model: Any, rows: list[Row], **settings: Any) -> dict[str, torch.Tensor]:
    return fit_stats(kind, model, Head.of(model), rows, 0, **settings)


def close(found: torch.Tensor, slow: torch.Tensor) -> bool:
    return torch.allclose(found, slow, rtol=1e-3, atol=1e-4 * float(slow.abs().max()) + 1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("group", [1, 3])
def test_fisher_is_the_mean_of_squared_gradients(name: str, group: int) -> None:
    model, rows = tiny(name), some_rows(5)
    model.train()
    found = stats("fisher", model, rows, group_rows=group, batch_size=2)
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    groups = [rows[i : i + group] for i in range(0, 5, group)]
    slow = [slow_gradient(model, g) for g in groups]
    assert found.keys() == dict(model.named_parameters()).keys()
    for key, value in found.items():
        assert value.dtype == torch.float32
        assert close(value, sum(s[key] ** 2 for s in slow) / len(groups)), key  # type: ignore[arg-type]


def test_a_group_that_is_left_over_counts_like_a_full_one() -> None:
    """Two groups of 3 and 2 rows: (g1^2 + g2^2) / 2, as with the batches of SSD's code."""
    model, rows = tiny("llama"), some_rows(5)
    whole, first, last = (
        stats("fisher", model, rows, group_rows=3),
        stats("fisher", model, rows[:3], group_rows=3),
        stats("fisher", model, rows[3:], group_rows=3),
    )
    assert all(torch.allclose(whole[k], (first[k] + last[k]) / 2, rtol=1e-5) for k in whole)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_mean_gradient(name: str) -> None:
    model, rows = tiny(name), some_rows(7)
    found, slow = stats("mean_gradient", model, rows, batch_size=3), slow_gradient(model, rows)
    assert found.keys() == slow.keys()
    assert all(close(found[k], slow[k]) for k in slow)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("centered", [False, True])
def test_covariance_of_what_layers_put_out(name: str, centered: bool) -> None:
    model, rows = tiny(name), some_rows(6)
    found = stats("covariance", model, rows, centered=centered, batch_size=4)
    count = int(found.pop("count"))
    assert count == sum(len(r.target) for r in rows)
    layers = linear_layers(model)
    assert found.keys() == layers.keys() and "lm_head" not in found and len(found) >= 8
    for key, layer in layers.items():
        seen: list[torch.Tensor] = []
        handle = layer.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out[0].detach()))
        states = []
        for row in rows:
            ids = [*row.prompt, *row.prefill, *row.target]
            with torch.no_grad():
                model(torch.tensor([ids]))
            states.append(seen.pop()[len(ids) - len(row.target) - 1 : -1])
        handle.remove()
        x = torch.cat(states).double()
        if centered:
            x = x - x.mean(0)
        assert close(found[key].double(), x.T @ x / count), key


def test_a_large_mean_does_not_swallow_a_small_spread() -> None:
    model, rows = tiny("phi"), some_rows(6)
    name = "model.layers.0.self_attn.q_proj"
    before = stats("covariance", model, rows, centered=True, layers=[name])[name]
    with torch.no_grad():
        model.get_submodule(name).bias += 1000.0
        # the layers after it see another input, the first one's own input stays
    after = stats("covariance", model, rows, centered=True, layers=[name])[name]
    assert torch.allclose(before, after, rtol=1e-2, atol=1e-3 * float(before.abs().max()))


def test_patterns_choose_tensors_and_a_misspelt_one_is_told() -> None:
    model, rows = tiny("llama"), some_rows(2)
    found = stats("fisher", model, rows, layers=["*layers.1*mlp*", "model.norm.weight"])
    assert sorted(found) == [
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.norm.weight",
    ]
    everything = stats("fisher", model, rows)
    assert all(torch.equal(found[k], everything[k]) for k in found)
    for kind in ("fisher", "covariance"):
        with pytest.raises(ModelError, match=r"'\*q_prj\*' matches no layer"):
            stats(kind, model, rows, layers=["*q_prj*"])
    with pytest.raises(ModelError, match="Did you mean 'fisher'"):
        stats("fischer", model, rows)


def test_a_single_row_by_hand() -> None:
    """One row: the Fisher diagonal is the square of the mean gradient, entry by entry."""
    model, rows = tiny("llama"), some_rows(1)
    squares, gradient = stats("fisher", model, rows), stats("mean_gradient", model, rows)
    assert all(torch.equal(squares[k], gradient[k] ** 2) for k in gradient)


def test_adapters_are_what_is_measured_and_layers_keep_their_names() -> None:
    plain, rows = tiny("llama"), some_rows(4)
    covariance = stats("covariance", plain, rows)
    torch.manual_seed(0)
    wrapped = apply_peft(tiny("llama"), {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]})
    assert {n.rsplit(".", 3)[-3] for n in stats("fisher", wrapped, rows)} == {"lora_A", "lora_B"}
    found = stats("covariance", wrapped, rows)
    assert found.keys() == covariance.keys()
    assert all(torch.allclose(found[k], covariance[k]) for k in found)  # adapters start as the identity
    layer = wrapped.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    moved = stats("covariance", wrapped, rows)
    name = "model.layers.0.self_attn.q_proj"
    assert not torch.allclose(
        moved[name], covariance[name], rtol=1e-2
    )  # of the adapted layer, not of its base
    assert own_name("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight") == f"{name}.weight"


def test_half_precision_models_have_fp32_statistics() -> None:
    model, rows = tiny("llama").to(torch.bfloat16), some_rows(3)
    for kind in ("fisher", "mean_gradient", "covariance"):
        found = stats(kind, model, rows)
        assert {v.dtype for k, v in found.items() if k != "count"} == {torch.float32}
