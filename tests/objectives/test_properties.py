"""What must hold for any logits, for every row of the table: slow references, and real batches."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.objectives import bild, distill, divergence, likelihood, preference, representation, template
from harmonize.objectives.inputs import call, list_sizes, row_counts
from tests.objectives.fakes import batch_of, outputs_of
from tests.objectives.table import TABLE, At, Entry

V = 12
EACH = pytest.mark.parametrize("name", sorted(TABLE))
worlds = st.tuples(
    st.lists(st.integers(1, 5), min_size=2, max_size=5),
    st.integers(0, 2**31),
    st.sampled_from([0.1, 2.0, 20.0]),
)
PROPERTY = settings(max_examples=4, deadline=None, derandomize=True)


def logits(world, salt: int = 0) -> torch.Tensor:
    lengths, seed, spread = world
    draw = torch.Generator().manual_seed(seed + salt)
    return torch.randn(sum(lengths), V, generator=draw) * spread


def run(name: str, batch, student, teacher, **more):
    options = {k: more.pop(k) for k in ("dense", "sizes") if k in more}
    entry = TABLE[name]
    return call(entry.function, outputs_of(batch, student, teacher, **options), {**entry.settings, **more})


def takes(name: str, setting: str) -> bool:
    return setting in inspect.signature(TABLE[name].function).parameters


def expected(entry: Entry, batch, student, teacher, positions: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-row sums and counts from the slow references."""
    reference = teacher.flip(1)
    moments = ([2 * i / (V - 1) - 1 for i in range(V)], [0.7] * V) if entry.moments else ()
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
        carries = responses[r] == 0 and others
        if "pair" in entry.tags and not carries:
            continue
        value = entry.of_row(row, rows[others[0]] if others else None)
        total[r], count[r] = value, 1
    return total, count


def test_every_objective_has_a_row() -> None:
    modules = (bild, distill, divergence, likelihood, preference, representation, template)
    public = {
        function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and "n_rows" in str(inspect.signature(function))
    }
    assert public == {entry.function for entry in TABLE.values()}


@EACH
@PROPERTY
@given(world=worlds, first=st.booleans(), dense=st.booleans(), planned=st.booleans())
def test_equals_the_slow_reference(name, world, first, dense, planned) -> None:
    batch, entry = batch_of(world[0]), TABLE[name]
    student, teacher = logits(world), logits(world, 1)
    positions = "first" if first and takes(name, "positions") else "all"
    more = {"positions": positions} if takes(name, "positions") else {}
    sizes = list_sizes([(entry.function, entry.settings)]) if planned else (0, 0)
    found = run(name, batch, student, teacher, dense=dense, sizes=sizes, **more)
    torch.testing.assert_close(
        found, expected(entry, batch, student, teacher, positions), rtol=2e-5, atol=2e-5
    )


@EACH
@PROPERTY
@given(world=worlds, first=st.booleans())
def test_counts_are_known_beforehand(name, world, first) -> None:
    batch, entry = batch_of(world[0]), TABLE[name]
    more = {"positions": "first"} if first and takes(name, "positions") else {}
    _, count = run(name, batch, logits(world), logits(world, 1), **more)
    assert torch.equal(row_counts(entry.function, batch, {**entry.settings, **more}), count)


@EACH
@PROPERTY
@given(world=worlds, dense=st.booleans())
def test_excluded_positions_get_exactly_zero_gradient(name, world, dense) -> None:
    batch, entry = batch_of(world[0]), TABLE[name]
    first = {"positions": "first"} if takes(name, "positions") else {}
    student = logits(world).requires_grad_()
    total, _ = run(name, batch, student, logits(world, 1), dense=dense, **first)
    # all but the last row's value, as the rows of another role are left out
    chosen = torch.arange(batch.n_rows) != int(batch.row[-1])
    total.where(chosen, 0.0).sum().backward()
    partner = (batch.pair_id == batch.pair_id[batch.row[-1]]) & (batch.pair_id >= 0) & chosen
    excluded = batch.offset < entry.skips
    if first:
        excluded |= batch.offset > 0
    if not ("pair" in entry.tags and partner.any()):
        excluded |= ~chosen[batch.row]
    assert torch.count_nonzero(student.grad[batch.cache_index[excluded]]) == 0


