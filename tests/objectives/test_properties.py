"""What must hold for any logits, checked against the slow references and through real batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.objectives.distill import pull, push
from harmonize.objectives.inputs import call, list_sizes
from harmonize.objectives.likelihood import cross_entropy, gradient_ascent
from tests.objectives.fakes import batch_of, outputs_of
from tests.references import losses as slow

V = 12
OBJECTIVES = {
    "pull": (pull, {"k": 4, "delta": 0.7, "temperature": 1.3}),
    "push": (push, {"k": 5, "k_teacher": 3, "delta": 0.7, "temperature": 1.3}),
    "cross_entropy": (cross_entropy, {}),
    "gradient_ascent": (gradient_ascent, {}),
}
EACH = pytest.mark.parametrize("name", sorted(OBJECTIVES))
worlds = st.tuples(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.integers(0, 2**31),
    st.sampled_from([0.1, 2.0, 20.0]),
)
PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)


def logits(world, salt: int = 0) -> torch.Tensor:
    lengths, seed, spread = world
    draw = torch.Generator().manual_seed(seed + salt)
    return torch.randn(sum(lengths), V, generator=draw) * spread


def run(name: str, batch, student, teacher, **more):
    function, chosen = OBJECTIVES[name]
    options = {k: more.pop(k) for k in ("dense", "sizes") if k in more}
    return call(function, outputs_of(batch, student, teacher, **options), {**chosen, **more})


@EACH
@PROPERTY
@given(world=worlds, positions=st.sampled_from(["all", "first"]), dense=st.booleans(), planned=st.booleans())
def test_equals_the_slow_reference(name, world, positions, dense, planned) -> None:
    batch = batch_of(world[0])
    student, teacher = logits(world), logits(world, 1)
    function, chosen = OBJECTIVES[name]
    sizes = list_sizes([(function, chosen)]) if planned else (0, 0)
    total, count = run(name, batch, student, teacher, positions=positions, dense=dense, sizes=sizes)
    expected = []
    for c, label in zip(batch.cache_index.tolist(), batch.labels.tolist(), strict=True):
        z_s, z_t = student[c].tolist(), teacher[c].tolist()
        expected.append(
            {
                "pull": lambda a=z_s, b=z_t: slow.pull_at(a, b, 4, 0.7, 1.3),
                "push": lambda a=z_s, b=z_t: slow.push_at(a, b, 5, 3, 0.7, 1.3),
                "cross_entropy": lambda a=z_s, y=label: slow.cross_entropy_at(a, y),
                "gradient_ascent": lambda a=z_s, y=label: -slow.cross_entropy_at(a, y),
            }[name]()
        )
    rows = slow.rows(expected, batch.row.tolist(), batch.offset.tolist(), batch.n_rows, positions)
    torch.testing.assert_close((total, count), rows, rtol=1e-5, atol=1e-5)


@EACH
@PROPERTY
@given(world=worlds, dense=st.booleans())
def test_excluded_positions_get_exactly_zero_gradient(name, world, dense) -> None:
    batch = batch_of(world[0])
    student = logits(world).requires_grad_()
    total, _ = run(name, batch, student, logits(world, 1), positions="first", dense=dense)
    total.sum().backward()
    excluded = batch.cache_index[batch.offset > 0]
    assert torch.count_nonzero(student.grad[excluded]) == 0


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


@pytest.mark.parametrize("name", ["pull", "push"])
@PROPERTY
@given(world=worlds, dense=st.booleans())
def test_student_equal_to_teacher_gives_zero(name, world, dense) -> None:
    student = logits(world).requires_grad_()
    total, _ = run(name, batch_of(world[0]), student, student.detach().clone(), dense=dense)
    total.sum().backward()
    assert torch.count_nonzero(total) == 0 and torch.count_nonzero(student.grad) == 0


@EACH
@PROPERTY
@given(world=worlds, cut=st.integers(1, 4))
def test_accumulation_equals_a_big_batch(name, world, cut) -> None:
    lengths = world[0]
    student, teacher = logits(world), logits(world, 1)
    whole = student.clone().requires_grad_()
    total, count = run(name, batch_of(lengths), whole, teacher)
    (total.sum() / count.sum()).backward()
    parts = student.clone().requires_grad_()
    start = 0
    for rows in (lengths[:cut], lengths[cut:]):
        if rows:
            stop = start + sum(rows)
            part, _ = run(name, batch_of(rows), parts[start:stop], teacher[start:stop])
            (part.sum() / count.sum()).backward()
            start = stop
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-5, atol=1e-7)


@EACH
def test_finite_at_extreme_logits(name) -> None:
    batch = batch_of([2, 1])
    student = torch.zeros(3, V)
    student[:, 1], student[:, 2], student[:, 0] = 1e4, -1e4, 1e30
    student.requires_grad_()
    total, _ = run(name, batch, student, -student.detach())
    total.sum().backward()
    assert torch.isfinite(total).all() and torch.isfinite(student.grad).all()


def test_bf16_inputs_within_tolerance() -> None:
    row, offset = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 6, generator=draw) * 3 for _ in range(2))
    shared = torch.rand(4, 6, generator=draw) < 0.5
    for arguments, function in (((student, teacher), pull), ((student, teacher, shared), push)):
        exact, _ = function(*arguments, row, offset, 2)
        low = [a.bfloat16() if a.is_floating_point() else a for a in arguments]
        rounded, count = function(*low, row, offset, 2)
        assert rounded.dtype == count.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=2e-2)
