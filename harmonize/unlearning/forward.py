"""One fused forward of the student, with everything that the terms read beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.nn import Module

from harmonize.data.batch import Batch, Row
from harmonize.models.body import answer_states, block_number
from harmonize.models.head import Head
from harmonize.objectives.inputs import layers_of
from harmonize.objectives.outputs import Outputs
from harmonize.unlearning.terms import Term, top_sizes

if TYPE_CHECKING:
    from harmonize.models.cache import TeacherCache
    from harmonize.models.reference import Reference


class Forward:
    """Runs a model once per batch and says what the terms may read of it.

    Args:
        model: The student.
        terms: The method's objectives; only what they name is gathered.
        teacher: The teacher's cache, or None.
        reference: The untouched model's outputs, or None.
        n_vocab: Valid token ids, where the head has padding rows.

    Raises:
        ModelError: A term names a block that the model does not have.
    """

    def __init__(
        self,
        model: Module,
        terms: Sequence[Term],
        teacher: TeacherCache | None = None,
        reference: Reference | None = None,
        n_vocab: int | None = None,
    ) -> None:
        self.model, self.teacher, self.reference = model, teacher, reference
        self.head: Any = Head.of(model, n_vocab=n_vocab)
        self._sizes = top_sizes(terms)
        self._blocks = named_blocks(model, terms)

    def place(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, told where the untouched model's outputs lie."""
        if self.reference is None:
            return list(rows)
        return [self.reference.place(row) for row in rows]

    def figures(self) -> dict[str, float]:
        """What is logged of the teacher: the share of ids that it bounded since the last call, where it bounds any."""
        if self.teacher is None or self.teacher.exact:
            return {}
        return {"train/teacher_missing_share": self.teacher.missing_since()}

    def __call__(self, batch: Batch) -> Outputs:
        """Outputs of one batch of placed rows."""
        if self.teacher is not None:
            self.teacher.prepare(batch.cache_index, None if batch.here is None else batch.here.cache_index)
        if self.reference is not None:
            self.reference.prepare(batch)
        hidden, inner = answer_states(self.model, batch, sorted(set(self._blocks.values())))
        layers = {layer: inner[block] for layer, block in self._blocks.items()}
        return Outputs(
            batch, hidden, self.head, self.teacher, self.reference, sizes=self._sizes, layers=layers
        )


def named_blocks(model: Module, terms: Sequence[Term]) -> dict[int | None, int]:
    """Every value of a setting `layer` that the terms read, and the block it names.

    Raises:
        ModelError: The model has no such block.
    """
    return {layer: block_number(model, layer) for layer in layers_of((t.function, t.settings) for t in terms)}
