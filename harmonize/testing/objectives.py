"""What every objective must meet, on forwards that are nothing but given tensors.

An entry names the objective, settings that are not its defaults, and its value written once more in plain numbers. Each
check takes an entry and a world and raises an `AssertionError` that says what failed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.testing import assert_close

from harmonize.data.batch import Batch
from harmonize.objectives.inputs import call, list_sizes, needs, row_counts
from harmonize.objectives.outputs import FIELDS
from harmonize.testing.fakes import VOCABULARY, batch_of, moments_of, outputs_of

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class At:
    """One response position in plain numbers.

    Attributes:
        z_s, z_t, z_r: Logits of student, teacher and untouched model. A hidden state is the same numbers; after a block
            the untouched model's is twice `z_r`.
        label: The response token.
    """

    z_s: list[float]
    z_t: list[float]
    z_r: list[float]
    label: int

    @property
    def log_p(self) -> float:
        """Log-probability of the response token under the student."""
        return self.z_s[self.label] - _log_sum_exp(self.z_s)

    @property
    def ratio(self) -> float:
        """`log_p` minus the same under the untouched model."""
        return self.log_p - self.z_r[self.label] + _log_sum_exp(self.z_r)

    @property
    def probabilities(self) -> list[float]:
        """Of every id under the student."""
        total = _log_sum_exp(self.z_s)
        return [math.exp(z - total) for z in self.z_s]


@dataclass(frozen=True)
class Entry:
    """An objective under test.

    Attributes:
        function, settings: The objective, and its settings.
        at: Its value at one position (given mean and deviation of the untouched model's states too, with `moments`); or
        of_row: its value for a row, given the positions of the row and of its companion (None without one), or None
            where the row carries no value.
        skips: Positions at the start of a response that do not count.
        extreme: Largest logit at which it must stay finite.
        moments: Whether `at` needs mean and deviation of the untouched model's states.
        tags: `pair` for a value of two rows, `zero` for one that is zero where the student is the teacher.
    """

    function: Callable[..., Pair]
    settings: dict[str, Any] = field(default_factory=dict)
    at: Callable[..., float] | None = None
    of_row: Callable[[list[At], list[At] | None], float | None] | None = None
    skips: int = 0
    extreme: float = 1e30
    moments: bool = False
    tags: set[str] = field(default_factory=set)

    def takes(self, setting: str) -> bool:
        """Whether the objective has this setting."""
        return setting in inspect.signature(self.function).parameters

    def positions(self, first: bool) -> dict[str, str]:
        """The setting `positions`, where there is one."""
        return {"positions": "first" if first else "all"} if self.takes("positions") else {}

    def run(self, batch: Batch, student: Tensor, teacher: Tensor, **more: Any) -> Pair:
        """The objective's sums and counts per row; `dense` and `sizes` go to the forward, the rest are settings."""
        options = {k: more.pop(k) for k in ("dense", "sizes") if k in more}
        return call(self.function, outputs_of(batch, student, teacher, **options), {**self.settings, **more})


@dataclass(frozen=True)
class World:
    """Random logits: `lengths` of the responses (two and two are a pair), a seed, and how far logits spread."""

    lengths: tuple[int, ...]
    seed: int = 0
    spread: float = 2.0

    def logits(self, salt: int = 0) -> Tensor:
        """[positions, vocabulary]: of the student, or with another salt of the teacher."""
        draw = torch.Generator().manual_seed(self.seed + salt)
        return torch.randn(sum(self.lengths), VOCABULARY, generator=draw) * self.spread


WORLDS: tuple[World, ...] = (
    World((3, 2, 4, 1), 5, 1.0),
    World((1, 1), 6, 0.1),
    World((5, 1, 2), 7, 20.0),
    World((2, 4, 3, 3, 1), 8, 2.0),
)


def check_objective(entry: Entry, worlds: Sequence[World] = WORLDS) -> None:
    """Every check in every world.

    Raises:
        AssertionError: The first that fails; its first line says which, where.
    """
    for world in worlds:
        for name, check in CHECKS.items():
            try:
                check(entry, world)
            except AssertionError as error:
                where = f"{entry.function.__name__}: {name.replace('_', ' ')}, {world}"
                raise AssertionError(f"{where}\n{error}") from error


def equals_the_slow_value(
    entry: Entry, world: World, first: bool = False, dense: bool | None = None, planned: bool = False
) -> None:
    """Sums and counts are those of the entry's own value."""
    batch, student, teacher = batch_of(world.lengths), world.logits(), world.logits(1)
    more = entry.positions(first)
    sizes = list_sizes([(entry.function, entry.settings)]) if planned else (0, 0)
    found = entry.run(batch, student, teacher, dense=dense, sizes=sizes, **more)
    expected = _slow(entry, batch, student, teacher, more.get("positions", "all"))
    assert_close(found, expected, rtol=2e-5, atol=2e-5)


def counts_are_known_beforehand(entry: Entry, world: World, first: bool = False) -> None:
    """`counted` says what the objective averages over, before any forward."""
    batch, more = batch_of(world.lengths), entry.positions(first)
    _, count = entry.run(batch, world.logits(), world.logits(1), **more)
    told = row_counts(entry.function, batch, {**entry.settings, **more})
    _require(torch.equal(told, count), f"counts {count.tolist()}, but {told.tolist()} are told beforehand")


def excluded_positions_get_no_gradient(entry: Entry, world: World, dense: bool | None = None) -> None:
    """Positions that do not count, and rows whose value is left out, get a gradient of exactly zero."""
    batch, first = batch_of(world.lengths), entry.positions(True)
    student = world.logits().requires_grad_()
    total, _ = entry.run(batch, student, world.logits(1), dense=dense, **first)
    # all but the last row's value, as the rows of another role are left out
    chosen = torch.arange(batch.n_rows) != int(batch.row[-1])
    total.where(chosen, 0.0).sum().backward()
    partner = (batch.pair_id == batch.pair_id[batch.row[-1]]) & (batch.pair_id >= 0) & chosen
    excluded = batch.offset < entry.skips
    if first:
        excluded |= batch.offset > 0
    if not ("pair" in entry.tags and partner.any()):
        excluded |= ~chosen[batch.row]
    reached = torch.count_nonzero(_gradient(student)[batch.cache_index[excluded]])
    _require(int(reached) == 0, f"{int(reached)} entries of the gradient at excluded positions are not zero")


def padding_changes_nothing(entry: Entry, world: World) -> None:
    """Values and gradients are bit for bit the same with padding left, right, or more of it."""
    student, teacher = world.logits(), world.logits(1)
    results = []
    for side, pad_to in (("right", 1), ("left", 1), ("right", 16)):
        moving = student.clone().requires_grad_()
        total, count = entry.run(batch_of(world.lengths, side, pad_to), moving, teacher)
        total.sum().backward()
        results.append((total, count, _gradient(moving)))
    for other in results[1:]:
        assert_close(other, results[0], rtol=0, atol=0)


def accumulation_equals_a_big_batch(entry: Entry, world: World) -> None:
    """Gradients of two micro-batches add up to that of one batch."""
    lengths, student, teacher = world.lengths, world.logits(), world.logits(1)
    whole = student.clone().requires_grad_()
    total, count = entry.run(batch_of(lengths), whole, teacher)
    (total.sum() / count.sum().clamp_min(1)).backward()
    parts = student.clone().requires_grad_()
    cut = sum(lengths[:2])  # companions stay together
    for rows, at in ((lengths[:2], slice(0, cut)), (lengths[2:], slice(cut, None))):
        if rows:
            batch = batch_of(rows)
            batch.labels = batch_of(lengths).labels[_same(lengths, rows, at)]
            part, _ = entry.run(batch, parts[at], teacher[at])
            (part.sum() / count.sum().clamp_min(1)).backward()
    assert_close(_gradient(parts), _gradient(whole), rtol=1e-5, atol=1e-6)


def is_finite_at_extreme_logits(entry: Entry, world: World) -> None:
    """Values and gradients stay finite where logits are enormous; `Entry.extreme` says how large they get."""
    batch = batch_of((2, 1))
    student = torch.zeros(3, VOCABULARY)
    student[:, 1], student[:, 2], student[:, 0] = 1e4, -1e4, entry.extreme
    student.requires_grad_()
    total, _ = entry.run(batch, student, -student.detach())
    total.sum().backward()
    _require(bool(torch.isfinite(total).all()), f"the values are {total.tolist()}")
    _require(bool(torch.isfinite(_gradient(student)).all()), "the gradient is not finite")


def bf16_inputs_are_within_tolerance(entry: Entry, world: World) -> None:
    """Inputs in bfloat16 give float32 results, close to those of float32 inputs."""
    world = replace(world, spread=1.0)
    batch = batch_of(world.lengths)
    # the choice of the top k is no matter of precision here
    student, teacher = world.logits().bfloat16(), world.logits(1).bfloat16()
    exact, _ = entry.run(batch, student.float(), teacher.float())
    rounded, count = entry.run(batch, student, teacher)
    _require(rounded.dtype == count.dtype == torch.float32, f"results are {rounded.dtype}, {count.dtype}")
    assert_close(rounded, exact, rtol=3e-2, atol=3e-2)


def chunks_and_other_roles_change_nothing(entry: Entry, world: World) -> None:
    """An objective on the whole vocabulary may be run on some rows, and on a few positions at a time."""
    if not any(FIELDS[n].wide for n in needs(entry.function) if n in FIELDS):
        return
    batch, student, teacher = batch_of(world.lengths), world.logits(), world.logits(1)
    wanted = torch.arange(batch.n_rows) != 1
    results = []
    for chunk in (100, 3):
        for rows in (None, wanted):
            moving = student.clone().requires_grad_()
            with patch("harmonize.models.head.rows_per_chunk", lambda *_, c=chunk: c):
                outputs = outputs_of(batch, moving, teacher)
                total, count = call(entry.function, outputs, entry.settings, rows)
                total[wanted].sum().backward()
            results.append((total[wanted], count[wanted], _gradient(moving)))
    for other in results[1:]:
        assert_close(other, results[0], rtol=1e-5, atol=1e-6)


def is_zero_where_the_student_is_the_teacher(entry: Entry, world: World, dense: bool | None = None) -> None:
    """Value and gradient are exactly zero there; asked of entries with the tag `zero`."""
    if "zero" not in entry.tags:
        return
    student = world.logits().requires_grad_()
    total, _ = entry.run(batch_of(world.lengths), student, student.detach().clone(), dense=dense)
    total.sum().backward()
    _require(int(torch.count_nonzero(total)) == 0, f"the values are {total.tolist()}")
    _require(int(torch.count_nonzero(_gradient(student))) == 0, "the gradient is not zero")


CHECKS: dict[str, Callable[..., None]] = {
    check.__name__: check
    for check in (
        equals_the_slow_value,
        counts_are_known_beforehand,
        excluded_positions_get_no_gradient,
        padding_changes_nothing,
        accumulation_equals_a_big_batch,
        is_finite_at_extreme_logits,
        bf16_inputs_are_within_tolerance,
        chunks_and_other_roles_change_nothing,
        is_zero_where_the_student_is_the_teacher,
    )
}


def _slow(entry: Entry, batch: Batch, student: Tensor, teacher: Tensor, positions: str) -> Pair:
    """Per-row sums and counts from the entry's own value."""
    _require((entry.at is None) != (entry.of_row is None), "an entry has either `at` or `of_row`")
    reference = teacher.flip(1)
    moments = [m.tolist() for m in moments_of(VOCABULARY)] if entry.moments else []
    rows: list[list[At]] = [[] for _ in range(batch.n_rows)]
    for r, c, label in zip(
        batch.row.tolist(), batch.cache_index.tolist(), batch.labels.tolist(), strict=True
    ):
        rows[r].append(At(student[c].tolist(), teacher[c].tolist(), reference[c].tolist(), label))
    pairs, responses = batch.pair_id.tolist(), batch.response_id.tolist()
    total, count = torch.zeros(batch.n_rows), torch.zeros(batch.n_rows)
    for r, row in enumerate(rows):
        if entry.at is not None:
            kept = row[entry.skips :] if positions == "all" else row[:1]
            total[r], count[r] = sum(entry.at(p, *moments) for p in kept), len(kept)
            continue
        others = [i for i, p in enumerate(pairs) if p == pairs[r] and p >= 0 and i != r]
        if "pair" in entry.tags and not (responses[r] == 0 and others):
            continue
        assert entry.of_row is not None
        value = entry.of_row(row if positions == "all" else row[:1], rows[others[0]] if others else None)
        total[r], count[r] = (0.0, 0) if value is None else (value, 1)
    return total, count


def _same(lengths: Sequence[int], rows: Sequence[int], at: slice) -> Tensor:
    """Where the positions of some rows lie in the batch of all rows."""
    everything, part = batch_of(lengths), batch_of(rows)
    place = {c: i for i, c in enumerate(everything.cache_index.tolist())}
    return torch.tensor([place[c + (at.start or 0)] for c in part.cache_index.tolist()])


def _gradient(of: Tensor) -> Tensor:
    """The gradient of a leaf; zeros where nothing reached it."""
    return torch.zeros_like(of) if of.grad is None else of.grad


def _log_sum_exp(values: Sequence[float]) -> float:
    high = max(values)
    return high + math.log(sum(math.exp(v - high) for v in values))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
