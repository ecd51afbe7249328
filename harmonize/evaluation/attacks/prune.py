"""Pruning: the smallest weights set to zero, which may undo the small changes that hide knowledge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from harmonize.config.rules import share
from harmonize.errors import ConfigError
from harmonize.evaluation.attacks.weights import WeightAttack


def pruned(weight: Tensor, part: float) -> Tensor:
    """The weight with that share of its entries, the smallest in absolute value, set to zero; ties go by place."""
    count = int(part * weight.numel())
    if not count:
        return weight
    flat = weight.flatten().clone()
    flat[flat.abs().argsort(stable=True)[:count]] = 0.0
    return flat.view_as(weight)


@dataclass(frozen=True, kw_only=True)
class Prune(WeightAttack):
    """Unstructured magnitude pruning, matrix by matrix.

    Costs: an answer per share to one question

    Args:
        shares: Shares of each matrix that are set to zero.

    Source: our choice; pruning as a way to bring back what was unlearned is reported in arXiv 2409.18025 (recalled,
        not read), which prunes neurons.
    """

    shares: tuple[float, ...] = (0.1, 0.3)
    name: str = "prune"

    def __post_init__(self) -> None:
        super().__post_init__()
        if problems := [p for s in self.shares for p in share(f"attack.{self.name}.shares", s)]:
            raise ConfigError(problems)

    @property
    def changes(self) -> dict[str, Callable[[str, Tensor], Tensor]]:
        """One stage per share."""
        return {f"{s:g}": partial(_pruned, s) for s in self.shares}


def _pruned(part: float, name: str, weight: Tensor) -> Tensor:
    return pruned(weight, part)
