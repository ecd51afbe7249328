"""A head, a teacher and a reference that are nothing but given tensors: objectives are tested without models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harmonize.data.batch import Batch, Row, collate
from harmonize.models.head import Head
from harmonize.objectives.outputs import Outputs

VOCABULARY = 12


class GivenTeacher:
    """Teacher logits by cache row, [N, V]."""

    exact = True

    def __init__(self, logits: Tensor) -> None:
        self.all = logits

    def logits(self, cache_index: Tensor) -> Tensor:
        """[P, V]."""
        return self.all[cache_index]

    def at(self, cache_index: Tensor, ids: Tensor) -> Tensor:
        """[P, k] at some ids."""
        return self.all[cache_index].gather(1, ids)

    def top(self, cache_index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """[P, k] ids and values, largest first."""
        values, ids = self.all[cache_index].topk(k, dim=1)
        return ids, values


class GivenReference:
    """The untouched model's logits by row, [N, V]: its hidden states too, and after a block half of those there."""

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        self.all, self.labels = logits, labels

    def log_probs(self, index: Tensor) -> Tensor:
        """[P] of the response tokens."""
        return self.all.log_softmax(1).gather(1, self.labels.unsqueeze(1)).squeeze(1)[index]

    def logits(self, index: Tensor) -> Tensor:
        """[P, V]."""
        return self.all[index]

    hidden = logits

    def at_layer(self, index: Tensor, layer: int | None) -> Tensor:
        """[P, V] after a block."""
        return 2 * self.all[index]

    def moments(self) -> tuple[Tensor, Tensor]:
        """[V] mean and deviation of the states."""
        return moments_of(self.all.shape[1])


def moments_of(size: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation that the untouched model's states are said to have, [size] each."""
    return torch.linspace(-1, 1, size), torch.full((size,), 0.7)


def batch_of(lengths: Sequence[int], side: str = "right", pad_to: int = 1, start: int = 0) -> Batch:
    """Rows of these response lengths. Two and two are a pair: a refusal, then the data's own answer."""
    rows = []
    for i, n in enumerate(lengths):
        response = "reference" if i % 2 else "refusal"
        target = tuple((3 * i + j) % 11 for j in range(n))
        paired = i + 1 - i % 2 < len(lengths)
        rows.append(
            Row(
                f"e{i}",
                "forget",
                "s",
                (1, 2),
                target,
                cache_start=start,
                reference_start=start,
                response=response,
                pair_id=i // 2 if paired else -1,
            )
        )
        start += n
    return collate(rows, pad_id=0, side=side, pad_to=pad_to)


def identity_head(vocabulary: int) -> Head:
    """Hidden states are the logits."""
    return Head(torch.eye(vocabulary))


def outputs_of(batch: Batch, student: Tensor, teacher: Tensor, **options: Any) -> Outputs:
    """`student` and `teacher` are [N, V] by cache row; the batch decides their order.

    The untouched model's logits are the teacher's, turned round; after a block the student's states are its logits.
    """
    hidden = student[batch.cache_index]
    labels = torch.zeros(len(teacher), dtype=torch.long)
    labels[batch.cache_index] = batch.labels
    reference = GivenReference(teacher.flip(1), labels)
    return Outputs(
        batch,
        hidden,
        identity_head(student.shape[1]),
        GivenTeacher(teacher),
        reference,
        layers={None: hidden},
        **options,
    )
