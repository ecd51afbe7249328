"""Selective synaptic dampening: weights that matter to the forget data far more than to the rest are made smaller."""

from __future__ import annotations

from typing import Any

import torch

from harmonize.config.rules import checked, positive, present, share
from harmonize.edits.inputs import Changes, State, floating, like


def _problems(cfg: Any) -> list[str]:
    node = present(cfg.edit)
    problems = positive("edit.alpha", node.get("alpha", 10.0))
    dampening = node.get("dampening", 1.0)
    return problems + (
        positive("edit.dampening", dampening) if dampening else share("edit.dampening", dampening)
    )


@checked(_problems)
def ssd(
    weights: State, forget_fisher: State, retain_fisher: State, *, alpha: float = 10.0, dampening: float = 1.0
) -> Changes:
    """Multiplies w by min(1, dampening I_r / I_f) where I_f > alpha I_r; elsewhere, or without a Fisher, w stays.

    Formula: theta min(1, dampening I_r / I_f) where I_f > alpha I_r, else theta
    Needs: Fisher diagonals; of the start model, over forget and retain rows
    Costs: one forward and backward pass for each of those rows, once for all runs

    Args:
        weights: The weights now.
        forget_fisher, retain_fisher: I_f and I_r, Fisher diagonals of the start model. `edit.roles.retain` says whose
            rows I_r is of, `edit.inputs.fisher` how they are taken (`layers` restricts the edit to some tensors).
        alpha: How many times as important a weight must be to the forget data. A large one changes nothing.
        dampening: Lambda of the source; 0 sets the chosen weights to zero.

    Source: arXiv 2308.07707 and its code (rule and lambda = 1; its alpha is 10 times a factor per architecture). There
        I_r is over the whole training data, forget data included, and both are squares of gradients of batch means
        (`edit.roles.retain=[forget,neighbor,retain]`, `edit.inputs.fisher.group_rows=64`). Squares of the gradients of
        single rows, of retain data alone, and importance taken at the start of a run whose method trains before the
        edit are our choice.
    """
    for name, weight in floating(weights, forget_fisher, retain_fisher):
        forget, retain = like(forget_fisher[name], weight), like(retain_fisher[name], weight)
        chosen = forget > alpha * retain
        factor = (dampening * retain / torch.where(chosen, forget, 1.0)).clamp(max=1.0)
        yield name, (weight.float() * torch.where(chosen, factor, 1.0)).to(weight.dtype)
