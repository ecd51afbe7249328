"""What objectives may ask for, by parameter name, computed once per forward and only if asked for.

A positions, H hidden size, V vocabulary, K ids. An objective is a function whose positional parameters are fields
of `Outputs` (or columns of the batch) and whose keyword-only parameters are its settings. A field may itself
depend on settings (such as `k`): it then takes the objective's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from harmonize.errors import ConfigError, did_you_mean

Objective = Callable[..., tuple[Tensor, Tensor]]
_BATCH_FIELDS = (
    "n_rows",
    "row",
    "offset",
    "labels",
    "cache_index",
    "role_id",
    "view_id",
    "response_id",
    "pair_id",
    "weight",
)
_WIDE = 4096  # id comparisons per position beyond which sorting is cheaper


class HeadLike(Protocol):
    """The part of `harmonize.models.head.Head` that is used here."""

    n_vocab: int

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


@dataclass(frozen=True)
class Field:
    """How one field is computed.

    Attributes:
        compute: Method of `Outputs`.
        settings: Names of the settings it depends on.
        student_k, teacher_k: Which setting is the length of the student's, or the teacher's, top list it reads.
        teacher: Whether it needs the teacher.
    """

    compute: Callable[..., Any]
    settings: tuple[str, ...]
    student_k: str | None = None
    teacher_k: str | None = None
    teacher: bool = False


FIELDS: dict[str, Field] = {}


def _field(
    student_k: str | None = None, teacher_k: str | None = None, teacher: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(method: Callable[..., Any]) -> Callable[..., Any]:
        settings = tuple(inspect.signature(method).parameters)[1:]
        FIELDS[method.__name__] = Field(method, settings, student_k, teacher_k, teacher or bool(teacher_k))
        return method

    return register


class Outputs:
    """Everything known about one forward, lazily.

    Args:
        batch: The rows (`harmonize.data.batch.Batch`), on the device of `hidden`.
        hidden: [A, H] the student's final hidden states at the answer positions.
        head: The student's head.
        teacher: The teacher cache, or None for methods without a teacher.
        reference: [A] log-probabilities of the labels under a reference model, or None.
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
        reference: Tensor | None = None,
        sizes: tuple[int, int] = (0, 0),
        dense: bool | None = None,
    ) -> None:
        self.batch = batch
        self._hidden = hidden
        self._head = head
        self._teacher = teacher
        self._reference = reference
        self._sizes = sizes
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
            if name in _BATCH_FIELDS:
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
    def reference_log_probs(self) -> Tensor:
        """[A] log-probability of each response token under the reference model."""
        if self._reference is None:
            raise ConfigError(
                "An objective needs reference log-probabilities, and this run has no reference."
            )
        return self._reference

    @_field()
    def student_logits(self) -> Tensor:
        """[A, V] fp32 logits of the student."""
        return self._head.logits(self._hidden)

    @_field(teacher=True)
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

    def _length(self, k: int) -> int:
        return min(int(k), self._head.n_vocab)

    def _require_teacher(self) -> TeacherLike:
        if self._teacher is None:
            raise ConfigError(
                "An objective needs the teacher, and this run has none. Choose a teacher (teacher=instructed)."
            )
        return self._teacher

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


@lru_cache(maxsize=256)
def _signature(function: Objective) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Positional parameter names, and keyword-only settings with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    fields = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    return fields, {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}


def needs(function: Objective) -> set[str]:
    """Names of the fields that an objective reads."""
    return set(_signature(function)[0])


def needs_teacher(function: Objective) -> bool:
    """Whether an objective reads anything of the teacher."""
    return any(FIELDS[n].teacher for n in needs(function) if n in FIELDS)


def settings_of(function: Objective, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an objective: those given over its defaults.

    Raises:
        ConfigError: A setting that the function does not have, or one without default that is not given.
    """
    defaults = _signature(function)[1]
    unknown = [n for n in given if n not in defaults]
    missing = [n for n, d in defaults.items() if d is inspect.Parameter.empty and n not in given]
    if unknown or missing:
        name = getattr(function, "__name__", str(function))
        raise ConfigError(
            [f"The objective {name} has no setting '{n}'. {did_you_mean(n, defaults)}" for n in unknown]
            + [f"The objective {name} needs the setting '{n}'." for n in missing]
        )
    return {**defaults, **given}


def list_sizes(calls: Iterable[tuple[Objective, Mapping[str, Any]]]) -> tuple[int, int]:
    """Longest (student, teacher) top lists that these objectives will read, for `Outputs(sizes=...)`."""
    student = teacher = 0
    for function, given in calls:
        settings = settings_of(function, given)
        for known in (FIELDS[n] for n in needs(function) if n in FIELDS):
            student = max(student, int(settings[known.student_k]) if known.student_k else 0)
            teacher = max(teacher, int(settings[known.teacher_k]) if known.teacher_k else 0)
    return student, teacher


def call(function: Objective, outputs: Outputs, settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Runs an objective on the fields it names. Returns per-row sums and per-row counts, [R] each.

    Raises:
        ConfigError: Unknown or missing settings, or a field that neither `Outputs` nor the batch has.
    """
    full = settings_of(function, settings)
    names = _signature(function)[0]
    for name in names:
        if name not in FIELDS and name not in _BATCH_FIELDS and name not in outputs.batch.extra:
            raise ConfigError(
                f"The objective {getattr(function, '__name__', function)} asks for '{name}', which no "
                f"forward provides. {did_you_mean(name, (*FIELDS, *_BATCH_FIELDS, *outputs.batch.extra))}"
            )
    return function(*(outputs.get(name, full) for name in names), **full)
