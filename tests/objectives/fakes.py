"""A head and a teacher that are nothing but given tensors, so that objectives are tested without models."""

import torch

from harmonize.data.batch import Batch, Row, collate
from harmonize.models.head import Head
from harmonize.objectives.inputs import Outputs


class GivenTeacher:
    """Teacher logits by cache row, [N, V]."""

    exact = True

    def __init__(self, logits: torch.Tensor) -> None:
        self.all = logits

    def logits(self, cache_index: torch.Tensor) -> torch.Tensor:
        return self.all[cache_index]

    def at(self, cache_index: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.all[cache_index].gather(1, ids)

    def top(self, cache_index: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        values, ids = self.all[cache_index].topk(k, dim=1)
        return ids, values


def batch_of(lengths: list[int], side: str = "right", pad_to: int = 1) -> Batch:
    rows, start = [], 0
    for i, n in enumerate(lengths):
        rows.append(Row(f"e{i}", "forget", "s", (1, 2), tuple(range(n)), cache_start=start))
        start += n
    return collate(rows, pad_id=0, side=side, pad_to=pad_to)


def identity_head(vocabulary: int) -> Head:
    """Hidden states are the logits."""
    return Head(torch.eye(vocabulary))


def outputs_of(batch: Batch, student: torch.Tensor, teacher: torch.Tensor, **options) -> Outputs:
    """`student` and `teacher` are [N, V] by cache row; the batch decides their order."""
    hidden = student[batch.cache_index]
    return Outputs(batch, hidden, identity_head(student.shape[1]), GivenTeacher(teacher), **options)
