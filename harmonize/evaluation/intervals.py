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
    share: bool = True,
) -> tuple[float, float] | None:
    """Percentile interval of the mean when whole clusters are drawn with replacement.

    Args:
        values: One number per scored item.
        clusters: Its subject; as many as there are values.
        confidence: Level, in (0, 1).
        resamples: Bootstrap samples; with none there is no interval.
        key: Decides the random draws together with nothing else, so equal inputs give equal intervals.
        share: Values lie between 0 and 1. Of others (losses, distances) the open end below is not known.

    Returns:
        (low, high), or None with fewer than two clusters, from which no spread can be seen.

    Where all items score 0, or all 1, every bootstrap sample does; the open end is then that of as many independent
    draws as there are clusters: 1 - ((1 - confidence) / 2) ^ (1 / clusters) above 0, the same below 1.

    Source: Field and Welsh 2007, the randomised cluster bootstrap; percentile limits are our choice. Clopper and
        Pearson 1934 for the open end, one draw a cluster (ours: questions of a cluster may stand or fall together).
    """
    means = cluster_means(values, clusters, resamples=resamples, key=key)
    if means is None:
        return None
    if not share:
        return percentiles(means, confidence)
    width = open_end(len(set(clusters)), confidence)
    if not any(values):
        return 0.0, width
    if all(v == 1 for v in values):
        return 1.0 - width, 1.0
    return percentiles(means, confidence)


def open_end(draws: int, confidence: float) -> float:
    """How far from 0 the chance may be of what none of so many independent draws showed, at a level in (0, 1)."""
    return float(1.0 - ((1.0 - confidence) / 2.0) ** (1.0 / draws))


def cluster_means(
    values: Sequence[float], clusters: Sequence[str], *, resamples: int, key: tuple[object, ...] = ()
) -> np.ndarray | None:
    """[resamples] means of `values` over whole clusters drawn with replacement; None with fewer than two clusters.

    Arguments as in `cluster_interval`. The draws depend on the names of the clusters and the key, not on the values.
    """
    names = sorted(set(clusters))
    if len(names) < 2 or resamples < 1:
        return None
    of = _numbers(names, clusters)
    sums = np.bincount(of, weights=np.asarray(values, dtype=np.float64), minlength=len(names))
    counts = np.bincount(of, minlength=len(names)).astype(np.float64)
    draws = _draws(len(names), resamples, key)
    means: np.ndarray = (draws @ sums) / (draws @ counts)
    return means


def cluster_weights(clusters: Sequence[str], resamples: int, key: tuple[object, ...]) -> np.ndarray | None:
    """How often each item is drawn in each bootstrap sample over clusters. [resamples, n]; None with fewer than two."""
    names = sorted(set(clusters))
    if len(names) < 2 or resamples < 1:
        return None
    weights: np.ndarray = _draws(len(names), resamples, key)[:, _numbers(names, clusters)].astype(np.float64)
    return weights


def percentiles(found: np.ndarray, confidence: float) -> tuple[float, float]:
    """The percentile interval of a statistic over bootstrap samples."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(found, [tail, 1.0 - tail])
    return float(low), float(high)


def _numbers(names: Sequence[str], clusters: Sequence[str]) -> np.ndarray:
    index = {name: i for i, name in enumerate(names)}
    return np.fromiter((index[c] for c in clusters), dtype=np.int64, count=len(clusters))


def _draws(count: int, resamples: int, key: tuple[object, ...]) -> np.ndarray:
    return generator("bootstrap", *key).multinomial(count, np.full(count, 1.0 / count), size=resamples)


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key alone."""
    return np.random.default_rng(int(content_hash(*key)[:32], 16))
