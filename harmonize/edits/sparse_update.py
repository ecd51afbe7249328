"""Sparse update: of what training changed, only the largest entries stay, or only they go."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from harmonize.config.rules import checked, one_of, present
from harmonize.config.rules import share as share_rule
from harmonize.edits.inputs import Changes, State, floating, like

PARTS: tuple[str, ...] = ("largest", "rest")


def _problems(cfg: Any) -> list[str]:
    node = present(cfg.edit)
    return share_rule("edit.share", node.get("share", 0.1)) + one_of(
        "edit.keep", node.get("keep", "largest"), PARTS
    )


@checked(_problems)
def sparse_update(
    start: State, weights: State, *, share: float = 0.1, keep: Literal["largest", "rest"] = "largest"
) -> Changes:
    """Entries of theta - theta_0 are kept or undone by their size, tensor by tensor.

    Formula: theta where |theta - theta_0| is among the largest share of its tensor, else theta_0 (keep=rest: reversed)

    Args:
        start: theta_0.
        weights: theta, the weights now.
        share: Share of the entries of a tensor that are its largest; entries as large as the smallest of them count in.
        keep: `largest` undoes all others; `rest` undoes the largest ones.

    Source: `largest` after the sparse updates of arXiv 2410.21750, `rest` after the pruning of the largest entries in
        arXiv 2504.09522; both derived from their abstracts. The shares are ours.
    """
    for name, weight in floating(weights, start):
        base = like(start[name], weight)
        large = largest((weight.float() - base).abs(), share)
        yield name, torch.where(large if keep == "largest" else ~large, weight, base.to(weight.dtype))


def largest(values: Tensor, share: float) -> Tensor:
    """Which entries are among the largest `share` of a tensor, ties at the bound included. Same shape, bool."""
    count = round(share * values.numel())
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    # on the CPU: CUDA's kthvalue is refused where deterministic algorithms are asked for, as the trainer does
    bound = values.flatten().cpu().kthvalue(values.numel() - count + 1).values
    return values >= bound.to(values.device)
