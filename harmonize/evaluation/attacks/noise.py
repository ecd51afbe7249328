"""Noise on the weights: a suppression that hangs on exact values does not survive it, knowledge does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harmonize.config.rules import positive
from harmonize.errors import ConfigError
from harmonize.evaluation.attacks.texts import check_counts
from harmonize.evaluation.attacks.weights import WeightAttack


@dataclass(frozen=True, kw_only=True)
class Noise(WeightAttack):
    """Gaussian noise on every matrix, in units of its own standard deviation; worst of several draws.

    A draw is a function of its number and the matrix's name.

    Formula: w' = w + scale std(w) e, e ~ N(0, 1)
    Costs: an answer per scale and draw to one question

    Args:
        scales: Standard deviations of the noise, in those of the matrix. draws: Draws at each scale.

    Source: our choice.
    """

    scales: tuple[float, ...] = (0.05, 0.1)
    draws: int = 2
    name: str = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self.name, draws=self.draws)
        if problems := [p for s in self.scales for p in positive(f"attack.{self.name}.scales", s)]:
            raise ConfigError(problems)

    @property
    def changes(self) -> dict[str, Callable[[str, Tensor], Tensor]]:
        """One stage per scale and draw."""
        return {f"{s:g}-{n}": partial(_noisy, s, n) for s in self.scales for n in range(self.draws)}


def _noisy(scale: float, draw: int, name: str, weight: Tensor) -> Tensor:
    digest = hashlib.blake2b(f"{name}\x1f{draw}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    noise = torch.randn(weight.shape, generator=generator).to(weight.device)
    return weight + scale * weight.std() * noise
