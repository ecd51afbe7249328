"""Texts as vectors: the mean of a model's own last hidden states over their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harmonize.data.batch import Row, collate
from harmonize.models.batching import batched
from harmonize.models.body import answer_hidden, evaluating
from harmonize.models.load import LoadedModel

if TYPE_CHECKING:
    import numpy as np

BATCH_ROWS = 64


def embedding(loaded: LoadedModel, batch_size: int = BATCH_ROWS) -> Callable[[list[str]], np.ndarray]:
    """A function from texts to [n, H] float32 vectors; what else is asked for moves a vector by rounding alone.

    A text is read as running text, without a template; the beginning-of-sequence token does not count.

    Args:
        loaded: Any causal LM; it is left as it was.
        batch_size: Texts per forward pass, of neighbouring lengths.
    """
    renderer = loaded.renderer
    bos = loaded.tokenizer.bos_token_id

    def embed(texts: list[str]) -> np.ndarray:
        sequences = [renderer.text_ids(text)[:-1] for text in texts]
        heads = [int(len(ids) > 1 and ids[0] == bos) for ids in sequences]
        return mean_hidden(loaded, sequences, heads, batch_size)

    return embed


def mean_hidden(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    skip: Sequence[int] | None = None,
    batch_size: int = BATCH_ROWS,
) -> np.ndarray:
    """Mean of the last hidden states (after the final norm) over each sequence's tokens, [n, H] float32.

    Args:
        loaded: Any causal LM.
        sequences: Token ids, at least one each; cut to what the model can read.
        skip: How many leading tokens of each sequence do not count; at least one token always does.
        batch_size: Sequences per forward pass; halved, with a notice, where memory runs out.
    """
    import numpy as np

    model, pad = loaded.model, loaded.renderer.pad_id
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    # one place is kept for the dummy target that follows the last token
    cut = [tuple(ids[: limit - 1] if isinstance(limit, int) else ids) for ids in sequences]
    device = next(model.parameters()).device
    order = sorted(range(len(cut)), key=lambda i: (-len(cut[i]), cut[i]))
    found: list[np.ndarray] = [np.empty(0)] * len(cut)
    with torch.no_grad(), evaluating(model):

        def run(which: Sequence[int]) -> Sequence[Tensor]:
            # targets shifted by one: the position that predicts one holds the state of the token before it
            rows = [Row(str(i), "retain", "", cut[i][:1], (*cut[i][1:], pad)) for i in which]
            states = answer_hidden(model, collate(rows, pad).to(device)).float().cpu()
            return states.split([len(r.target) for r in rows])

        for which, parts in batched(order, batch_size, run):
            for i, own in zip(which, parts, strict=True):
                leave = min(skip[i] if skip else 0, len(own) - 1)
                found[i] = own[leave:].mean(dim=0).numpy()
    return np.stack(found) if found else np.empty((0, 0), dtype=np.float32)
