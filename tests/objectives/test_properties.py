"""What must hold for any logits, for every row of the table: slow references, and real batches."""

import importlib
import inspect
import pkgutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize import objectives
from harmonize.testing import World, check_objective
from harmonize.testing import objectives as checks
from tests.objectives.table import TABLE

EACH = pytest.mark.parametrize("name", sorted(TABLE))
worlds = st.builds(
    World,
    lengths=st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple),
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.1, 2.0, 20.0]),
)
PROPERTY = settings(max_examples=4, deadline=None, derandomize=True)


def test_every_objective_has_a_row() -> None:
    tools = ("inputs", "reduce")
    found = [m.name for m in pkgutil.iter_modules(objectives.__path__) if m.name not in tools]
    modules = [importlib.import_module(f"{objectives.__name__}.{name}") for name in found]
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
    checks.equals_the_slow_value(TABLE[name], world, first, dense, planned)


@EACH
@PROPERTY
@given(world=worlds, first=st.booleans())
def test_counts_are_known_beforehand(name, world, first) -> None:
    checks.counts_are_known_beforehand(TABLE[name], world, first)


@EACH
@PROPERTY
@given(world=worlds, dense=st.booleans())
def test_excluded_positions_get_exactly_zero_gradient(name, world, dense) -> None:
    checks.excluded_positions_get_no_gradient(TABLE[name], world, dense)


@EACH
@PROPERTY
@given(world=worlds)
def test_padding_changes_nothing(name, world) -> None:
    checks.padding_changes_nothing(TABLE[name], world)


@pytest.mark.parametrize("name", sorted(n for n, e in TABLE.items() if "zero" in e.tags))
@PROPERTY
@given(world=worlds, dense=st.booleans())
def test_student_equal_to_teacher_gives_zero(name, world, dense) -> None:
    checks.is_zero_where_the_student_is_the_teacher(TABLE[name], world, dense)


@EACH
@PROPERTY
@given(world=worlds)
def test_accumulation_equals_a_big_batch(name, world) -> None:
    checks.accumulation_equals_a_big_batch(TABLE[name], world)


@EACH
def test_the_public_check(name) -> None:
    """All of these, and extremes, bf16, chunks and rows of other roles, in the worlds that a user's own row meets."""
    check_objective(TABLE[name])
