"""The base of a model with adapters, around the same tensors."""

from __future__ import annotations

import pytest
import torch

from harmonize.models.lora import adapters_off, apply_peft, without_adapters
from tests.models.tiny import tiny

LORA = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}
IDS = torch.tensor([[4, 5, 6, 7]])


def adapted(name: str, **more: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model = apply_peft(tiny(name), {**LORA, **more})
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_()
    return model.train()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in ("llama", "qwen3", "phi", "gpt_neox")),
        ("llama", {"use_dora": True}),
        ("llama", {"modules_to_save": ["norm"]}),
    ],
)
def test_it_says_what_the_model_says_with_adapters_off(name: str, more: dict[str, object]) -> None:
    model = adapted(name, **more)
    base = without_adapters(model).eval()
    with torch.no_grad(), adapters_off(model.eval()):
        expected = model(input_ids=IDS).logits
    with torch.no_grad():
        assert torch.equal(base(input_ids=IDS).logits, expected)
        assert not torch.allclose(model(input_ids=IDS).logits, expected)
    assert not any("lora" in key for key, _ in base.named_parameters())
    assert {p.data_ptr() for p in base.parameters()} <= {p.data_ptr() for p in model.parameters()}


def test_its_mode_and_its_hooks_are_its_own_and_its_weights_are_not() -> None:
    model = adapted("llama")
    base = without_adapters(model).eval()
    assert all(m.training for m in model.modules()) and not any(m.training for m in base.modules())
    base.get_output_embeddings().register_forward_pre_hook(lambda *_: pytest.fail("the other's hook"))
    model(input_ids=IDS)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    model.to(torch.float64)
    assert all(p.dtype == torch.float64 for p in base.parameters())
    assert not bool(base.get_output_embeddings().weight.any())


def test_a_module_whose_forward_was_replaced_is_not_copied() -> None:
    model = adapted("llama")
    layer = model.get_base_model().model.layers[0]
    layer.forward = layer.forward
    assert without_adapters(model) is None


def test_frequencies_that_follow_the_lengths_are_not_shared() -> None:
    model = adapted("llama")
    model.get_base_model().model.rotary_emb.rope_type = "dynamic"
    assert without_adapters(model) is None
