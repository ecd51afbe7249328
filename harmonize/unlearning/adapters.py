"""The adapters of a run as the terms on weights read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonize.errors import ConfigError
from harmonize.models.lora import adapter_layers, has_adapters
from harmonize.objectives.weights import Adapter, Weights
from harmonize.unlearning.terms import Term


def trained_adapters(model: Any) -> dict[str, Adapter]:
    """Every layer's trained adapter by the layer's name in the base model; the tensors are the parameters themselves.

    Empty for a model without adapters.
    """
    if not has_adapters(model):
        return {}
    return {
        name: Adapter(layer.lora_A[key].weight, layer.lora_B[key].weight, float(layer.scaling[key]))
        for name, layer in adapter_layers(model.get_base_model())
        for key in layer.active_adapters
        if key in layer.lora_A and layer.lora_A[key].weight.requires_grad
    }


def weights_for(model: Any, terms: Sequence[Term]) -> Weights | None:
    """What the terms on weights read; None where there is no such term.

    Raises:
        ConfigError: The model has no adapters.
    """
    names = [t.name for t in terms if t.reads_weights]
    if not names:
        return None
    adapters = trained_adapters(model)
    if not adapters:
        raise ConfigError(
            f"The term {names[0]} reads the matrices of adapters, and there are none. Use peft=lora."
        )
    return Weights(adapters)
