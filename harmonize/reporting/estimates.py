"""A mean with its 95 % interval over independent units, and what follows for a claim with a margin."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"


@dataclass(frozen=True)
class Effect:
    """Mean over `n` units and its interval; no interval with one unit."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        return f"{_signed(self.mean)} {self.interval}".rstrip()

    @property
    def interval(self) -> str:
        """`[low, high]`, or nothing."""
        return "" if self.low is None or self.high is None else f"[{_signed(self.low)}, {_signed(self.high)}]"


def _signed(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text


def estimated(values: Sequence[float], confidence: float = CONFIDENCE) -> Effect | None:
    """Mean and t interval over units that are independent of one another; None without any.

    Formula: mean ± t(n - 1, (1 + confidence) / 2) sd / sqrt(n)
    """
    from scipy.special import stdtrit

    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Effect(mean, None, None, 1)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return Effect(mean, mean - half, mean + half, n)


def judge(effect: Effect | None, margin: float) -> str:
    """What an effect says of the claim that it is at least `margin`, where more is what is claimed.

    Supported: the interval lies above 0 and the mean reaches the margin. Not supported: the whole interval lies below
    the margin. A negative margin makes a claim of no harm: then the interval must lie above the margin. Everything
    else, and one unit alone, is undecided. Our choice.
    """
    if effect is None or effect.low is None or effect.high is None:
        return UNDECIDED
    if effect.high < margin:
        return NOT_SUPPORTED
    if margin < 0:
        return SUPPORTED if effect.low >= margin else UNDECIDED
    return SUPPORTED if effect.low > 0 and effect.mean >= margin else UNDECIDED
