"""The loss around a text: how it rises when tokens are replaced. Pure functions of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Landscape:
    """Figures of one text.

    Attributes:
        loss: Of the text itself (mean over its scored tokens, natural logarithm).
        rise: Mean of the loss of perturbed texts minus `loss`. spread: Standard deviation of these differences.
        steepest: The largest of them.
        slope: Of a straight line through them over the number of replaced tokens (least squares; the text itself is
            the point 0, 0). curvature: Twice the quadratic coefficient of a parabola through the same points, the
            second derivative; 0 where fewer than three numbers of tokens, 0 included, were tried.
    """

    loss: float
    rise: float
    spread: float
    steepest: float
    slope: float
    curvature: float

    def features(self) -> list[float]:
        """As a classifier reads them."""
        return [float(getattr(self, f.name)) for f in fields(self)]


NAMES: tuple[str, ...] = tuple(f.name for f in fields(Landscape))


def landscape(loss: float, around: Mapping[int, Sequence[float]]) -> Landscape:
    """Figures of a text from its loss and those of its neighbours.

    Args:
        loss: Of the text. around: Losses by the number of tokens that were replaced, at least one.

    Source: REMIND, arXiv 2511.04228 [abstract]: mean, variance, slope and curvature of the loss over small variations
        of the input. The exact features were not read; these are our choice.
    """
    steps = np.asarray([0.0] + [float(k) for k, found in around.items() for _ in found])
    rises = np.asarray([0.0] + [v - loss for found in around.values() for v in found])
    parabola = len(set(steps.tolist())) >= 3
    return Landscape(
        loss=float(loss),
        rise=float(rises[1:].mean()),
        spread=float(rises[1:].std()),
        steepest=float(rises[1:].max()),
        slope=float(np.polyfit(steps, rises, 1)[0]),
        curvature=float(2 * np.polyfit(steps, rises, 2)[0]) if parabola else 0.0,
    )
