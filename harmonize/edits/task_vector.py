"""Task-vector negation: what fine-tuning on the forget data adds to the weights is taken off."""

from __future__ import annotations

from typing import Any

from harmonize.config.rules import checked, finite, present
from harmonize.edits.inputs import Changes, State, floating, like


def _problems(cfg: Any) -> list[str]:
    return finite("edit.alpha", present(cfg.edit).get("alpha", 1.0))


@checked(_problems)
def task_vector(start: State, weights: State, forget_weights: State, *, alpha: float = 1.0) -> Changes:
    """Takes alpha (theta_forget - theta_0) off theta.

    Formula: theta - alpha tau_f
    Needs: forget checkpoint; the start model fine-tuned on forget rows
    Costs: that fine-tuning, once for all runs of a seed

    Args:
        start: theta_0.
        weights: theta, the weights now: theta_0 itself where the method trains nothing.
        forget_weights: theta_forget, the start model fine-tuned on the forget answers (`edit.inputs.weights`).
        alpha: Scale of the vector; 0 changes nothing.

    Source: arXiv 2212.04089; alpha = 1 as in the code of DUSK (arXiv 2505.15209). Its TAU takes the vector at the
        model that selective gradient ascent gave: two runs, the second with `method=task_vector` from the first one's
        model. As an edit after another method in one run the vector is that of the start model (our choice).
    """
    for name, weight in floating(weights, start, forget_weights):
        vector = like(forget_weights[name], weight) - like(start[name], weight)
        yield name, (weight.float() - alpha * vector).to(weight.dtype)
