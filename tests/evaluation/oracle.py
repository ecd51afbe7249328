"""A model of known truth: certain of the sequences it is told, without a clue everywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

CERTAIN = 60.0


class Past:
    """Rows that were read so far, as lists of ids."""

    def __init__(self, rows: list[tuple[int, ...]]) -> None:
        self.rows = rows

    def batch_select_indices(self, keep: Tensor) -> None:
        self.rows = [self.rows[i] for i in keep.tolist()]


class Oracle(nn.Module):
    """A causal LM: after a prefix of a known sequence its next id has all the probability; elsewhere all are equal.

    `calls` and `tokens` count forward passes and the ids that they read.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], vocabulary: int, context: int = 4096) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.next: dict[tuple[int, ...], int] = {}
        for ids in sequences:
            for i in range(1, len(ids)):
                self.next.setdefault(tuple(ids[:i]), ids[i])
        self.vocabulary = vocabulary
        self.config = SimpleNamespace(max_position_embeddings=context)
        self.calls, self.tokens = 0, 0

    def get_output_embeddings(self) -> Any:
        return SimpleNamespace(out_features=self.vocabulary)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Past | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Any:
        self.calls += 1
        columns = input_ids.shape[1]
        shown = attention_mask[:, -columns:]
        self.tokens += int(shown.sum())
        before = past_key_values.rows if past_key_values is not None else [()] * len(input_ids)
        logits = torch.zeros(len(input_ids), columns, self.vocabulary)
        after = []
        for i, (ids, mask, read) in enumerate(zip(input_ids.tolist(), shown.tolist(), before, strict=True)):
            row = tuple(read)
            for j, (token, real) in enumerate(zip(ids, mask, strict=True)):
                if not real:
                    continue
                assert int(position_ids[i, j]) == len(row), "positions count the real tokens"
                row = (*row, token)
                if row in self.next:
                    logits[i, j, self.next[row]] = CERTAIN
            after.append(row)
        kept = logits[:, -logits_to_keep:] if logits_to_keep else logits
        return SimpleNamespace(logits=kept + 0 * self.weight, past_key_values=Past(after))


def loaded(renderer: Any, told: Iterable[tuple[Sequence[int], str]] = (), **settings: Any) -> SimpleNamespace:
    """A loaded oracle that knows these answers, end of turn included.

    Args:
        told: (prompt ids, answer).
    """
    known = [(*prompt, *renderer.target_ids(answer)) for prompt, answer in told]
    model = Oracle(known, len(renderer.tokenizer), **settings).eval()
    return SimpleNamespace(model=model, renderer=renderer)
