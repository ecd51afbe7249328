"""Weighters: how much each row of a step counts within its role's mean. The `weighter` group chooses.

The mean of a term over a role's rows is weighted by `Row.weight`, so a weighter replaces weights and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from harmonize.config.instantiate import to_plain
from harmonize.config.rules import known_roles, positive, present, share
from harmonize.console import counted
from harmonize.data.batch import Row, collate
from harmonize.errors import DataError
from harmonize.models.body import answer_hidden, evaluating
from harmonize.models.head import Head
from harmonize.statistics import Statistics, fit_stats
from harmonize.statistics.passes import gradient_of, trained_parameters

_PROBE_ROWS = 64  # rows of one forward without gradient


@dataclass(frozen=True)
class Subject:
    """What a weighter may measure before training.

    Attributes:
        model, head: The student as it starts.
        pad_id: Fills padded columns.
        rows: Role to the rows of all its training examples, with the data's own answers.
        statistics: Of the student as it starts, kept on disk; None measures anew.
    """

    model: Module
    head: Head
    pad_id: int
    rows: Callable[[str], Sequence[Row]]
    statistics: Statistics | None = None


class Weighter:
    """What a run calls. A weighter may also have a static `problems(cfg)`, as combiners may.

    Attributes:
        by_row: Whether a row's weight depends on no other row of its step, so that ranks may weigh theirs apart.
    """

    by_row = False

    def prepare(self, subject: Subject) -> None:
        """Measures what it needs, once, before the first step; a resumed run measures the same again."""

    def __call__(self, model: Module, head: Head, rows: Sequence[Row], step: int) -> list[Row]:
        """The rows of a step with their weights."""
        raise NotImplementedError


class Even(Weighter):
    """Every row counts alike."""

    by_row = True

    def __call__(self, model: Module, head: Head, rows: Sequence[Row], step: int) -> list[Row]:
        """The rows as they are."""
        return list(rows)


class SGA(Weighter):
    """Selective gradient ascent: only rows that the student still knows count, at least the best known one of a step.

    Formula: weight 1 where mean p >= threshold, else 0
    Costs: one forward without gradient over the chosen roles' rows in every step

    Args:
        threshold: Mean probability of the response tokens from which a row counts.
        roles: Roles whose rows are selected.

    Source: the baselines of DUSK (arXiv 2505.15209, code), for gradient ascent with 0.7.
    """

    def __init__(self, *, threshold: float = 0.7, roles: Sequence[str] = ("forget",)) -> None:
        self.threshold, self.roles = threshold, tuple(roles)
        self._pad_id = 0

    def prepare(self, subject: Subject) -> None:
        """Nothing is measured beforehand."""
        self._pad_id = subject.pad_id

    def __call__(self, model: Module, head: Head, rows: Sequence[Row], step: int) -> list[Row]:
        """Weight 1 or 0, role by role."""
        result = list(rows)
        for role in self.roles:
            places = [i for i, row in enumerate(rows) if row.role == role]
            if places:
                known = probabilities(model, head, [rows[i] for i in places], self._pad_id)
                for i, weight in zip(places, selected(known, self.threshold), strict=True):
                    result[i] = reweighted(rows[i], weight)
        return result

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Ranges and roles."""
        node = present(cfg.weighter)
        return share("weighter.threshold", node.get("threshold", 0.7)) + _trained(
            cfg, "roles", node.get("roles", ["forget"])
        )


