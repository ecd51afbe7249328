"""Was this text trained on? Scores of single texts (higher = more likely a member), and what is made of two sets.

All but the gradient norm are pure functions of one forward pass (`TokenRow`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harmonize.evaluation.intervals import cluster_weights, open_end, percentiles
from harmonize.evaluation.one_pass import TokenRow
from harmonize.evaluation.scores.memorization import mean_log_prob

if TYPE_CHECKING:
    import numpy as np

VARIANCE_FLOOR = 1e-6


def loss_score(row: TokenRow) -> float:
    """Mean log-probability: minus the loss.

    Source: Yeom et al. 2018, arXiv 1709.01604.
    """
    return mean_log_prob(row)


def zlib_score(row: TokenRow, text: str) -> float:
    """Mean log-probability per byte of the zlib-compressed text.

    Raises:
        ValueError: An empty text.

    Source: Carlini et al. 2021, arXiv 2012.07805 (code of min-k++ and RWKU: mean, not summed, log-probability).
    """
    if not text:
        raise ValueError("zlib_score needs a text")
    return mean_log_prob(row) / len(zlib.compress(text.encode("utf-8")))


def reference_score(row: TokenRow, reference: float) -> float:
    """Mean log-probability above that of a reference model that never saw the text.

    Args:
        reference: The reference model's `loss_score` of the same text.

    Source: Carlini et al. 2021, arXiv 2012.07805; difference of losses as in open-unlearning.
    """
    return mean_log_prob(row) - reference


def min_k_score(row: TokenRow, k: float = 0.2) -> float:
    """Mean log-probability of the share k of the tokens that is least likely; of one token at least.

    Source: Shi et al. 2024, arXiv 2310.16789 (code of min-k++, MUSE and RWKU, where a text too short for one token
        gives no number; one at least as in open-unlearning).
    """
    return _lowest(row.log_probs, k)


def min_k_plus_plus_score(row: TokenRow, k: float = 0.2) -> float:
    """As min-k, of log-probabilities standardised by their mean and deviation under the model's own distribution.

    Source: Zhang et al. 2024, arXiv 2404.02936 (code; a variance below 1e-6 counts as 1e-6, as in open-unlearning).
    """
    import numpy as np

    spread = np.sqrt(np.maximum(row.variances, VARIANCE_FLOOR))
    return _lowest((row.log_probs - row.means) / spread, k)


def _lowest(values: np.ndarray, k: float) -> float:
    import numpy as np

    count = max(1, int(len(values) * k))
    return float(np.sort(values)[:count].mean())


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Area under the ROC curve: the chance that a member scores above another text, ties counting half.

    1 = members are told apart perfectly, 0.5 = not at all.

    Raises:
        ValueError: An empty set.

    Source: scikit-learn's `roc_auc_score`.
    """
    from sklearn.metrics import roc_auc_score

    if not members or not others:
        raise ValueError("auc needs at least one text in either set")
    labels = [1] * len(members) + [0] * len(others)
    return float(roc_auc_score(labels, [*members, *others]))


def auc_interval(
    members: Sequence[float],
    others: Sequence[float],
    member_clusters: Sequence[str],
    other_clusters: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    key: tuple[object, ...],
) -> tuple[float, float] | None:
    """Percentile interval of the AUC; whole clusters are drawn with replacement in either set.

    Returns:
        (low, high), or None where a set has fewer than two clusters. Where the sets are told apart perfectly, either
        way, no sample differs; the open end is then that of as many independent pairs as the smaller set has clusters,
        since so many can be formed of which none shares a text (Clopper and Pearson 1934).
    """
    import numpy as np

    left = cluster_weights(member_clusters, resamples, (*key, "members"))
    right = cluster_weights(other_clusters, resamples, (*key, "others"))
    if left is None or right is None:
        return None
    a, b = np.asarray(members), np.asarray(others)
    wins = (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])
    if wins.min() == wins.max() != 0.5:
        width = open_end(min(len(set(member_clusters)), len(set(other_clusters))), confidence)
        return (1.0 - width, 1.0) if wins.min() == 1 else (0.0, width)
    areas = ((left @ wins) * right).sum(1) / (left.sum(1) * right.sum(1))
    return percentiles(areas, confidence)


def priv_leak(area: float, reference: float) -> float:
    """MUSE's PrivLeak in percent: the relative difference of the model's AUC from that of a model retrained without.

    Both AUCs are turned round first (1 - AUC), since MUSE calls the texts that were *not* trained on positive. 0 = as
    a model that never saw the forget set; negative = the forget set still shows (-100 = perfectly); positive = it
    stands out as forgotten.

    Args:
        area: AUC of forget against holdout texts, forget as members.
        reference: The same of the retrained model.

    Returns:
        Percent; infinite where the reference tells them perfectly, 0 where both do.

    Source: MUSE, arXiv 2407.06460, section 3.1 (code; min-k at k = 0.4).
    """
    turned, base = 1.0 - area, 1.0 - reference
    if base == 0.0:
        return 0.0 if turned == 0.0 else float("inf")
    return 100.0 * (turned - base) / base
