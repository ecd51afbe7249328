"""TOFU's figures (arXiv 2401.06121): truth ratio, forget quality, model utility. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

GEOMETRIC, ARITHMETIC = "geometric", "arithmetic"
MEANS = (GEOMETRIC, ARITHMETIC)


def truth_ratio(true: float, wrong: Sequence[float], mean: str = GEOMETRIC) -> float:
    """How likely wrong answers are beside the true one: mean of P(wrong)^(1/tokens) over P(true)^(1/tokens).

    Below 1 the model prefers the truth; about 1 it cannot tell.

    Args:
        true: Mean log-probability of the (paraphrased) true answer, in nats. wrong: Of each wrong answer.
        mean: Over the wrong answers: `geometric`, as in the authors' code, or `arithmetic`, as in the paper's equation.

    Raises:
        ValueError: No wrong answer, or an unknown mean.

    Source: arXiv 2401.06121, section 2.2.2, and its authors' code (which computes the inverse).
    """
    if not wrong:
        raise ValueError("truth_ratio needs a wrong answer")
    if mean not in MEANS:
        raise ValueError(f"mean={mean}: expected one of {MEANS}")
    if mean == GEOMETRIC:
        return _exp(sum(wrong) / len(wrong) - true)
    return sum(_exp(w - true) for w in wrong) / len(wrong)


def closeness_to_one(ratio: float) -> float:
    """min(R, 1 / R): 1 where true and wrong answers are equally likely. What TOFU averages over the forget set."""
    return min(ratio, 1.0 / ratio) if ratio > 0 else 0.0


def preference_for_truth(ratio: float) -> float:
    """max(0, 1 - R): 1 where wrong answers have no probability. What TOFU averages over the other sets."""
    return max(0.0, 1.0 - ratio)


def option_probability(true: float, wrong: Sequence[float]) -> float:
    """P(true)^(1/tokens) over the sum of it and those of the wrong answers: TOFU's probability of its general sets.

    Args:
        true, wrong: Mean log-probabilities, in nats.
    """
    best = max(true, *wrong)
    own = math.exp(true - best)
    return own / (own + sum(math.exp(w - best) for w in wrong))


class ForgetQuality(NamedTuple):
    """A two-sample Kolmogorov-Smirnov test: the statistic and log10 of its p-value."""

    statistic: float
    log10_p: float


def forget_quality(model: Sequence[float], retain: Sequence[float]) -> ForgetQuality:
    """Can the model's truth ratios on the forget set be told from those of a model that never saw it?

    Args:
        model, retain: Truth ratios of one question each. Any monotone form of them gives the same.

    Returns:
        log10 p: 0 = indistinguishable. It falls with the number of questions, which belongs beside it. Where p is too
        small for a floating-point number, the leading term of its asymptotic distribution is given.

    Raises:
        ValueError: An empty sample.

    Source: arXiv 2401.06121, section 2.2.3; scipy's `ks_2samp`, as in its authors' code.
    """
    from scipy.stats import ks_2samp

    if not model or not retain:
        raise ValueError("forget_quality needs truth ratios of both models")
    found = ks_2samp(list(model), list(retain))
    statistic, p = float(found.statistic), float(found.pvalue)
    if p > 0:
        return ForgetQuality(statistic, math.log10(min(1.0, p)))
    size = len(model) * len(retain) / (len(model) + len(retain))
    return ForgetQuality(statistic, (math.log(2) - 2 * size * statistic**2) / math.log(10))


def model_utility(figures: Sequence[float]) -> float:
    """Harmonic mean of TOFU's nine figures (probability, ROUGE-L recall and truth ratio of three sets); 0 if any is 0.

    Raises:
        ValueError: No figure.

    Source: arXiv 2401.06121, section 2.2.1; scipy's `hmean`, as in its authors' code.
    """
    from scipy.stats import hmean

    if not figures:
        raise ValueError("model_utility needs figures")
    return 0.0 if min(figures) <= 0 else float(hmean(list(figures)))


def model_utility_draws(figures: Sequence[np.ndarray]) -> np.ndarray:
    """`model_utility` of each bootstrap sample. Nine arrays [R] -> [R]."""
    import numpy as np

    table = np.stack(list(figures))
    with np.errstate(divide="ignore"):
        inverse = np.where(table > 0, 1.0 / np.maximum(table, np.finfo(float).tiny), np.inf).mean(0)
    found: np.ndarray = 1.0 / inverse
    return found


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
