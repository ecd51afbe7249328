"""What a logit lens reads of one answer: pure functions of log-probabilities and ranks by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Reading:
    """One answer of K scored tokens read after every layer, 0 to L.

    Attributes:
        log_probs: [L + 1, K] of the tokens (natural).
        ranks: [L + 1, K] how many tokens are likelier; 0 = the likeliest.
    """

    log_probs: np.ndarray
    ranks: np.ndarray

    @property
    def depth(self) -> int:
        """L."""
        return len(self.ranks) - 1

    @property
    def probability(self) -> np.ndarray:
        """[L + 1] geometric mean of the tokens' probabilities, P(answer)^(1/K)."""
        found: np.ndarray = np.exp(self.log_probs.mean(1))
        return found

    @property
    def rank(self) -> np.ndarray:
        """[L + 1] of the first scored token."""
        first: np.ndarray = self.ranks[:, 0]
        return first

    @property
    def whole(self) -> np.ndarray:
        """[L + 1] bool: every scored token is the likeliest."""
        found: np.ndarray = (self.ranks == 0).all(1)
        return found


def decodable(found: np.ndarray) -> float:
    """1 where any layer below the last has it, else 0. [L + 1] bool."""
    return float(found[:-1].any())


def earliest(found: np.ndarray) -> int | None:
    """The earliest layer that has it, the last one included; None where none does. [L + 1] bool."""
    return int(found.argmax()) if found.any() else None
