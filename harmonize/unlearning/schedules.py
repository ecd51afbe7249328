"""Learning-rate schedules: factories of `LambdaLR`, chosen by the `scheduler` group."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, total_steps: int, *, warmup_steps: int = 0) -> LambdaLR:
    """Linear warm-up, then constant."""
    return LambdaLR(optimizer, lambda step: _warm(step, warmup_steps))


def linear(
    optimizer: Optimizer, total_steps: int, *, warmup_steps: int = 0, final_share: float = 0.0
) -> LambdaLR:
    """Linear warm-up, then a straight line down to `final_share` of the learning rate at the last step."""

    def factor(step: int) -> float:
        done = _progress(step, warmup_steps, total_steps)
        return _warm(step, warmup_steps) * (1.0 - (1.0 - final_share) * done)

    return LambdaLR(optimizer, factor)


def cosine(
    optimizer: Optimizer, total_steps: int, *, warmup_steps: int = 0, final_share: float = 0.0
) -> LambdaLR:
    """Linear warm-up, then half a cosine down to `final_share` of the learning rate."""

    def factor(step: int) -> float:
        done = _progress(step, warmup_steps, total_steps)
        shape = 0.5 * (1.0 + math.cos(math.pi * done))
        return _warm(step, warmup_steps) * (final_share + (1.0 - final_share) * shape)

    return LambdaLR(optimizer, factor)


def warmup_stable_decay(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    decay_share: float = 0.2,
    final_share: float = 0.0,
) -> LambdaLR:
    """Linear warm-up, a plateau, then a straight line down over the last `decay_share` of the steps."""
    start = round(total_steps * (1.0 - decay_share))

    def factor(step: int) -> float:
        done = _progress(step, start, total_steps)
        return _warm(step, warmup_steps) * (1.0 - (1.0 - final_share) * done)

    return LambdaLR(optimizer, factor)


def _warm(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def _progress(step: int, start: int, total: int) -> float:
    return min(1.0, max(0.0, (step - start) / max(1, total - start)))
