"""The first blocks of a model as a model of its own, sharing every tensor with it."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from harmonize.errors import ModelError
from harmonize.models.body import blocks_of
from harmonize.models.lora import has_adapters

FULL_LAYERS = 8  # of 32 in the code of ULD


def layers_kept(depth: int, layers: int | None) -> int:
    """How many blocks a truncated view keeps: `layers`, or None for 8, or half (rounded up) of fewer than 16.

    Raises:
        ModelError: The model has fewer blocks.
    """
    if layers is None:
        return min(FULL_LAYERS, -(-depth // 2))
    if not 1 <= layers <= depth:
        raise ModelError(
            f"assistant.layers={layers}: the model has {depth} blocks. Use 1 to {depth}, or assistant.layers=null."
        )
    return layers


def truncated_view(model: nn.Module, layers: int) -> Any:
    """A causal LM of the first blocks, with the embedding, final norm and head of the whole model.

    Its modules are its own, so adapters and modes set there do not reach the model; its parameters and buffers are the
    model's, so it takes no memory and moves where the model moves.

    Args:
        model: A causal LM without adapters.
        layers: Blocks to keep, counted from the embedding.

    Raises:
        ModelError: A model with adapters, or one that shows no list of blocks.
    """
    if has_adapters(model):
        raise ModelError("A model with adapters cannot be truncated; merge them first.")
    depth = len(blocks_of(model))
    tensors = (*model.parameters(), *model.buffers())
    view = copy.deepcopy(model, {id(t): t for t in tensors})
    del blocks_of(view)[layers:]
    config: Any = view.config
    for each in {id(c): c for c in (config, config.get_text_config())}.values():
        for name, value in list(vars(each).items()):
            # what is said layer by layer, such as `layer_types`; ids of tokens may be as many by chance
            if isinstance(value, list) and len(value) == depth and not name.endswith("token_id"):
                setattr(each, name, value[:layers])
        each.num_hidden_layers = layers
    return view
