"""Results by prior strength: does what the start model knew best resist longest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harmonize.evaluation.intervals import cluster_interval

QUARTILES = 4


@dataclass(frozen=True)
class Stratum:
    """One quartile, the weakest first.

    Attributes:
        low, high: Least and greatest prior in it; None where it is empty.
        n: Items.
        value: Mean; None where it is empty.
        ci_low, ci_high: Interval, clustered by subject, or None.
    """

    low: float | None
    high: float | None
    n: int
    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None


def quartiles(priors: Sequence[float]) -> list[int]:
    """The quartile (0 to 3) of each item, 0 with the lowest priors.

    Limits are the 25th, 50th and 75th percentile (interpolated); an item on a limit belongs to the lower quartile, so
    equal priors are never torn apart, and quartiles may differ in size or be empty.
    """
    if not len(priors):
        return []
    limits = np.quantile(np.asarray(priors, dtype=np.float64), [0.25, 0.5, 0.75])
    return [int(i) for i in np.searchsorted(limits, priors, side="left")]


def by_prior(
    values: Sequence[float],
    priors: Sequence[float],
    clusters: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    key: tuple[object, ...] = (),
) -> list[Stratum]:
    """Mean of `values` in each quartile of `priors`.

    Args:
        values: One score per item.
        priors: The start model's log-probability of the item's answer, as the caller defines it.
        clusters, confidence, resamples, key: As in `cluster_interval`.

    Source: strata of the start model's log-probability are known from work on knowledge conflicts (KID-Bench); which
        log-probability, and quartiles, are our choice.
    """
    of = quartiles(priors)
    found = []
    for q in range(QUARTILES):
        chosen = [i for i, own in enumerate(of) if own == q]
        if not chosen:
            found.append(Stratum(None, None, 0, None))
            continue
        own = [values[i] for i in chosen]
        limits = cluster_interval(
            own, [clusters[i] for i in chosen], confidence=confidence, resamples=resamples, key=(*key, q)
        )
        low, high = limits or (None, None)
        least, most = min(priors[i] for i in chosen), max(priors[i] for i in chosen)
        found.append(Stratum(least, most, len(own), sum(own) / len(own), low, high))
    return found
