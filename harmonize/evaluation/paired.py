"""Tests between two models that answered the same questions, and between two methods that ran with the same seeds.

Swapping the two sides turns every difference, interval and verdict around, and leaves every p as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harmonize.evaluation.intervals import cluster_means
from harmonize.tracking.direction import Better, Direction

ALPHA = 0.05
MCNEMAR = "McNemar, exact"
BOOTSTRAP = "paired bootstrap over subjects"


@dataclass(frozen=True)
class Paired:
    """Two models, A and B, on the same items.

    Attributes:
        n: Items. clusters: Subjects they are about.
        a, b: Means.
        low, high: Interval of b - a, by subjects; None with fewer than two of them.
        p: Two-sided, of no difference; None where no test is possible.
        test: Name of the test.
        only_a, only_b: Items that A alone, or B alone, scores higher on.
    """

    n: int
    clusters: int
    a: float
    b: float
    low: float | None
    high: float | None
    p: float | None
    test: str
    only_a: int
    only_b: int

    @property
    def difference(self) -> float:
        """The mean of B less that of A."""
        return self.b - self.a

    def better(self, better: Better, alpha: float = ALPHA) -> str:
        """`A`, `B`, or nothing: who is better, where the items can tell.

        Both must say so: p below `alpha` (exact, but it takes questions on one subject as independent), and an interval
        over subjects that leaves out 0. That two models differ says nothing where the best value lies between them. Our
        choice.
        """
        if self.p is None or self.p >= alpha or self.low is None or self.high is None:
            return ""
        way = Direction.of(better)
        if self.low <= 0 <= self.high or min(self.a, self.b) < way.best < max(self.a, self.b):
            return ""
        return "B" if way.merit(self.b) > way.merit(self.a) else "A"


def paired_test(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str],
    *,
    confidence: float = 1 - ALPHA,
    resamples: int = 2000,
    key: tuple[object, ...] = (),
) -> Paired:
    """Compares two models item by item.

    Scores that are all 0 or 1: McNemar's exact test on the items that tell the models apart. Any others: a bootstrap of
    the mean difference over subjects, p = twice the smaller share of draws on either side of 0 (a draw of exactly 0
    counts for both, and one draw is added to each side).

    Args:
        a, b: One score per item, of A and of B, in one order.
        clusters: The items' subjects.
        confidence, resamples, key: As in `cluster_interval`.

    Raises:
        ValueError: No item, or lists of different lengths.
    """
    if not a or not len(a) == len(b) == len(clusters):
        raise ValueError("paired_test needs as many scores of A as of B, and at least one")
    differences = [y - x for x, y in zip(a, b, strict=True)]
    only_b, only_a = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    means = cluster_means(differences, clusters, resamples=resamples, key=key)
    low = high = None
    if means is not None:
        low, high = map(float, np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]))
    if all(v in (0.0, 1.0) for v in (*a, *b)):
        test = MCNEMAR
        p: float | None = mcnemar(only_a, only_b)
    else:
        test, p = BOOTSTRAP, None if means is None else _two_sided(means)
    return Paired(
        n=len(a),
        clusters=len(set(clusters)),
        a=math.fsum(a) / len(a),
        b=math.fsum(b) / len(b),
        low=low,
        high=high,
        p=p,
        test=test,
        only_a=only_a,
        only_b=only_b,
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p of McNemar's test: of the items that tell two models apart, each is A's with chance 1/2.

    Formula: min(1, 2 P(X <= min(only_a, only_b))), X binomial (only_a + only_b, 1/2)

    Source: McNemar 1947, in its exact form.
    """
    from scipy.special import bdtr  # of scipy.stats, which has the test, the import alone takes over a second

    n = only_a + only_b
    return min(1.0, 2.0 * float(bdtr(min(only_a, only_b), n, 0.5))) if n else 1.0


def paired_t(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t test; None with fewer than two differences.

    Differences that are all the same leave no doubt: p is 1 where they are 0, and 0 elsewhere.
    """
    from scipy.special import stdtr

    n = len(differences)
    if n < 2:
        return None
    mean = math.fsum(differences) / n
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    if variance <= (1e-9 * max(1e-3, abs(mean))) ** 2:  # rounding is no spread
        return 1.0 if abs(mean) < 1e-12 else 0.0
    return 2.0 * float(stdtr(n - 1, -abs(mean) / math.sqrt(variance / n)))


def _two_sided(means: np.ndarray) -> float:
    below, above = int((means <= 0).sum()), int((means >= 0).sum())
    return min(1.0, 2.0 * (1 + min(below, above)) / (len(means) + 1))
