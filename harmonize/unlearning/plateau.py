"""A learning rate that stays up until something is learned, and only then decays: training as long as it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Plateau(L.Callback):
    """Linear warm-up, a plateau that ends once `reached` says so, a straight line down to zero, stop.

    Our choice, for skills that a small model learns all at once but at no foreseeable step.

    Args:
        reached: Asked every `every` steps; a pure function of the model's weights.
        warmup_steps, decay_steps: Length of the two slopes.
        max_steps: Last step in any case; the decay begins `decay_steps` before it at the latest.
        every: Steps between two looks.
    """

    def __init__(
        self,
        reached: Callable[[], bool],
        *,
        warmup_steps: int,
        decay_steps: int,
        max_steps: int,
        every: int,
    ) -> None:
        self.reached, self.every = reached, every
        self.warmup_steps, self.decay_steps = warmup_steps, decay_steps
        self.decay_from = max(0, max_steps - decay_steps)
        self.in_time = False

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """The schedule, which follows this callback."""
        return LambdaLR(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Factor of the learning rate at a 0-based step."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        down = (step - self.decay_from) / max(1, self.decay_steps)
        return warm * (1.0 - min(1.0, max(0.0, down)))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Looks when due; stops when the decay is done."""
        done = trainer.global_step
        if done < self.decay_from and done % self.every == 0 and self.reached():
            self.decay_from, self.in_time = done, True
        if done >= self.decay_from + self.decay_steps:
            trainer.should_stop = True
