"""How far apart are two sets of representations? A kernel two-sample distance, and how well a linear map tells them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def median_distance(points: np.ndarray) -> float:
    """Median Euclidean distance between different rows of [n, D]; 1 where it would be 0 or there is but one row."""
    import numpy as np
    from scipy.spatial.distance import pdist

    distances = pdist(np.asarray(points, dtype=np.float64))
    median = float(np.median(distances)) if len(distances) else 0.0
    return median or 1.0


def mmd2(x: np.ndarray, y: np.ndarray, bandwidth: float | None = None) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy with the kernel exp(-|a - b|^2 / (2 bandwidth^2)).

    Args:
        x: [n, D] representations, n >= 2. y: [m, D], m >= 2.
        bandwidth: None takes the median distance between rows of both sets together.

    Returns:
        About 0 for two samples of one distribution (it may be negative), at most 2.

    Raises:
        ValueError: Fewer than two rows in a set.

    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), lemma 6.
    """
    import numpy as np
    from scipy.spatial.distance import cdist

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        raise ValueError("the unbiased estimate needs at least two rows in each set")
    width = bandwidth if bandwidth is not None else median_distance(np.concatenate([x, y]))

    def kernel(a: Any, b: Any) -> Any:
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * width**2))

    # the diagonals hold exactly 1 each
    within = (kernel(x, x).sum() - n) / (n * (n - 1)) + (kernel(y, y).sum() - m) / (m * (m - 1))
    return float(within - 2 * kernel(x, y).mean())


def relative_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x - y| / |y| over the last axis; 0 where both are 0. [..., D] -> [...]"""
    import numpy as np

    far = np.linalg.norm(x.astype(np.float64) - y, axis=-1)
    size = np.linalg.norm(y.astype(np.float64), axis=-1)
    found: np.ndarray = far / np.maximum(size, np.finfo(np.float64).tiny)
    return found


def cosine_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 - cos(x, y) over the last axis; of a vector of length 0, which has no direction, 1. [..., D] -> [...]"""
    import numpy as np

    x, y = x.astype(np.float64), y.astype(np.float64)
    sizes = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    cosine = (x * y).sum(-1) / np.maximum(sizes, np.finfo(np.float64).tiny)
    found: np.ndarray = 1 - np.clip(cosine, -1, 1)  # equal vectors are no less than 0 apart
    return found


def linear_cka(x: np.ndarray, y: np.ndarray) -> float | None:
    """Linear centred kernel alignment of two sets of representations of the same n rows. [n, D], [n, E].

    |Y'X|^2 / (|X'X| |Y'Y|) with columns centred and Frobenius norms: 1 where one is the other up to rotation and scale.
    It is biased upwards where n is small against D, so compare it at equal n alone.

    Returns:
        None where the rows of a set are all equal.

    Source: Kornblith et al. 2019, arXiv 1905.00414 [recall].
    """
    import numpy as np

    x, y = (v.astype(np.float64) - v.mean(0, dtype=np.float64) for v in (x, y))
    if len(x) < min(x.shape[1], y.shape[1]):  # the same from the rows' products, which are smaller
        kernels = x @ x.T, y @ y.T
        across = float((kernels[0] * kernels[1]).sum())
        sizes = [float(np.linalg.norm(k)) for k in kernels]
    else:
        across = float(np.linalg.norm(y.T @ x) ** 2)
        sizes = [float(np.linalg.norm(v.T @ v)) for v in (x, y)]
    return across / (sizes[0] * sizes[1]) if min(sizes) > 0 else None


def classifier_accuracy(
    points: np.ndarray, labels: Sequence[int], groups: Sequence[str], folds: int = 5, seed: int = 0
) -> float | None:
    """Balanced accuracy of logistic regression on standardised representations, cross-validated by group.

    Args:
        points: [n, D]. labels: n class numbers.
        groups: n names; no group is in the training and the test part of a fold (such as subjects).
        folds: At most so many; fewer where a class has fewer groups.
        seed: Of the folds.

    Returns:
        Mean recall of the classes over all held-out predictions, 1 / classes at chance; None where a class has fewer
        than two groups.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y, g = np.asarray(labels), np.asarray(groups)
    fewest = min(len(set(g[y == label])) for label in set(y.tolist()))
    if fewest < 2 or len(set(y.tolist())) < 2:
        return None
    x = np.asarray(points, dtype=np.float64)
    splitter = StratifiedGroupKFold(n_splits=min(folds, fewest), shuffle=True, random_state=seed)
    predicted = np.empty_like(y)
    for train, test in splitter.split(x, y, g):
        if len(set(y[train].tolist())) < 2:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        predicted[test] = model.fit(x[train], y[train]).predict(x[test])
    return float(balanced_accuracy_score(y, predicted))
