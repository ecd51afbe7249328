"""Intervals by bootstrap over subjects: questions about one subject stand or fall together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harmonize.data.corpus import content_hash


def cluster_interval(
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    key: tuple[object, ...] = (),
) -> tuple[float, float] | None:
    """Percentile interval of the mean when whole clusters are drawn with replacement.

    Args:
        values: One number per scored item.
        clusters: Its subject; as many as there are values.
        confidence: Level, in (0, 1).
        resamples: Bootstrap samples; with none there is no interval.
        key: Decides the random draws together with nothing else, so equal inputs give equal intervals.

    Returns:
        (low, high), or None with fewer than two clusters, from which no spread can be seen.

    Source: Field and Welsh 2007, the randomised cluster bootstrap; percentile limits are our choice. Where every
    item scores the same, the interval has no width, however few items there are.
    """
    means = cluster_means(values, clusters, resamples=resamples, key=key)
    if means is None:
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def cluster_means(
    values: Sequence[float], clusters: Sequence[str], *, resamples: int, key: tuple[object, ...] = ()
) -> np.ndarray | None:
    """[resamples] means of `values` over whole clusters drawn with replacement; None with fewer than two clusters.

    Arguments as in `cluster_interval`. The draws depend on the names of the clusters and the key, not on the values.
    """
    names = sorted(set(clusters))
    if len(names) < 2 or resamples < 1:
        return None
    index = {name: i for i, name in enumerate(names)}
    of = np.fromiter((index[c] for c in clusters), dtype=np.int64, count=len(values))
    sums = np.bincount(of, weights=np.asarray(values, dtype=np.float64), minlength=len(names))
    counts = np.bincount(of, minlength=len(names)).astype(np.float64)
    draws = generator("bootstrap", *key).multinomial(
        len(names), np.full(len(names), 1.0 / len(names)), size=resamples
    )
    means: np.ndarray = (draws @ sums) / (draws @ counts)
    return means


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key alone."""
    return np.random.default_rng(int(content_hash(*key)[:32], 16))
