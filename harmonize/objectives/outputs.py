"""What objectives may read of one forward, by parameter name, computed once and only if asked for.

A positions, R rows, H hidden size, V vocabulary, K ids. A field may depend on settings of the objective (such as `k`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from harmonize.errors import ConfigError

BATCH_FIELDS = (
    "n_rows",
    "row",
    "offset",
    "labels",
    "cache_index",
    "reference_index",
    "role_id",
    "view_id",
    "response_id",
    "pair_id",
    "weight",
)
_WIDE = 4096  # id comparisons per position beyond which sorting is cheaper


class HeadLike(Protocol):
    """The part of `harmonize.models.head.Head` that is used here."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def chunk(self) -> int: ...
    def dense(self, positions: int, k: int) -> bool: ...
    def logits(self, hidden: Tensor) -> Tensor: ...
    def log_probs(self, hidden: Tensor, labels: Tensor) -> Tensor: ...
    def top_ids(self, logits: Tensor, k: int) -> Tensor: ...
    def select(
        self, hidden: Tensor, ids: Tensor | None, k: int, dense: bool | None = None
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class TeacherLike(Protocol):
    """The part of `harmonize.models.cache.TeacherCache` that is used here."""

    exact: bool

    def top(self, cache_index: Tensor, k: int) -> tuple[Tensor, Tensor]: ...
    def at(self, cache_index: Tensor, ids: Tensor) -> Tensor: ...
    def logits(self, cache_index: Tensor) -> Tensor: ...


class ReferenceLike(Protocol):
    """The part of `harmonize.models.reference.Reference` that is used here."""

    def log_probs(self, index: Tensor) -> Tensor: ...
    def logits(self, index: Tensor) -> Tensor: ...
    def hidden(self, index: Tensor) -> Tensor: ...
    def at_layer(self, index: Tensor, layer: int | None) -> Tensor: ...
    def moments(self) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Field:
    """How one field is computed.

    Attributes:
        compute: Method of `Outputs`.
        settings: Names of the settings it depends on.
        student_k, teacher_k: Which setting is the length of the student's, or the teacher's, top list it reads.
        teacher: Whether it needs the teacher.
        reference: What of the untouched model it needs: log_probs, hidden or layer.
        layer: Whether it is of the block that the setting `layer` names.
        wide: Whether it holds a value for every id of the vocabulary.
        overall: Whether it is of all positions of all rows at once.
    """

    compute: Callable[..., Any]
    settings: tuple[str, ...]
    student_k: str | None = None
    teacher_k: str | None = None
    teacher: bool = False
    reference: str | None = None
    layer: bool = False
    wide: bool = False
    overall: bool = False


FIELDS: dict[str, Field] = {}


def _field(
    student_k: str | None = None, teacher_k: str | None = None, teacher: bool = False, **more: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(method: Callable[..., Any]) -> Callable[..., Any]:
        settings = tuple(inspect.signature(method).parameters)[1:]
        FIELDS[method.__name__] = Field(
            method, settings, student_k, teacher_k, teacher or bool(teacher_k), **more
        )
        return method

    return register


class Outputs:
    """Everything known about one forward, lazily.

    Args:
        batch: The rows (`harmonize.data.batch.Batch`), on the device of `hidden`.
        hidden: [A, H] the student's final hidden states at the answer positions.
        head: The student's head.
        teacher: The teacher cache, or None for methods without a teacher.
        reference: The untouched model's outputs, or None for methods that read none.
        layers: Setting `layer` to the student's [A, H] states after that block.
        sizes: Longest (student, teacher) top lists that will be asked for (`list_sizes`); with them one
            vocabulary product serves every objective. Without them the result is the same, only slower.
        dense: Force full [A, V] logits or the sparse path; None decides by size.
    """

    def __init__(
        self,
        batch: Any,
        hidden: Tensor,
        head: HeadLike,
        teacher: TeacherLike | None = None,
        reference: ReferenceLike | None = None,
        sizes: tuple[int, int] = (0, 0),
        dense: bool | None = None,
        layers: Mapping[int | None, Tensor] | None = None,
    ) -> None:
        self.batch = batch
        self._hidden = hidden
        self._head = head
        self._teacher = teacher
        self._reference = reference
        self._sizes = sizes
        self._layers = dict(layers or {})
        self._dense = head.dense(int(hidden.shape[0]), sum(sizes)) if dense is None else dense
        self._selection: tuple[Tensor, Tensor, Tensor] | None = None
        self._values: dict[tuple[Any, ...], Any] = {}

    def get(self, name: str, settings: Mapping[str, Any] | None = None) -> Any:
        """The value of a field under an objective's settings; computed on first use.

        Raises:
            KeyError: No such field, and no such column in the batch.
        """
        known = FIELDS.get(name)
        if known is None:
            if name in BATCH_FIELDS:
                return getattr(self.batch, name)
            return self.batch.extra[name]
        arguments = tuple((settings or {})[s] for s in known.settings)
        key = (name, *arguments)
        if key not in self._values:
            self._values[key] = known.compute(self, *arguments)
        return self._values[key]

    @_field()
    def hidden(self) -> Tensor:
        """[A, H] final hidden states of the student."""
        return self._hidden

    @_field()
    def label_log_probs(self) -> Tensor:
        """[A] log-probability of each response token under the student."""
        if self._dense:
            return -F.cross_entropy(self.get("student_logits"), self.batch.labels, reduction="none")
        return self._head.log_probs(self._hidden, self.batch.labels)

    @_field()
    def n_vocab(self) -> int:
        """Number of ids that the student can say."""
        return self._head.n_vocab

    @_field()
    def true_answer(self) -> Tensor:
        """[R] whether the row's response is the data's own answer."""
        answers: Tensor = self.batch.response_id == 0
        return answers

    @_field(layer=True)
    def hidden_at_layer(self, layer: int | None) -> Tensor:
        """[A, H] the student's hidden states after a block."""
        return self._layers[layer]

    @_field(reference="log_probs")
    def reference_log_probs(self) -> Tensor:
        """[A] log-probability of each response token under the untouched model."""
        return self._require_reference().log_probs(self.batch.reference_index)

    @_field(reference="hidden", wide=True)
    def reference_logits(self) -> Tensor:
        """[A, V] fp32 logits of the untouched model."""
        return self._require_reference().logits(self.batch.reference_index)

    @_field(reference="hidden")
    def reference_hidden(self) -> Tensor:
        """[A, H] final hidden states of the untouched model."""
        return self._require_reference().hidden(self.batch.reference_index)

    @_field(reference="hidden", overall=True)
    def reference_mean(self) -> Tensor:
        """[H] mean of `reference_hidden` over all positions that the untouched model read."""
        return self._require_reference().moments()[0]

    @_field(reference="hidden", overall=True)
    def reference_std(self) -> Tensor:
        """[H] standard deviation of `reference_hidden` over the same positions."""
        return self._require_reference().moments()[1]

    @_field(reference="layer", layer=True)
    def reference_hidden_at_layer(self, layer: int | None) -> Tensor:
        """[A, H] the untouched model's hidden states after a block."""
        return self._require_reference().at_layer(self.batch.reference_index, layer)

    @_field(wide=True)
    def student_logits(self) -> Tensor:
        """[A, V] fp32 logits of the student."""
        return self._head.logits(self._hidden)

    @_field(teacher=True, wide=True)
    def teacher_logits(self) -> Tensor:
        """[A, V] fp32 logits of the teacher."""
        return self._require_teacher().logits(self.batch.cache_index)

    @_field(teacher_k="k")
    def teacher_top_ids(self, k: int) -> Tensor:
        """[A, k] ids of the teacher's largest logits, largest first."""
        return self._teacher_top(k)[0]

    @_field(teacher_k="k")
    def teacher_top(self, k: int) -> Tensor:
        """[A, k] the teacher's largest logits, largest first."""
        return self._teacher_top(k)[1]

    @_field(teacher_k="k")
    def student_at_teacher_top(self, k: int) -> Tensor:
        """[A, k] the student's logits at `teacher_top_ids`."""
        if self._dense:
            return self.get("student_logits").gather(1, self._teacher_top(k)[0])
        return self._selected(0, self._length(k))[2][:, : self._length(k)]

    @_field(student_k="k")
    def student_top_ids(self, k: int) -> Tensor:
        """[A, k] ids of the student's largest logits, without gradient."""
        if self._dense:
            return self._head.top_ids(self.get("student_logits").detach(), self._length(k))
        return self._selected(self._length(k), 0)[0][:, : self._length(k)]

    @_field(student_k="k")
    def student_top(self, k: int) -> Tensor:
        """[A, k] the student's largest logits, largest first."""
        if self._dense:
            return self.get("student_logits").gather(1, self.get("student_top_ids", {"k": k}))
        return self._selected(self._length(k), 0)[1][:, : self._length(k)]

    @_field(student_k="k", teacher=True)
    def teacher_at_student_top(self, k: int) -> Tensor:
        """[A, k] the teacher's logits at `student_top_ids`."""
        ids, teacher = self.get("student_top_ids", {"k": k}), self._require_teacher()
        if self._dense and teacher.exact:
            return self.get("teacher_logits").gather(1, ids)
        return teacher.at(self.batch.cache_index, ids)

    @_field(student_k="k", teacher_k="k_teacher")
    def student_top_in_teacher_top(self, k: int, k_teacher: int) -> Tensor:
        """[A, k] whether each of `student_top_ids` is among the teacher's k_teacher largest."""
        ours, theirs = self.get("student_top_ids", {"k": k}), self._teacher_top(k_teacher)[0]
        if ours.shape[1] * theirs.shape[1] <= _WIDE:
            return (ours.unsqueeze(2) == theirs.unsqueeze(1)).any(2)
        ordered = theirs.sort(dim=1).values
        place = torch.searchsorted(ordered, ours).clamp_max(ordered.shape[1] - 1)
        return ordered.gather(1, place) == ours

    @property
    def chunk(self) -> int:
        """Positions whose logits may exist at once."""
        return self._head.chunk

    def part(self, which: Tensor, hidden: Tensor | None = None) -> Outputs:
        """The same forward seen at some positions alone; rows keep their numbers.

        Args:
            which: [P] numbers of the positions.
            hidden: [P, H] the student's final states there, where they are taken apart already.
        """
        batch = copy.copy(self.batch)
        for name in ("row", "offset", "labels", "cache_index", "reference_index"):
            setattr(batch, name, getattr(self.batch, name)[which])
        layers = {layer: states[which] for layer, states in self._layers.items()}
        states = self._hidden[which] if hidden is None else hidden
        return Outputs(batch, states, self._head, self._teacher, self._reference, self._sizes, True, layers)

    def _length(self, k: int) -> int:
        return min(int(k), self._head.n_vocab)

    def _require_teacher(self) -> TeacherLike:
        if self._teacher is None:
            raise ConfigError(
                "An objective needs the teacher, and this run has none. Choose a teacher (teacher=instructed)."
            )
        return self._teacher

    def _require_reference(self) -> ReferenceLike:
        if self._reference is None:
            raise ConfigError("An objective reads the untouched model's outputs, and none were kept.")
        return self._reference

    def _teacher_top(self, k: int) -> tuple[Tensor, Tensor]:
        key = ("_teacher_top", k)
        if key not in self._values:
            self._values[key] = self._require_teacher().top(self.batch.cache_index, self._length(k))
        found: tuple[Tensor, Tensor] = self._values[key]
        return found

    def _selected(self, student: int, teacher: int) -> tuple[Tensor, Tensor, Tensor]:
        """The sparse selection, with lists at least as long as asked for."""
        if self._selection is None or student > self._sizes[0] or teacher > self._sizes[1]:
            longest = (max(student, self._sizes[0]), max(teacher, self._sizes[1]))
            self._sizes = (self._length(longest[0]), self._length(longest[1]))
            ids = self._teacher_top(self._sizes[1])[0] if self._sizes[1] and self._teacher else None
            self._selection = self._head.select(self._hidden, ids, self._sizes[0], dense=False)
        return self._selection
