"""Adapters that start elsewhere than at zero: the base stays the start model, and so does what the model says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harmonize.data.batch import collate
from harmonize.models.body import answer_hidden
from harmonize.models.head import Head
from harmonize.models.load import model_digest
from harmonize.models.lora import (
    OFFSET,
    adapted_layers,
    adapter_layers,
    adapters_off,
    apply_peft,
    base_weight,
    start_adapters,
)
from harmonize.models.save import merged_state
from tests.models.tiny import ARCHITECTURES, some_rows, tiny

LORA: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": "all-linear"}


def logits(model: nn.Module) -> Tensor:
    batch = collate(some_rows(), pad_id=0)
    with torch.no_grad():
        return Head.of(model).logits(answer_hidden(model, batch))


def random_starts(model: Any, seed: int = 3) -> dict[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: (
            0.5 * torch.randn(layer.lora_A["default"].weight.shape, generator=draw),
            0.5 * torch.randn(layer.lora_B["default"].weight.shape, generator=draw),
        )
        for name, layer in adapter_layers(model.get_base_model())
    }


def started(name: str = "llama", **changes: Any) -> Any:
    model = apply_peft(tiny(name), {**LORA, **changes})
    start_adapters(model, random_starts(model))
    return model


def trained_names(model: nn.Module) -> list[str]:
    return [n for n, p in model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_nothing_moves_at_first(name: str) -> None:
    plain = tiny(name)
    before, digest = logits(plain), model_digest(plain)
    state = {n: v.clone() for n, v in plain.state_dict().items()}
    model = started(name)
    base = {n.replace(".base_layer.", "."): v for n, v in model.get_base_model().state_dict().items()}
    assert all(torch.equal(base[n], value) for n, value in state.items())
    assert model_digest(model) == digest
    torch.testing.assert_close(logits(model), before, rtol=1e-3, atol=1e-3)
    with adapters_off(model):
        assert torch.equal(logits(model), before)
    assert trained_names(model) and not any(OFFSET in n for n in trained_names(model))


def test_the_start_is_really_there() -> None:
    model = started()
    plain = logits(tiny("llama"))
    for _, layer in adapter_layers(model):
        delta = layer.get_delta_weight("default")
        assert delta.abs().max() > 0.05 and torch.allclose(delta, -layer.get_delta_weight(OFFSET))
        layer.set_adapter(["default"])
    assert not torch.allclose(logits(model), plain, atol=1e-2)


def test_switching_off_and_on_leaves_the_second_adapter_frozen() -> None:
    model = started()
    names, off = trained_names(model), adapters_off(model)
    for _ in range(2):
        with off:
            pass
        assert trained_names(model) == names
    with off, off:
        pass
    assert trained_names(model) == names
    model.train()
    logits_ = Head.of(model).logits(answer_hidden(model, collate(some_rows(), pad_id=0)))
    logits_.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in names), name


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_export_adds_what_was_trained_and_nothing_else(name: str) -> None:
    model, plain = started(name), tiny(name).state_dict()
    at_first = merged_state(model)
    assert at_first.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(at_first[key], value, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for _, layer in adapter_layers(model):
            layer.lora_B["default"].weight.add_(0.1)
    after = logits(model)
    again = tiny(name)
    again.load_state_dict(merged_state(model))
    torch.testing.assert_close(logits(again), after, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(after, logits(tiny(name)), atol=1e-2)


def test_dropout_of_the_trained_adapter_spares_the_second() -> None:
    model = started(lora_dropout=0.5)
    (_, layer), *_ = adapter_layers(model)
    assert isinstance(layer.lora_dropout["default"], nn.Dropout)
    assert isinstance(layer.lora_dropout[OFFSET], nn.Identity)


@pytest.mark.parametrize("own", ["pissa", "olora", "pissa_niter_4"])
def test_starts_of_peft_that_move_the_base_leave_it_to_the_teacher(own: str) -> None:
    before = logits(tiny("llama"))
    digest = model_digest(tiny("llama"))
    model = apply_peft(tiny("llama"), {**LORA, "init_lora_weights": own})
    assert model_digest(model) == digest
    with adapters_off(model):
        assert torch.equal(logits(model), before)
    torch.testing.assert_close(logits(model), before, rtol=1e-3, atol=1e-3)
    (_, layer), *_ = adapter_layers(model)
    assert torch.count_nonzero(layer.lora_B["default"].weight)
    assert trained_names(model) and not any(OFFSET in n for n in trained_names(model))


def test_which_layers_would_be_adapted_is_found_without_a_trace() -> None:
    model = tiny("llama")
    for parameter in model.model.embed_tokens.parameters():
        parameter.requires_grad_(False)
    state, flags = dict(model.state_dict()), trained_names(model)
    classes = {n: type(m) for n, m in model.named_modules()}
    attributes = set(vars(model))
    for own in (True, "pissa", "gaussian"):
        chosen = {**LORA, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": own}
        found = adapted_layers(model, chosen)
        assert len(found) == 4 and all(n.endswith(("q_proj", "down_proj")) for n in found)
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
        assert trained_names(model) == flags and set(vars(model)) == attributes
        assert {n: type(m) for n, m in model.named_modules()} == classes
    assert adapted_layers(model, {"peft_type": "none"}) == [] == adapted_layers(model, None)


def test_weights_are_seen_from_the_outputs() -> None:
    model = apply_peft(tiny("gpt2"), {**LORA, "target_modules": ["c_fc"]})
    (_, layer), *_ = adapter_layers(model)
    assert base_weight(layer).shape == (128, 32)
    assert base_weight(next(adapter_layers(started()))[1]).shape[1] == 32