@EACH
@PROPERTY
@given(world=worlds)
def test_padding_changes_nothing(name, world) -> None:
    student, teacher = logits(world), logits(world, 1)
    results = []
    for side, pad_to in (("right", 1), ("left", 1), ("right", 16)):
        moving = student.clone().requires_grad_()
        total, count = run(name, batch_of(world[0], side, pad_to), moving, teacher)
        total.sum().backward()
        results.append((total, count, moving.grad))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(n for n, e in TABLE.items() if "zero" in e.tags))
@PROPERTY
@given(world=worlds, dense=st.booleans())
def test_student_equal_to_teacher_gives_zero(name, world, dense) -> None:
    student = logits(world).requires_grad_()
    total, _ = run(name, batch_of(world[0]), student, student.detach().clone(), dense=dense)
    total.sum().backward()
    assert torch.count_nonzero(total) == 0 and torch.count_nonzero(student.grad) == 0


@EACH
@PROPERTY
@given(world=worlds)
def test_accumulation_equals_a_big_batch(name, world) -> None:
    lengths = world[0]
    student, teacher = logits(world), logits(world, 1)
    whole = student.clone().requires_grad_()
    total, count = run(name, batch_of(lengths), whole, teacher)
    (total.sum() / count.sum().clamp_min(1)).backward()
    parts = student.clone().requires_grad_()
    cut = sum(lengths[:2])  # companions stay together
    for rows, at in ((lengths[:2], slice(0, cut)), (lengths[2:], slice(cut, None))):
        if rows:
            batch = batch_of(rows)
            batch.labels = batch_of(lengths).labels[_same(lengths, rows, at)]
            part, _ = run(name, batch, parts[at], teacher[at])
            (part.sum() / count.sum().clamp_min(1)).backward()
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-5, atol=1e-6)


def _same(lengths, rows, at) -> torch.Tensor:
    """Where the positions of some rows lie in the batch of all rows."""
    everything, part = batch_of(lengths), batch_of(rows)
    place = {c: i for i, c in enumerate(everything.cache_index.tolist())}
    return torch.tensor([place[c + (at.start or 0)] for c in part.cache_index.tolist()])


@EACH
def test_finite_at_extreme_logits(name) -> None:
    batch = batch_of([2, 1])
    student = torch.zeros(3, V)
    student[:, 1], student[:, 2], student[:, 0] = 1e4, -1e4, TABLE[name].extreme
    student.requires_grad_()
    total, _ = run(name, batch, student, -student.detach())
    total.sum().backward()
    assert torch.isfinite(total).all() and torch.isfinite(student.grad).all()


@EACH
def test_bf16_inputs_within_tolerance(name) -> None:
    world = ([3, 2, 4, 1], 5, 1.0)
    student, teacher = logits(world), logits(world, 1)
    batch = batch_of(world[0])
    # the choice of the top k is no matter of precision here
    exact, _ = run(name, batch, student.bfloat16().float(), teacher.bfloat16().float())
    outputs = outputs_of(batch, student.bfloat16(), teacher.bfloat16())
    rounded, count = call(TABLE[name].function, outputs, TABLE[name].settings)
    assert rounded.dtype == count.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("name", ["kl_to_original", "undial", "ceu", "npo_on_logits"])
def test_chunks_and_rows_of_other_roles_change_nothing(name, monkeypatch) -> None:
    world = ([3, 2, 4, 1], 5, 2.0)
    batch, student, teacher = batch_of(world[0]), logits(world), logits(world, 1)
    entry = TABLE[name]
    wanted = torch.tensor([True, False, True, True])
    results = []
    for chunk in (100, 3):
        monkeypatch.setattr("harmonize.models.head.rows_per_chunk", lambda *_, c=chunk: c)
        for rows in (None, wanted):
            moving = student.clone().requires_grad_()
            total, count = call(entry.function, outputs_of(batch, moving, teacher), entry.settings, rows)
            total[wanted].sum().backward()
            results.append((total[wanted], count[wanted], moving.grad))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-6)
