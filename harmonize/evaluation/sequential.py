"""Summaries of a sequence of deletion requests: pure functions of figures taken after each request.

Steps count from 0, the untouched model; request k (from 1) is asked for at step k.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from harmonize.tracking.metric import Metric

BETA = 0.5


def pooled(metrics: Iterable[Metric | None]) -> float | None:
    """One mean over the items of several metrics: each weighs as many items as it has; None if any is not measured."""
    found = list(metrics)
    if not found or any(m is None or m.value is None for m in found):
        return None
    items = sum(m.n for m in found if m is not None)
    return sum(m.value * m.n for m in found if m is not None and m.value is not None) / items


def fit_score(probability: float, rouge_l: float, token_accuracy: float) -> float:
    """FIT's figure of a set: the cube root of the product of its mean answer probability, ROUGE-L and token accuracy.

    Args, returns: In [0, 1].

    Source: FIT, arXiv 2601.21682; the authors' evaluator (which gives percent, and in the stored version hands the
    accuracies of the two sets over in the wrong order; here each set has its own).
    """
    return math.pow(max(0.0, probability * rouge_l * token_accuracy), 1 / 3)


def fit_closeness(value: float, reference: float) -> float:
    """FIT's forget degree (of the forget sets' figure) and retain utility (of the retain set's): max(0, 1 - |v/r - 1|).

    1 where the model is as the reference, a model that never saw what was asked for; less on both sides of it. 0 for
    a reference of 0.

    Source: FIT, arXiv 2601.21682; the authors' evaluator. Theirs moves the reference along a line from the untouched
    model (no request) to the retain model (after the last); ours is the retain model (`model.gold`) after every
    request, so that forgetting at once is not held against a model. After the last request both are the same.
    """
    return 0.0 if reference == 0 else max(0.0, 1.0 - abs(value / reference - 1.0))


def deviation_score(forget: float, retain: float) -> float:
    """Distance from having forgotten all and kept all: sqrt(forget^2 + (1 - retain)^2); lower is better.

    Args:
        forget, retain: ROUGE-L in [0, 1] of the answers to forget and to retain questions.

    Returns:
        In [0, sqrt 2].

    Source: Shen et al. 2025 (LUNAR, arXiv 2502.07218, with ROUGE-1) as used in DRAGON, arXiv 2511.05784, appendix
    C.2.1, which prints it times 100. Recall is our choice.
    """
    return math.hypot(forget, 1.0 - retain)


def dynamic_deviation(scores: Sequence[float], beta: float = BETA) -> float | None:
    """DRAGON's DDS: the mean of the steps' deviation scores, plus beta times the mean of their rises; lower is better.

    Args:
        scores: s_1 ... s_T, after each request. beta: 0.5 in the paper.

    Returns:
        None for fewer than two steps, where there is no rise to speak of.

    Source: arXiv 2511.05784, equation 1. Its table 3 follows from its table 2 to four digits by this function.
    """
    if len(scores) < 2:
        return None
    rises = sum(max(0.0, b - a) for a, b in pairwise(scores))
    return sum(scores) / len(scores) + beta * rises / (len(scores) - 1)


def dynamic_utility(utilities: Sequence[float]) -> float | None:
    """DRAGON's DUS: 1 minus the mean absolute change of utility from request to request; higher is better.

    A utility that is lost at the first request and stays lost scores 1: read it beside the utility itself.

    Args:
        utilities: u_1 ... u_T, after each request (TOFU's model utility there; here `utility_accuracy`).

    Returns:
        None for fewer than two steps.

    Source: arXiv 2511.05784, equation 2, checked like DDS.
    """
    if len(utilities) < 2:
        return None
    changes = sum(abs(b - a) for a, b in pairwise(utilities))
    return 1.0 - changes / (len(utilities) - 1)


def came_back(curves: Sequence[Sequence[float]]) -> float | None:
    """How much of earlier requests later ones brought back: mean of (accuracy after the last request - after its own).

    Args:
        curves: For each request, in order, its forget accuracy at steps 0 ... N.

    Returns:
        Above 0 where forgotten things came back; None with fewer than two requests.

    Source: ours; backward transfer of continual learning, with the sign of forgetting.
    """
    last = len(curves)
    changes = [curve[last] - curve[k] for k, curve in enumerate(curves[:-1], 1)]
    return sum(changes) / len(changes) if changes else None


def kept_until_asked(curves: Sequence[Sequence[float]]) -> float | None:
    """What the model still knew of each request right before it was asked for: mean accuracy at step k - 1, k > 1.

    Args:
        curves: As in `came_back`.

    Returns:
        None with fewer than two requests.

    Source: ours.
    """
    found = [curve[k - 1] for k, curve in enumerate(curves, 1) if k > 1]
    return sum(found) / len(found) if found else None
