"""Objectives on the matrices of adapters: which parts of the model may change at all.

Layer names are those of the model; the first number in one is its transformer block's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from harmonize.errors import ConfigError
from harmonize.objectives.weights import Adapters, reported

Groups = Literal["block", "module", "matrix"]
_BLOCK = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def grouped(adapters: Adapters, groups: Groups) -> dict[str, list[Tensor]]:
    """Matrices by group: a group's name to its [r, in] and [out, r] tensors.

    Args:
        adapters: Layer to its adapter.
        groups: `block`: all matrices of a transformer block; `module`: the two of a layer; `matrix`: each alone.

    Raises:
        ConfigError: Another rule.
    """
    if groups not in ("block", "module", "matrix"):
        raise ConfigError(f"groups={groups!r} is unknown; use groups=block, groups=module or groups=matrix.")
    found: dict[str, list[Tensor]] = {}
    for layer, adapter in adapters.items():
        block = _BLOCK.search(layer)
        for letter, matrix in (("a", adapter.a), ("b", adapter.b)):
            name = {
                "block": block.group(1) if block else layer,  # outside all blocks a layer stands for itself
                "module": layer,
                "matrix": f"{layer}.{letter}",
            }[groups]
            found.setdefault(name, []).append(matrix)
    return found


def nonzero_groups(
    adapters: Adapters, *, groups: Groups = "block", zero_below: float = 1e-3
) -> dict[str, float]:
    """How many groups are left: those whose root mean square entry is not below `zero_below`.

    Arguments are those of `group_sparsity`.
    """
    found = grouped(adapters, groups).values()
    sizes = [
        (sum(float(m.detach().float().square().sum()) for m in g), sum(m.numel() for m in g)) for g in found
    ]
    left = sum((square / count) ** 0.5 >= zero_below for square, count in sizes)
    return {"groups": float(len(sizes)), "nonzero_groups": float(left), "zero_below": float(zero_below)}


@reported(nonzero_groups)
def group_sparsity(adapters: Adapters, *, groups: Groups = "block", zero_below: float = 1e-3) -> Tensor:
    """Group lasso: the sum over groups of sqrt(sum of squares of all their matrices), which empties whole groups.

    Formula: sum over groups g of sqrt(sum over A, B of g of |A|^2 + |B|^2)

    Plain (sub)gradients, as in the published code: a group comes close to zero and is never set to it. A group that is
    zero has gradient zero.

    Args:
        adapters: Layer to its adapter; the matrices as they are, without the scaling.
        groups: `block` (all matrices of a transformer block), `module` (the two of a layer) or `matrix`.
        zero_below: Root mean square entry below which a group counts as zero in the reported figures (our choice; the
            value does not depend on it).

    Returns:
        A scalar, fp32.

    Source: GS-LoRA, arXiv 2403.11530 and 2501.09705 (code: adapters on the FFN, groups of a block, weight 1e-4).
    """
    # a norm of norms, whose gradient at zero is zero where that of a square root is not finite
    norms = [
        torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(m.float()) for m in matrices]))
        for matrices in grouped(adapters, groups).values()
    ]
    return torch.stack(norms).sum()


def representation_orthogonality(
    adapters: Adapters, retain_subspace: Mapping[str, Tensor], *, rank: int = 128
) -> Tensor:
    """Keeps what adapters write off the directions that retain rows' outputs lie along.

    Formula: sum over layers of |B^T P|^2, P = rank principal directions of the layer's outputs on retain rows

    Args:
        adapters: Layer to its adapter.
        retain_subspace: Layer to P [out, k], orthonormal.
        rank: k, at most the layer's outputs; with all of them this is the square of B alone.

    Returns:
        A scalar, fp32.

    Source: REGLU's representation orthogonal loss, arXiv 2604.17396 (code: rank 128, weight 0.5, all adapted layers).
    """
    parts = [
        (adapter.b.float().T @ retain_subspace[layer]).square().sum() for layer, adapter in adapters.items()
    ]
    return torch.stack(parts).sum()
