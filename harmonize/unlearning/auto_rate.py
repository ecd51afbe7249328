"""A learning rate that a parabola chooses: the retain loss at a few lengths of the step just taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import Parameter
from torch.optim import Optimizer


def vertex(rate: float, offset: float, losses: Sequence[float], least: float, most: float) -> float:
    """The rate at the lowest point of the parabola through three losses.

    Args:
        rate: Present learning rate.
        offset: Distance d of the outer points, > 0.
        losses: At rate - d, rate and rate + d.
        least, most: Bounds of the result.

    Returns:
        rate - b / (2 a) for the parabola a x^2 + b x + c in the offset x, within the bounds. Where it has no lowest
        point (a <= 0, or a loss that is not finite), the present rate (our choice).

    Source: GeN, arXiv 2407.02772, as NGDiff (arXiv 2410.22086) uses it. A public implementation fits in the offset and
        takes -b / (2 a) as the rate itself, which leaves out the present rate; this adds it.
    """
    low, middle, high = losses
    curvature = (high + low - 2 * middle) / (2 * offset * offset)
    slope = (high - low) / (2 * offset)
    if not curvature > 0:
        return rate
    found = rate - slope / (2 * curvature)
    return min(max(found, least), most) if abs(found) < float("inf") else rate


class AutoRate:
    """Takes the optimizer's steps, and every so often asks a loss how long they should be.

    The scheduler's rate stays the base: a factor is found, kept, and multiplies it from then on. On a probing step the
    update is taken, its direction is measured as the difference of the weights, and the loss at three multiples of it
    is evaluated; this holds for every optimizer whose update grows with its rate (all of the SGD and Adam families).

    Args:
        every: Steps between probes; the first step is one.
        offset_share: The outer points lie at rate * (1 -/+ this share).
        least, most: Bounds of the rate.
    """

    def __init__(self, *, every: int, offset_share: float, least: float, most: float) -> None:
        self.every, self.offset_share, self.least, self.most = every, offset_share, least, most
        self.factor = 1.0

    def take(
        self, optimizer: Optimizer, parameters: Sequence[Parameter], loss: Callable[[], float], step: int
    ) -> float:
        """Takes one step and returns the rate it had.

        Args:
            optimizer: Its gradients are in place; its rates are as the scheduler left them, and are so afterwards.
            parameters: Those that it moves.
            loss: The loss to be lowest, at the present weights.
            step: 0-based optimizer step.
        """
        scheduled = [float(group["lr"]) for group in optimizer.param_groups]
        rate = scheduled[0] * self.factor
        probe = step % self.every == 0 and rate > 0
        before = [p.detach().clone() for p in parameters] if probe else []
        for group, lr in zip(optimizer.param_groups, scheduled, strict=True):
            group["lr"] = lr * self.factor
        optimizer.step()
        for group, lr in zip(optimizer.param_groups, scheduled, strict=True):
            group["lr"] = lr
        if not probe:
            return rate
        after = [p.detach().clone() for p in parameters]
        offset = rate * self.offset_share
        losses = []
        for at in (rate - offset, rate, rate + offset):
            _place(parameters, before, after, at / rate)
            losses.append(loss())
        found = vertex(rate, offset, losses, self.least, self.most)
        _place(parameters, before, after, found / rate)
        self.factor *= found / rate
        return found


def _place(
    parameters: Sequence[Parameter],
    before: Sequence[torch.Tensor],
    after: Sequence[torch.Tensor],
    share: float,
) -> None:
    """Puts the weights at `share` of the way from `before` to `after`, exactly `after` at 1."""
    with torch.no_grad():
        for p, start, end in zip(parameters, before, after, strict=True):
            p.copy_(end if share == 1.0 else start + (end - start) * share)
