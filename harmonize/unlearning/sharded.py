"""FSDP2: a student whose weights, gradients and optimizer states are divided among the ranks.

The weights are taken apart when training begins and read back from a file when it ends: only in between is the model
anything but an ordinary one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from torch.nn import Module

from harmonize.models.head import blocks_of, output_layer, unwrapped
from harmonize.unlearning.callbacks import keep

FSDP2 = "fsdp2"
TRAINED = "trained.safetensors"


def fsdp2(world: int) -> Any:
    """Lightning's strategy for FSDP2: all ranks hold a share of every weight, and none computes a share of a layer."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    return ModelParallelStrategy(
        data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def shard(model: Module, mesh: Any) -> None:
    """Divides a model in place: every decoder block by itself, then what is left but for the output layer.

    The losses take their products with the output layer outside of the model's forward, piece by piece; gathering it
    for every piece would cost more than it saves, so each rank keeps the whole of it (and of embeddings tied to it).

    Args:
        model: A causal LM, with adapters or without.
        mesh: Of the ranks; one dimension.
    """
    from torch.distributed.fsdp import fully_shard

    for block in blocks_of(unwrapped(model)):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=set(output_layer(unwrapped(model)).parameters()))


def is_divided(parameter: Any) -> bool:
    """Whether this rank holds a share of a parameter, or the whole of it."""
    return hasattr(parameter, "full_tensor")


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
