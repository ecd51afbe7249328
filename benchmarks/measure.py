"""How two arms are compared: parity first, then interleaved steps and medians of per-pair ratios; memory apart.

On a CPU time is process CPU seconds of one thread, on a GPU the time between two CUDA events with one synchronisation a
step.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Step = Callable[[], None]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def timed(step: Step, device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))
    start = time.process_time()
    step()
    return 1e3 * (time.process_time() - start)


def interleaved(
    arms: Mapping[str, Step], device: torch.device, pairs: int, warmup: int = 3, seconds: float | None = None
) -> dict[str, list[float]]:
    """Milliseconds of every arm, one call of each in turn, their order turning with every round.

    Args:
        arms: Name to what is timed.
        device: Where it runs.
        pairs: Rounds that count.
        warmup: Rounds before, which do not.
        seconds: Stop after so many seconds, with 5 rounds at least; None = all rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    began = time.perf_counter()
    for number in range(-warmup, pairs):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            value = timed(arms[name], device)
            if number >= 0:
                found[name].append(value)
        if seconds is not None and number >= 4 and time.perf_counter() - began > seconds:
            break
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratio(found: Mapping[str, Sequence[float]], a: str, b: str) -> dict[str, Any]:
    """The row of two arms: median and quartiles of the per-pair ratios, and both medians."""
    low, middle, high = quartiles([x / y for x, y in zip(found[a], found[b], strict=True)])
    return {
        "arm_a": a,
        "arm_b": b,
        "ratio_median": round(middle, 4),
        "q1": round(low, 4),
        "q3": round(high, 4),
        "n": len(found[a]),
        "ms": {a: round(statistics.median(found[a]), 3), b: round(statistics.median(found[b]), 3)},
    }


def parity(
    a: Callable[[], Tensor],
    b: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    dtype: torch.dtype = torch.float32,
    limit: float | None = None,
) -> dict[str, Any]:
    """Whether two losses of the same weights, and their gradients, are the same up to rounding.

    Args:
        a, b: Each returns a loss with its graph.
        parameters: What they are differentiated by.
        dtype: Of the weights; decides the tolerance (`TOLERANCE`).
        limit: Another tolerance, where one arm reads states that a cache rounded to fp16.

    Returns:
        Relative differences of the losses and of the whole gradients, the tolerance, and `ok`.
    """
    values, gradients = [], []
    for make in (a, b):
        loss = make()
        gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True))
        values.append(float(loss.detach()))
        del loss
    apart = whole = 0.0
    for x, y in zip(*gradients, strict=True):
        if x is None or y is None:
            continue
        apart += float((x.float() - y.float()).square().sum())
        whole += float(y.float().square().sum())
    limit = TOLERANCE[dtype] if limit is None else limit
    loss_gap = abs(values[0] - values[1]) / max(abs(values[1]), 1e-12)
    gradient_gap = (apart / max(whole, 1e-30)) ** 0.5
    return {
        "losses": values,
        "loss": loss_gap,
        "gradient": gradient_gap,
        "tolerance": limit,
        "ok": loss_gap <= limit and gradient_gap <= limit,
    }


class Peak:
    """Allocated bytes of a GPU between marks: what a step starts with, and the high-water mark of each of its parts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: dict[str, int] = {}
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.synchronize(device)
        self.before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)

    def mark(self, part: str) -> None:
        """Ends a part."""
        peak = torch.cuda.max_memory_allocated(self.device)
        self.parts[part] = max(self.parts.get(part, 0), peak)
        torch.cuda.reset_peak_memory_stats(self.device)

    def row(self) -> dict[str, int]:
        """Bytes before the step, at the peak of each part, and at the peak of all."""
        return {"before": self.before, **self.parts, "peak": max(self.parts.values())}
