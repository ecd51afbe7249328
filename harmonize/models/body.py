"""A causal LM without its head: its parts, and its states at the answer positions.

A positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from harmonize.data.batch import Batch
from harmonize.errors import ModelError
from harmonize.models.lower_right import without_mask
from harmonize.models.packing import packable, packed_inputs, packed_positions


def output_layer(model: nn.Module) -> nn.Module:
    """The linear layer that makes the logits.

    Raises:
        ModelError: None, not linear, or wrapped by an adapter.
    """
    getter = getattr(model, "get_output_embeddings", None)
    layer = getter() if getter is not None else None
    if layer is None:
        raise ModelError(f"{type(model).__name__} has no output layer; a causal language model is needed.")
    if hasattr(layer, "base_layer") or hasattr(layer, "modules_to_save"):
        raise ModelError(
            "The output layer carries an adapter, which would change the head that teacher and student share. "
            "Remove lm_head from peft.target_modules and peft.modules_to_save."
        )
    weight = getattr(layer, "weight", None)
    if not isinstance(layer, nn.Linear) or not isinstance(weight, Tensor) or weight.dim() != 2:
        raise ModelError(f"The output layer is a {type(layer).__name__}; only a linear one is supported.")
    return layer


class evaluating:
    """Puts a model into eval mode and restores every module's own mode afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._training = [m for m in self._model.modules() if m.training]
        if self._training:
            self._model.eval()

    def __exit__(self, *_: object) -> None:
        for module in self._training:
            module.training = True


@contextmanager
def logits_at(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Calls of the model give logits of some positions alone, [1, N, V]: its output layer gets no other states.

    A model that shows no output layer, or does not call it, gives all of them.

    Args:
        model: A causal LM. positions: [N] places in the flattened batch of a call, at least one.
    """

    def pick(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_at(args[0], positions).unsqueeze(0), *args[1:])

    inner = unwrapped(model)
    several, one = getattr(inner, "output_layers", None), getattr(inner, "get_output_embeddings", None)
    layers = several() if several is not None else [one()] if one is not None else []
    distinct = dict.fromkeys(layer for layer in layers if isinstance(layer, nn.Module))
    handles = [layer.register_forward_pre_hook(pick) for layer in distinct]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def answer_hidden(model: nn.Module, batch: Batch, layer: nn.Module | None = None, past: Any = None) -> Tensor:
    """Final hidden states at the answer positions, from one call of the model. -> [A, H] in the model's dtype.

    The model's own forward runs (also through DDP or peft wrappers); just before its output layer the answer
    positions are gathered, and the layer itself gets a single row, so its product costs nothing.

    Args:
        model: A causal LM, possibly wrapped.
        batch: Rows of any padding; see `harmonize.data.batch.Batch`.
        layer: The output layer, where the wrapper hides it. None looks it up.
        past: Keys and values of what every row begins with (`SharedPrefix`); the batch holds the rest, right-padded.
    """
    return answer_states(model, batch, (), layer, past)[0]


def answer_states(
    model: nn.Module,
    batch: Batch,
    blocks: Sequence[int] = (),
    layer: nn.Module | None = None,
    past: Any = None,
) -> tuple[Tensor, dict[int, Tensor]]:
    """`answer_hidden`, and the hidden states after some blocks at the same positions, all from one call.

    Args:
        model, batch, layer, past: As in `answer_hidden`.
        blocks: Numbers of blocks, counted from 0 (`block_number`).

    Returns:
        [A, H] final states, and block to its [A, H].
    """
    layer = layer if layer is not None else output_layer(unwrapped(model))
    found: list[Tensor] = []
    inner: dict[int, Tensor] = {}

    packed = past is None and packable(unwrapped(model), batch)
    positions = packed_positions(batch) if packed else batch.positions

    def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        found.append(_at(hidden, positions))
        return (hidden[:1, :1].detach(), *args[1:])

    def keep(block: int) -> Any:
        def after(_: nn.Module, args: Any, out: Any) -> None:
            inner[block] = _at(out[0] if isinstance(out, tuple) else out, positions)

        return after

    handles = [layer.register_forward_pre_hook(gather)]
    if blocks:
        modules = blocks_of(model)
        handles += [modules[b].register_forward_hook(keep(b)) for b in blocks]
    try:
        inputs = packed_inputs(unwrapped(model), batch) if packed else model_inputs(batch, past)
        maskless = getattr(past, "maskless", False)
        with without_mask(text_config(unwrapped(model)), past) if maskless else nullcontext():
            model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found[0], inner


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """[B, T, H] at places of the flattened batch [N]. -> [N, H]"""
    return states.reshape(-1, states.shape[-1]).index_select(0, positions)


def model_inputs(batch: Batch, past: Any = None) -> dict[str, Any]:
    """What a model is called with for a batch.

    A right-padded batch goes without a mask: no column sees one to its right, so padding reaches no answer position,
    and attention keeps the kernels that take no mask (flash).
    """
    if past is not None:
        return {"input_ids": batch.input_ids, "past_key_values": past}
    if batch.right_padded:
        return {"input_ids": batch.input_ids}
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks of a model, in order.

    Raises:
        ModelError: There is no list of as many modules as the configuration has layers.
    """
    config = text_config(unwrapped(model))
    depth = getattr(config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"{type(model).__name__} shows no list of blocks, so no layer of it can be named.")


def block_number(model: nn.Module, layer: int | None) -> int:
    """The block that a setting `layer` names: counted from 0, negative from the end, None ends the first quarter.

    Raises:
        ModelError: The model has no such block.
    """
    depth = len(blocks_of(model))
    number = max(0, depth // 4 - 1) if layer is None else int(layer)
    if not -depth <= number < depth:
        raise ModelError(
            f"layer={layer}: the model has {depth} blocks, 0 to {depth - 1}. Name one of them, or layer=null for the "
            "one that ends the first quarter."
        )
    return number % depth


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP or a compiler's wrapper."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and not hasattr(model, "get_output_embeddings"):
            inner = getattr(model, "module", None)
        if inner is None:
            return model
        model = inner


def text_config(model: nn.Module) -> Any:
    """The configuration of the language model, inside that of a model of several modalities."""
    config: Any = getattr(model, "config", None)
    getter = getattr(config, "get_text_config", None)
    return getter() if callable(getter) else config
