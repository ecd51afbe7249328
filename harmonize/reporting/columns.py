"""What the tables are made of: columns, cells, and how a figure is printed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from harmonize.reporting.standing import SHIFT
from harmonize.tracking.direction import DOWN, UP, Direction

TIME = "time"
MEMORY = "memory"
COSTS = (TIME, MEMORY)  # columns that are no figure of the model: nobody is the best in them
GAP = "–"
TARGET = "target"
FRONT = "†"
NOISE = "≈"
DECIMALS = 2


@dataclass(frozen=True)
class Column:
    """A column: a metric (or the time), its header, and where better lies."""

    key: str
    header: str
    short: str
    better: Direction

    @property
    def arrow(self) -> str:
        """The direction of better."""
        return self.better.symbol


COLUMNS = (
    Column("forget_accuracy", "forget", "forget", DOWN),
    Column("forget_heldout_accuracy", "forget held out", "held out", DOWN),
    Column("retain_accuracy", "retain", "retain", UP),
    Column("neighbor_accuracy", "neighbor", "neighbor", UP),
    Column("neighbor_refusal_rate", "neighbor refusal", "refusal", DOWN),
    Column("asr_opener", "ASR opener", "opener", DOWN),
    Column("asr_answer_prefix", "ASR prefix", "prefix", DOWN),
    Column("asr_worst", "ASR worst", "worst", DOWN),
    Column("asr_heldout_worst", "ASR held-out worst", "held out", DOWN),
    Column("utility_accuracy", "utility", "utility", UP),
    Column("relearn_accuracy", "relearn", "relearn", DOWN),
    Column(SHIFT, "shift", "shift", UP),
    Column(TIME, "time", "time", DOWN),
    Column(MEMORY, "memory", "memory", DOWN),
)
# Blocks of six columns fit 80 characters; the ASR figures stand together.
BLOCKS = (
    ("Axes (held out: facts not unlearned; refusal: of neighbor questions)", (0, 1, 2, 3, 4, 9)),
    ("Attack success rate (ASR), relearning", (5, 6, 7, 8, 10)),
    ("Shift, time, peak memory", (11, 12, 13)),
)


OWN_BLOCK = "What this table is about"


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation (None for one value) of `n` runs."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Cell | None:
        """The cell of the values that are there, or None."""
        found = [float(v) for v in values if v is not None]
        if not found:
            return None
        sd = statistics.stdev(found) if len(found) > 1 else None
        return cls(statistics.fmean(found), sd, len(found))

    def text(self, key: str) -> str:
        """As printed: `0.97±.01`, a time with its unit."""
        if key == TIME:
            return duration(self.mean)
        if key == MEMORY:
            return size(self.mean)
        mean = fixed(self.mean)
        if key == SHIFT and float(mean) > 0:
            mean = f"+{mean}"
        return mean if self.sd is None else f"{mean}±{fixed(self.sd).removeprefix('0')}"


def fixed(value: float) -> str:
    """A figure as printed; what rounds to nothing has no sign."""
    text = f"{value:.{DECIMALS}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def bracketed(text: str, unproven: bool) -> str:
    """A figure that proves nothing stands in brackets."""
    return f"({text})" if unproven else text


def duration(seconds: float) -> str:
    """Seconds as `42s`, `3.5m` or `2.1h`."""
    if seconds < 99.5:
        return f"{seconds:.0f}s"
    if seconds < 3570:
        return f"{seconds / 60:.1f}m"
    return f"{seconds / 3600:.1f}h"


def size(count: float) -> str:
    """Bytes as `512M` or `1.4G` (powers of 1,024)."""
    return f"{count / 2**20:.0f}M" if count < 1000 * 2**20 else f"{count / 2**30:.1f}G"
