"""Between the blocks of a model: its hidden states layer by layer, and what its own head makes of them.

L blocks, A positions, H hidden size, V vocabulary. Layer 0 is what enters the first block, layer l what leaves the
l-th one, so there are L + 1 layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.data.batch import Batch
from harmonize.errors import ModelError
from harmonize.models.body import answer_states, blocks_of, evaluating, output_layer, unwrapped
from harmonize.models.head import Head


def layer_states(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden states at the batch's answer positions after every layer, from one call of the model.

    Returns:
        [L + 1, A, H] in the model's dtype, before the final norm.

    Raises:
        ModelError: The model shows no list of blocks, or no output layer.
    """
    blocks = blocks_of(model)
    entered: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        entered.append(states.reshape(-1, states.shape[-1]).index_select(0, batch.positions))

    handle = blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    try:
        _, after = answer_states(model, batch, range(len(blocks)))
    finally:
        handle.remove()
    return torch.stack([entered[0], *(after[b] for b in range(len(blocks)))])


@dataclass(frozen=True, eq=False)
class Lens:
    """What a model's own final norm and head read in a hidden state of any layer (the logit lens).

    Attributes:
        last: The modules between the last block and the head, in order: the final norm, in most models.
        head: The head, with soft-caps, scales and biases.

    Source: the logit lens (nostalgebraist 2020) [recall].
    """

    last: tuple[nn.Module, ...]
    head: Head

    @classmethod
    def of(cls, model: nn.Module) -> Lens:
        """Finds the modules after the last block by what they read and return, whatever they are called.

        Raises:
            ModelError: No list of blocks, an unknown head, or a step between the two that is no module of one input.
        """
        head = Head.of(model)
        layer = output_layer(unwrapped(model))
        return cls(_between(model, blocks_of(model), layer, head), head.frozen())

    def final(self, states: Tensor) -> Tensor:
        """What the head reads. [A, H] -> [A, H]."""
        for module in self.last:
            states = module(states)
        return states

    def logits(self, states: Tensor) -> Tensor:
        """[A, H] -> [A, V] fp32. At the last layer these are the model's own logits."""
        return self.head.logits(self.final(states))

    @property
    def chunk(self) -> int:
        """Positions whose logits may exist at once."""
        return self.head.chunk


def _between(model: nn.Module, blocks: nn.ModuleList, layer: nn.Module, head: Head) -> tuple[nn.Module, ...]:
    """The chain of modules that leads from the last block's output to the head's input, on a short probe."""
    inside = {id(m) for m in blocks.modules()} | {id(layer)}
    called: list[tuple[nn.Module, Tensor, Tensor]] = []
    left: list[Tensor] = []
    read: list[Tensor] = []

    def passed(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
            called.append((module, args[0], out))

    def leave(_: nn.Module, args: Any, out: Any) -> None:
        left.append(out[0] if isinstance(out, tuple) else out)

    handles = [blocks[-1].register_forward_hook(leave)]
    handles.append(layer.register_forward_pre_hook(lambda _, args: read.append(args[0])))
    handles += [m.register_forward_hook(passed) for m in model.modules() if id(m) not in inside]
    ids = torch.arange(min(8, head.n_vocab), device=head.weight.device).unsqueeze(0)
    try:
        with torch.no_grad(), evaluating(model):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    states, chain = left[-1], []
    for module, taken, returned in called:
        if _same(states, read[-1]):
            break
        if _same(taken, states):
            chain.append(module)
            states = returned
    if not _same(states, read[-1]) or not _same(_applied(chain, left[-1]), read[-1]):
        raise ModelError(
            f"What {type(model).__name__} does between its last block and its head is not a chain of modules, so its "
            "inner layers cannot be read with its own head."
        )
    return tuple(chain)


def _applied(chain: Sequence[nn.Module], states: Tensor) -> Tensor:
    with torch.no_grad():
        for module in chain:
            states = module(states)
    return states


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6)
