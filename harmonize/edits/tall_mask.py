"""TALL masks for negation: of a forget task vector, only what the retain data does not use is taken off."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harmonize.config.rules import checked, finite, present
from harmonize.edits.inputs import Changes, State, floating, like


def _problems(cfg: Any) -> list[str]:
    node = present(cfg.edit)
    problems = finite("edit.alpha", node.get("alpha", 1.0))
    threshold = node.get("threshold", 0.4)
    problems += finite("edit.threshold", threshold)
    if not problems and threshold < 0:
        problems.append(f"edit.threshold={threshold}: expected 0 or more. For example edit.threshold=0.4.")
    return problems


@checked(_problems)
def tall_mask(
    start: State,
    weights: State,
    forget_weights: State,
    retain_weights: State,
    *,
    alpha: float = 1.0,
    threshold: float = 0.4,
) -> Changes:
    """Takes alpha tau_f off where mask_f and not mask_r, with tau_t = theta_t - theta_0 and `masks`.

    Formula: theta - alpha tau_f where |tau_f| > threshold |tau_r| and not |tau_r| > threshold |tau_f|, else theta
    Needs: forget and retain checkpoints; the start model fine-tuned on each
    Costs: these two fine-tunings, once for all runs of a seed

    Args:
        start: theta_0.
        weights: theta, the weights now.
        forget_weights, retain_weights: theta_f and theta_r, the start model fine-tuned on the forget and on the retain
            answers (`edit.inputs.weights`, `edit.roles`).
        alpha: Scale of what is taken off.
        threshold: Lambda of the masks. The smaller, the more entries count as used by both, which stay.

    Source: the masks are those of arXiv 2405.07813 and its code, which chooses lambda in 0.2 to 0.6 on validation data;
        0.4 is the middle. Taking off the entries that are selfish to the forget task is derived, as is the use of two
        tasks.
    """
    for name, weight in floating(weights, start, forget_weights):
        base = like(start[name], weight)
        forget = like(forget_weights[name], weight) - base
        retain = like(retain_weights.get(name, start[name]), weight) - base
        used, kept = masks(forget, retain, threshold)
        yield name, (weight.float() - alpha * forget * (used & ~kept)).to(weight.dtype)


def masks(forget: Tensor, retain: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """TALL masks of two task vectors: |tau_t| > lambda |tau_f + tau_r - tau_t|.

    Args:
        forget, retain: tau_f and tau_r, of one shape.
        threshold: Lambda.

    Returns:
        Which entries the forget task uses, and which the retain task uses.
    """
    return forget.abs() > threshold * retain.abs(), retain.abs() > threshold * forget.abs()
