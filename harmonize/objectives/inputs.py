"""What objectives may ask for, by parameter name, computed once per forward and only if asked for.

A positions, H hidden size, V vocabulary, K ids. An objective is a function whose positional parameters are fields
of `Outputs` (or columns of the batch) and whose keyword-only parameters are its settings. A field may itself
depend on settings (such as `k`): it then takes the objective's.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harmonize.errors import ConfigError, did_you_mean
from harmonize.objectives.reduce import each_position

Objective = Callable[..., tuple[Tensor, Tensor]]
_BATCH_FIELDS = (
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
    """

    compute: Callable[..., Any]
    settings: tuple[str, ...]
    student_k: str | None = None
    teacher_k: str | None = None
    teacher: bool = False
    reference: str | None = None
    layer: bool = False
    wide: bool = False


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

    @_field(reference="hidden")
    def reference_mean(self) -> Tensor:
        """[H] mean of `reference_hidden` over all positions that the untouched model read."""
        return self._require_reference().moments()[0]

    @_field(reference="hidden")
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


@dataclass
class ReferenceNeeds:
    """What objectives read of the untouched model.

    Attributes:
        kinds: Of log_probs, hidden and layer.
        layers: Values of the setting `layer`.
    """

    kinds: set[str] = field(default_factory=set)
    layers: set[int | None] = field(default_factory=set)


def reference_needs(calls: Iterable[tuple[Objective, Mapping[str, Any]]]) -> ReferenceNeeds:
    """What these objectives read of the untouched model; empty if nothing."""
    found = ReferenceNeeds()
    for function, given in calls:
        for known in (FIELDS[n] for n in needs(function) if n in FIELDS):
            if known.reference is not None:
                found.kinds.add(known.reference)
                if known.layer:
                    found.layers.add(settings_of(function, given)["layer"])
    return found


def layers_of(calls: Iterable[tuple[Objective, Mapping[str, Any]]]) -> set[int | None]:
    """Values of the setting `layer` of the objectives that read a block's states."""
    return {
        settings_of(function, given)["layer"]
        for function, given in calls
        if any(FIELDS[n].layer for n in needs(function) if n in FIELDS)
    }


def row_counts(function: Objective, batch: Any, given: Mapping[str, Any]) -> Tensor:
    """[R] what an objective averages over in each row, known before any forward; equal to the counts it returns."""
    rule = getattr(function, "counts", each_position)
    counts: Tensor = rule(batch, settings_of(function, given))
    return counts


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


def call(
    function: Objective, outputs: Outputs, settings: Mapping[str, Any], rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Runs an objective on the fields it names. Returns per-row sums and per-row counts, [R] each.

    An objective that reads values of the whole vocabulary runs on the positions of `rows` alone, and on a chunk of
    them at a time where there are many, so that no positions x vocabulary tensor outlives its chunk.

    Args:
        function: The objective.
        outputs: Of one forward.
        settings: Of the objective.
        rows: [R] rows whose results will be used; None for all.

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

    def run(on: Outputs) -> tuple[Tensor, Tensor]:
        return function(*(on.get(name, full) for name in names), **full)

    if not any(FIELDS[n].wide for n in names if n in FIELDS):
        return run(outputs)
    used = torch.ones_like(outputs.batch.row, dtype=torch.bool) if rows is None else rows[outputs.batch.row]
    which = used.nonzero().squeeze(1)
    if len(which) == len(used) and len(which) <= outputs.chunk:
        return run(outputs)
    if len(which) <= outputs.chunk:
        return run(outputs.part(which))
    parts = [
        checkpoint(lambda h, w=w: run(outputs.part(w, h)), outputs.get("hidden")[w], use_reentrant=False)
        for w in which.split(outputs.chunk)
    ]
    return sum(p[0] for p in parts), sum(p[1] for p in parts)  # type: ignore[return-value]
