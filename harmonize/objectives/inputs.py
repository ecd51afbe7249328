"""What an objective asks for, read off its signature, and the call that gives it that.

An objective is a function whose positional parameters are fields of `Outputs` (or columns of the batch) and whose
keyword-only parameters are its settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harmonize.errors import ConfigError, did_you_mean
from harmonize.objectives.outputs import BATCH_FIELDS, FIELDS, Outputs
from harmonize.objectives.reduce import each_position

Objective = Callable[..., tuple[Tensor, Tensor]]


@lru_cache(maxsize=256)
def signature(function: Objective) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Positional parameter names, and keyword-only settings with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    fields = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    return fields, {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}


def needs(function: Objective) -> set[str]:
    """Names of the fields that an objective reads."""
    return set(signature(function)[0])


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
    defaults = signature(function)[1]
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
    names = signature(function)[0]
    for name in names:
        if name not in FIELDS and name not in BATCH_FIELDS and name not in outputs.batch.extra:
            raise ConfigError(
                f"The objective {getattr(function, '__name__', function)} asks for '{name}', which no "
                f"forward provides. {did_you_mean(name, (*FIELDS, *BATCH_FIELDS, *outputs.batch.extra))}"
            )

    def run(on: Outputs) -> tuple[Tensor, Tensor]:
        return function(*(on.get(name, full) for name in names), **full)

    if not any(FIELDS[n].wide for n in names if n in FIELDS):
        return run(outputs)
    row = outputs.batch.row
    # without a choice nothing is looked for: what is found would be waited for
    which = torch.arange(len(row), device=row.device) if rows is None else rows[row].nonzero().squeeze(1)
    if len(which) == len(row) and len(which) <= outputs.chunk:
        return run(outputs)
    if len(which) <= outputs.chunk:
        return run(outputs.part(which))
    parts = [
        checkpoint(lambda h, w=w: run(outputs.part(w, h)), outputs.get("hidden")[w], use_reentrant=False)
        for w in which.split(outputs.chunk)
    ]
    return sum(p[0] for p in parts), sum(p[1] for p in parts)  # type: ignore[return-value]
