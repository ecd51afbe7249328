"""FSDP2: a model whose weights, gradients and optimizer states are divided among the ranks.

It is taken apart before the teacher speaks. What was trained is gathered into a file when training ends, and an
ordinary model made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed
from torch.nn import Module, Parameter

from harmonize.models.body import blocks_of, output_layer, unwrapped
from harmonize.unlearning import ranks
from harmonize.unlearning.callbacks import keep

FSDP2 = "fsdp2"
TRAINED = "trained.safetensors"


def fsdp2(world: int) -> Any:
    """Lightning's strategy for FSDP2: all ranks hold a share of every weight, and none computes a share of a layer."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    return ModelParallelStrategy(
        data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def shard(model: Module, kind: str | None = None) -> None:
    """Divides a model among the ranks, in place: every decoder block by itself, then what is left but for the head.

    The losses take their products with the output layer outside of the model's forward, piece by piece; gathering it
    for every piece would cost more than it saves, so each rank keeps the whole of it (and of embeddings tied to it).

    The first rank's weights are everyone's. A block is whole on a device only until the next one is; ranks whose model
    has no weights yet (`torch.device("meta")`) never hold more in main memory.

    Args:
        model: A causal LM, with adapters or without; of the same form on every rank.
        kind: Of the devices where the shares lie (`cuda`, `cpu`); None takes that of the first rank's model.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = ranks.of_first(kind or next(model.parameters()).device.type)
    device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
    mesh = init_device_mesh(device.type, (ranks.size(),))
    inner = unwrapped(model)
    for block in blocks_of(inner):
        _fill(block, device)
        fully_shard(block, mesh=mesh)
    _fill(model, device)
    fully_shard(model, mesh=mesh, ignored_params=set(output_layer(inner).parameters()))
    model.register_forward_hook(_back_to_shares)


def _back_to_shares(model: Any, *_: object) -> None:
    """What lies outside of the blocks stays gathered for the backward pass, which is not told of its own beginning: the
    losses read hidden states, not what the model's forward returns. A pass without gradients leaves shares behind.
    """
    if not torch.is_grad_enabled():
        model.reshard()


@torch.no_grad()
def _fill(module: Module, device: torch.device) -> None:
    """Gives parameters and buffers that are not divided yet the first rank's values, on a device; ties stay."""
    done: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, value in tensors.items():
                if value is None or is_divided(value):
                    continue
                if id(value) not in done:
                    here = (
                        torch.empty_like(value, device=device) if value.is_meta else value.detach().to(device)
                    )
                    here = here.contiguous()
                    distributed.broadcast(here, src=0)
                    done[id(value)] = _in_place_of(value, here)
                tensors[name] = done[id(value)]  # type: ignore[assignment]


def _in_place_of(old: Tensor, new: Tensor) -> Tensor:
    """A parameter stays the object that it is, which others may have taken hold of; but one without weights cannot."""
    if not isinstance(old, Parameter):
        return new
    if old.is_meta:
        return Parameter(new, requires_grad=old.requires_grad)
    old.data = new
    return old


def is_divided(parameter: Any) -> bool:
    """Whether this rank holds a share of a parameter, or the whole of it."""
    return hasattr(parameter, "full_tensor")


def is_sharded(model: Module) -> bool:
    """Whether a model is divided among the ranks."""
    return any(map(is_divided, model.parameters()))


def trainable(model: Module) -> list[Parameter]:
    """What is trained, divided parameters before whole ones."""
    found = [p for p in model.parameters() if p.requires_grad]
    return [*(p for p in found if is_divided(p)), *(p for p in found if not is_divided(p))]


def alike(parameters: Sequence[Parameter]) -> list[list[Parameter]]:
    """Divided parameters apart from whole ones: torch takes no list that has both."""
    parts = [[p for p in parameters if is_divided(p)], [p for p in parameters if not is_divided(p)]]
    return [part for part in parts if part] or [[]]


class KeepTrained(L.Callback):
    """Writes the whole trained weights when training ends, which takes all ranks.

    Args:
        folder: Where `trained.safetensors` goes.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / TRAINED

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Gathers and writes them."""
        keep(module, self.path)
