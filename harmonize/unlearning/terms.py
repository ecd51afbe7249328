"""Terms: the objectives of a method with their weights and roles, reduced over one optimizer step.

A term reads outputs, and then each of its roles is a mean of its own, or it reads trained weights, and then it is one
number with no rows and no role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harmonize.config.instantiate import parameters, resolve
from harmonize.config.rules import no_roles
from harmonize.data.batch import Batch
from harmonize.data.example import ROLES
from harmonize.errors import ConfigError
from harmonize.objectives.inputs import (
    ReferenceNeeds,
    call,
    list_sizes,
    needs_teacher,
    reference_needs,
    row_counts,
)
from harmonize.objectives.outputs import Outputs
from harmonize.objectives.weights import Weights, call_on_weights, figures_of, reads_weights
from harmonize.unlearning.grouping import NO_ROLE


@dataclass(frozen=True)
class Term:
    """One entry of `method.objectives`.

    Attributes:
        name: Its key in the mapping; metrics are logged under it.
        function: The objective, a pure function of tensors.
        weight: Multiplies the term; a controller may replace it.
        roles: Role to its own factor; each (term, role) is its own mean. Empty for a term that reads weights.
        settings: Keyword parameters of the function.
    """

    name: str
    function: Callable[..., Any]
    weight: float
    roles: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_teacher(self) -> bool:
        """Whether the function reads anything of the teacher."""
        return needs_teacher(self.function)

    @property
    def reads_weights(self) -> bool:
        """Whether the function reads trained weights in the place of outputs."""
        return reads_weights(self.function)

    def row_counts(self, batch: Batch) -> Tensor:
        """[B] what this term averages over in each row, known before any forward."""
        return row_counts(self.function, batch, self.settings)

    @property
    def reference(self) -> ReferenceNeeds:
        """What the function reads of the untouched model."""
        return reference_needs([(self.function, self.settings)])


def build_terms(objectives: Mapping[str, Any], allow: Sequence[str] = ()) -> list[Term]:
    """Terms of a method's `objectives` mapping; entries set to null are left out.

    Raises:
        ConfigError: Roles of a term that reads weights.
    """
    terms = []
    for name, entry in objectives.items():
        if entry is None:
            continue
        function = resolve(entry["_target_"], allow=allow)
        settings = parameters(entry)
        weight = float(settings.pop("weight", 1.0))
        whole = reads_weights(function)
        if whole and (problems := no_roles(f"method.objectives.{name}", settings)):
            raise ConfigError(problems)
        roles = settings.pop("roles", [] if whole else list(ROLES))
        factors = dict(roles) if isinstance(roles, Mapping) else dict.fromkeys(roles, 1.0)
        terms.append(Term(name, function, weight, factors, settings))
    return terms


def top_sizes(terms: Sequence[Term]) -> tuple[int, int]:
    """Longest (student, teacher) top lists that the terms read."""
    return list_sizes((t.function, t.settings) for t in terms)


Denominators = dict[tuple[str, str], float]


def denominators(terms: Sequence[Term], batches: Sequence[Batch]) -> Denominators:
    """Positions of each (term, role), weighted as their rows are, over the micro-batches of one optimizer step."""
    total: Denominators = {}
    for term in terms:
        if term.reads_weights:
            continue
        for batch in batches:
            counts = term.row_counts(batch) * batch.weight
            for role in term.roles:
                here = float(counts[batch.role_id == ROLES.index(role)].sum())  # type: ignore[arg-type]
                total[term.name, role] = total.get((term.name, role), 0.0) + here
    return total


def losses(
    terms: Sequence[Term], outputs: Outputs, batch: Batch, total: Denominators
) -> dict[tuple[str, str], Tensor]:
    """This micro-batch's share of every (term, role) mean of the terms that read outputs, unweighted.

    Summed over the micro-batches of a step these are the means over the whole step, so accumulating equals
    a big batch. Pairs without any position are left out.
    """
    found: dict[tuple[str, str], Tensor] = {}
    for term in terms:
        if term.reads_weights:
            continue
        row_sum, _ = call(term.function, outputs, term.settings, _covered(term, batch))
        row_sum = row_sum * batch.weight
        for role in term.roles:
            count = total.get((term.name, role), 0.0)
            if count > 0:
                mask = (batch.role_id == ROLES.index(role)).to(row_sum.dtype)  # type: ignore[arg-type]
                # where(), not a product: a masked row must reach no gradient even if its value overflowed
                kept = torch.where(mask > 0, row_sum, torch.zeros_like(row_sum))
                found[term.name, role] = kept.sum() / count
    return found


def _covered(term: Term, batch: Batch) -> Tensor | None:
    """[B] rows whose role the term has; None if it has every role there is. Nothing is sent to the device for it."""
    if all(role in term.roles for role in ROLES):
        return None
    found = torch.zeros_like(batch.role_id, dtype=torch.bool)
    for role in term.roles:
        found |= batch.role_id == ROLES.index(role)  # type: ignore[arg-type]
    return found


def weight_losses(
    terms: Sequence[Term], weights: Weights | None, share: float = 1.0
) -> dict[tuple[str, str], Tensor]:
    """The value of every term that reads weights, unweighted, under (term, NO_ROLE). Counted once per optimizer step.

    Args:
        terms: Those of the method.
        weights: What they read.
        share: Of one rank: ranks add their losses up, and each has the whole value.

    Raises:
        ConfigError: There are no adapters to read.
    """
    found = {}
    for term in terms:
        if term.reads_weights:
            if weights is None:
                raise ConfigError(
                    f"The term {term.name} reads the matrices of adapters, and there are none. Use peft=lora."
                )
            found[term.name, NO_ROLE] = share * call_on_weights(term.function, weights, term.settings)
    return found


def weight_figures(terms: Sequence[Term], weights: Weights | None) -> dict[str, dict[str, float]]:
    """What the terms that read weights report beside their value: term to figures by name."""
    found = {
        term.name: figures_of(term.function, weights, term.settings)
        for term in terms
        if term.reads_weights and weights is not None
    }
    return {name: figures for name, figures in found.items() if figures}
