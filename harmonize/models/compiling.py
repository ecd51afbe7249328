"""torch.compile for the blocks of a model, in training alone.

Generation and evaluation call the same blocks with caches and other shapes, which would compile them again and again:
outside of the context they run as they are.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from harmonize.models.body import blocks_of

PAD_TO = (
    64  # columns and answer positions of a compiled step come in multiples of this, so that few shapes occur
)


class CompiledBlocks(contextlib.AbstractContextManager[None]):
    """Inside, the blocks run compiled, in the forward and in the backward pass; may be entered again and again.

    One block is compiled, the others of its form reuse the result. Head and loss stay as they are: their shapes change
    from step to step.

    Args:
        model: A causal LM, possibly with adapters or activation checkpointing.
        options: Of `torch.compile`.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self._blocks = list(blocks_of(model))
        self._fast = [torch.compile(block.forward, **options) for block in self._blocks]

    def __enter__(self) -> None:
        for block, fast in zip(self._blocks, self._fast, strict=True):
            block.forward = fast  # hooks and activation checkpointing are in __call__, around it

    def __exit__(self, *_: object) -> None:
        for block in self._blocks:
            vars(block).pop("forward", None)  # the class's own is found again
