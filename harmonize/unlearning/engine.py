"""Who brings a step's gradients together over the ranks, clips them and tells their norm.

A strategy that does so itself names its own form in an attribute `engine`; everything else has the one here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from harmonize.unlearning import ranks
from harmonize.unlearning.callbacks import whole
from harmonize.unlearning.sharded import alike, is_divided


class Engine:
    """The ordinary form: gradients lie in `.grad`, of one process, of ddp, or in shares that FSDP2 has averaged.

    Args:
        module: The module that trains; its `trainable`, `clip` and `manual_backward` are read.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def wrapped(self) -> Any:
        """What the strategy has made of the module."""
        return self.module.trainer.strategy.model

    @contextmanager
    def accumulating(self, passes: int) -> Iterator[None]:
        """Around the backward passes of one step; after it, gradients are those of all ranks' rows.

        Args:
            passes: How many there will be.
        """
        self._unreduced = False
        yield
        if self._unreduced:
            ranks.average_gradients([p for p in self.module.trainable if not is_divided(p)])

    def backward(self, loss: Tensor) -> None:
        """Backward pass into `.grad`, of this rank's rows.

        DDP's own hooks would average after every micro-batch, and wait for ever where a rank has no row of a term.
        """
        ddp = isinstance(self.wrapped, DistributedDataParallel)
        with self.wrapped.no_sync() if ddp else nullcontext():
            self.module.manual_backward(loss)
        self._unreduced = True

    def clip(self, scale: float) -> float:
        """Clips the gradient, which a scaler has multiplied by `scale`.

        Returns:
            Its norm before, without that; not finite where a gradient is not.
        """
        parts = alike(self.module.trainable)
        norms = [whole(get_total_norm([p.grad for p in part if p.grad is not None])) for part in parts]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
        if self.module.clip:
            for part in parts:
                clip_grads_with_norm_(part, self.module.clip * scale, norm)
        return float(norm) / scale
