"""Layer boost: the layers that training changed most are changed more."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from harmonize.config.rules import checked, finite, one_of, present, share
from harmonize.edits.inputs import Changes, State, block_of, floating, like

UNITS: tuple[str, ...] = ("matrix", "block")


def _problems(cfg: Any) -> list[str]:
    node = present(cfg.edit)
    return (
        share("edit.share", node.get("share", 0.25))
        + finite("edit.factor", node.get("factor", 1.75))
        + one_of("edit.unit", node.get("unit", "matrix"), UNITS)
    )


@checked(_problems)
def layer_boost(
    start: State,
    weights: State,
    *,
    share: float = 0.25,
    factor: float = 1.75,
    unit: Literal["matrix", "block"] = "matrix",
) -> Changes:
    """In the layers with the largest change: theta <- theta_0 + factor (theta - theta_0).

    With adapters the change of a layer is what its adapter adds; after full training, the difference of its weights.

    Formula: theta_0 + factor (theta - theta_0) in the share of layers with the largest |theta - theta_0|, else theta

    Args:
        start: theta_0.
        weights: theta, the weights now.
        share: Share of the layers that are boosted, at least one of them (0: none), by the Frobenius norm of their
            change. Layers that did not change do not count.
        factor: 1 changes nothing, below 1 goes back.
        unit: What a layer is: a `matrix` of a transformer block (a linear layer), or a whole `block`. Embedding and
            output layer are none.

    Source: arXiv 2604.23750 through a note (ranking by norm, 1.75 on the top 25 %), for adapters that add knowledge;
        its use on adapters that remove some is derived, its use after full training ours.
    """
    changes: dict[str, float] = {}
    for name, weight in floating(weights, start):
        if (layer := _layer(name, weight, unit)) is not None:
            moved = float((weight.float() - like(start[name], weight)).square().sum())
            changes[layer] = changes.get(layer, 0.0) + moved
    ranked = sorted((layer for layer, moved in changes.items() if moved > 0), key=lambda n: (-changes[n], n))
    count = max(1, round(share * len(ranked))) if share else 0
    boosted = set(ranked[:count])
    for name, weight in floating(weights, start):
        if _layer(name, weight, unit) in boosted:
            base = like(start[name], weight)
            yield name, (base + factor * (weight.float() - base)).to(weight.dtype)


def _layer(name: str, weight: Tensor, unit: str) -> str | None:
    block = block_of(name)
    if unit == "block" or block is None:
        return block
    return name if weight.dim() > 1 else None
