"""Quantisation: the weights rounded to a few bits, as many who deploy a model do anyway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harmonize.errors import ConfigError
from harmonize.evaluation.attacks.texts import check_counts
from harmonize.evaluation.attacks.weights import WeightAttack

BITS = (2, 3, 4, 5, 6, 7, 8)


def round_trip(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """Quantises and dequantises: symmetric, round to nearest, the largest absolute value of a group at full scale.

    Args:
        weight: [out, in] float32.
        bits: Levels are the whole numbers from -(2 ** (bits - 1) - 1) to 2 ** (bits - 1) - 1.
        group: Inputs that share a scale; None = all inputs of an output. The last group may be smaller.

    Returns:
        [out, in] float32.
    """
    top = 2 ** (bits - 1) - 1
    width = weight.shape[1]
    size = width if group is None else min(group, width)
    parts = []
    for part in weight.split(size, dim=1):
        scale = part.abs().amax(dim=1, keepdim=True) / top
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        parts.append((part / scale).round().clamp(-top, top) * scale)
    return torch.cat(parts, dim=1)


@dataclass(frozen=True, kw_only=True)
class Quantize(WeightAttack):
    """Weight-only quantisation of every matrix of the blocks, simulated: rounded and turned back to floats.

    int8 has one scale per output, fewer bits one per group of inputs. What is stored, and kernels, are not imitated.

    Formula: w' = s round(w / s), s = max |w| / (2^(bits - 1) - 1), the maximum over a group
    Costs: an answer per width to one question

    Args:
        bits: Widths. group: Inputs that share a scale, below 8 bits.

    Source: arXiv 2410.16454 (abstract): 4 bits bring back what unlearning with small updates hid. Its quantisers are
        others'; round to nearest with these groups is ours.
    """

    bits: tuple[int, ...] = (8, 4)
    group: int = 32
    name: str = "quantize"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self.name, group=self.group)
        if wrong := [b for b in self.bits if b not in BITS]:
            raise ConfigError(
                f"attack.{self.name}.bits: {wrong[0]} is not between 2 and 8. Use attack.{self.name}.bits=[8,4]."
            )

    @property
    def changes(self) -> dict[str, Callable[[str, Tensor], Tensor]]:
        """One stage per width."""
        return {f"int{b}": partial(_rounded, b, None if b == 8 else self.group) for b in self.bits}


def _rounded(bits: int, group: int | None, name: str, weight: Tensor) -> Tensor:
    return round_trip(weight, bits, group)