class GUARD(Weighter):
    """Forget rows count less the more their gradient points along the retain data's, measured on the start model.

    Formula: weight n softmax(-a / temperature) over the n rows, a = <gradient of the row, mean retain gradient>
    Costs: one backward pass over the retain rows (kept for later runs) and one for every forget row, before training;
        nothing in a step

    Args:
        temperature: Of the softmax over the attributions, in standard deviations of them (our choice; the source's
            value was not read).
        roles: Roles whose rows are weighted, each by itself.
        against: Roles whose mean gradient they are compared with.

    Source: arXiv 2506.10946 (abstract; the formula is recalled and derived, parity is not claimed). The mean stays
        weighted within a step (our choice), while the source divides by the number of rows.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        roles: Sequence[str] = ("forget",),
        against: Sequence[str] = ("retain",),
    ) -> None:
        self.temperature, self.roles, self.against = temperature, tuple(roles), tuple(against)
        self.weights: dict[str, float] = {}

    def prepare(self, subject: Subject) -> None:
        """Attributes every row of the chosen roles to the retain loss.

        Raises:
            DataError: A role without training examples.
        """
        kept = [row for role in self.against for row in _rows(subject, role)]
        chosen = {role: _rows(subject, role) for role in self.roles}
        model, head, pad_id = subject.model, subject.head, subject.pad_id
        parameters = trained_parameters(model)
        if subject.statistics is None:
            mean = fit_stats("mean_gradient", model, head, kept, pad_id)
        else:
            mean = subject.statistics.get("mean_gradient", self.against)
        against = [mean.get(name) for name in parameters]
        with evaluating(model), torch.enable_grad():
            for role, rows in chosen.items():
                with counted(f"attributing {role}") as progress:
                    found = []
                    for row in rows:
                        gradient = gradient_of(model, head, [row], pad_id, list(parameters.values()))
                        found.append(_product(gradient, against))
                        progress(len(found), len(rows))
                weights = guard_weights(torch.tensor(found, dtype=torch.float64), self.temperature)
                self.weights |= dict(zip((r.example_id for r in rows), weights.tolist(), strict=True))

    def __call__(self, model: Module, head: Head, rows: Sequence[Row], step: int) -> list[Row]:
        """The weights found beforehand, by example."""
        return [reweighted(r, self.weights[r.example_id]) if r.role in self.roles else r for r in rows]

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Ranges and roles."""
        node = present(cfg.weighter)
        problems = positive("weighter.temperature", node.get("temperature", 1.0))
        problems += known_roles("weighter.against", node.get("against", ["retain"]))
        return problems + _trained(cfg, "roles", node.get("roles", ["forget"]))


def selected(known: Sequence[float], threshold: float) -> list[float]:
    """SGA: 1 for every row known at least so well, else 0; if there is none, 1 for the best known one."""
    chosen = [float(p >= threshold) for p in known]
    if not any(chosen):
        chosen[max(range(len(known)), key=known.__getitem__)] = 1.0
    return chosen


def guard_weights(attributions: Tensor, temperature: float) -> Tensor:
    """GUARD: n softmax(-a / t) for attributions a [n] in units of their standard deviation; mean 1.

    Equal attributions weigh alike.
    """
    n = len(attributions)
    spread = float(attributions.std(correction=0)) if n else 0.0
    # a spread of rounding errors is none
    if not spread > 1e-12 * max(1e-300, float(attributions.abs().max()) if n else 0.0):
        return torch.ones_like(attributions)
    return n * torch.softmax(-(attributions - attributions.mean()) / spread / temperature, 0)


def probabilities(model: Module, head: Head, rows: Sequence[Row], pad_id: int) -> list[float]:
    """Mean probability of each row's response tokens under the model, without dropout and gradient."""
    found = [0.0] * len(rows)
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        for start in range(0, len(rows), _PROBE_ROWS):
            part = [replace(r, pair_id=start + i) for i, r in enumerate(rows[start : start + _PROBE_ROWS])]
            batch = collate(part, pad_id).to(device)
            chances = head.log_probs(answer_hidden(model, batch), batch.labels).exp()
            total = torch.zeros(batch.n_rows, device=device).index_add_(0, batch.row, chances)
            means = total / torch.bincount(batch.row, minlength=batch.n_rows)
            for place, value in zip(batch.pair_id.tolist(), means.tolist(), strict=True):
                found[place] = value
    return found


def reweighted(row: Row, weight: float) -> Row:
    """The row, and those that come with it, at this weight."""
    others: Mapping[str, Any] = {}
    if companions := getattr(row, "companions", ()):
        others = {"companions": tuple(replace(c, weight=weight) for c in companions)}
    return replace(row, weight=weight, **others)


def _product(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    parts = [
        float(torch.dot(a.flatten().double(), b.to(a.device).flatten().double()))
        for a, b in zip(one, other, strict=True)
        if a is not None and b is not None
    ]
    return math.fsum(parts)


def _rows(subject: Subject, role: str) -> Sequence[Row]:
    rows = subject.rows(role)
    if not rows:
        raise DataError(
            f"weighter=guard compares gradients with those of the role '{role}', which has no training examples. "
            "Give the data set some, name other roles (weighter.against=[neighbor]), or use weighter=none."
        )
    return rows


def _trained(cfg: Any, key: str, roles: Sequence[str]) -> list[str]:
    response = to_plain(cfg.method.response)
    problems = known_roles(f"weighter.{key}", roles)
    return problems or [
        f"weighter.{key}: the method trains on no {role} rows, so none can be weighted. "
        f"Use weighter.{key}=[{next(iter(response), 'forget')}], or weighter=none."
        for role in roles
        if role not in response
    ]
