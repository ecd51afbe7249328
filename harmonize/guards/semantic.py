"""How close the last words of an answer come to what is forbidden, by the model's own states.

m forbidden spans, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harmonize.models.embedding import mean_hidden
from harmonize.models.load import LoadedModel

if TYPE_CHECKING:
    import numpy as np

Ids = tuple[int, ...]


def span_states(loaded: LoadedModel, spans: Sequence[Ids]) -> np.ndarray:
    """[m, H] mean of the last hidden states over the tokens of each span, read as running text of its own."""
    head = loaded.renderer.text_ids("")[:-1]
    return mean_hidden(loaded, [(*head, *ids) for ids in spans], [len(head)] * len(spans))


class Closeness:
    """Largest cosine between the states of a window and those of the forbidden spans.

    States of a language model share one large direction, which makes every cosine near 1; the mean state of permitted
    spans is taken off both sides first (our choice).

    Args:
        loaded: The model whose states are read; what it says of a window is remembered until it is asked anew.
        spans: What is forbidden.
        centre: [H] mean state of permitted spans.
    """

    def __init__(self, loaded: LoadedModel, spans: Sequence[Ids], centre: np.ndarray) -> None:
        self._loaded, self._centre = loaded, centre
        self._items = _unit(span_states(loaded, spans) - centre)
        self._known: dict[Ids, float] = {}

    def forget(self) -> None:
        """Drops what is remembered of windows: the model's weights may have changed."""
        self._known.clear()

    def __call__(self, windows: Sequence[Ids]) -> list[float]:
        """The closeness of each window, from -1 to 1."""
        new = sorted({w for w in windows if w not in self._known})
        if new:
            cosines = _unit(span_states(self._loaded, new) - self._centre) @ self._items.T
            self._known.update(zip(new, cosines.max(axis=1).tolist(), strict=True))
        return [self._known[w] for w in windows]


def _unit(vectors: np.ndarray) -> np.ndarray:
    import numpy as np

    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))
