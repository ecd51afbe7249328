"""The balanced sampler: without replacement, a function of the step, disjoint between ranks."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.data.example import Example, Role
from harmonize.data.sampling import BalancedSampler, balanced
from harmonize.errors import ConfigError, DataError


def pool(role: str, n: int) -> list[Example]:
    return [Example(f"{role}-{i}", Role(role), "q", "a", f"s{i}") for i in range(n)]


EXAMPLES = {"forget": pool("forget", 7), "retain": pool("retain", 20)}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 5))
def test_every_example_once_per_epoch(size: int, rows: int, seed: int) -> None:
    sampler = BalancedSampler({"forget": pool("forget", size)}, {"forget": rows}, seed)
    draws = [d for step in range(3 * size) for d in sampler.draw(step)]
    for epoch in range(rows * 3):
        seen = Counter(d.example.id for d in draws if d.epoch == epoch)
        assert not seen or max(seen.values()) == 1
        if sum(seen.values()) and (epoch + 1) * size <= rows * 3 * size:
            assert len(seen) == size


def test_roles_are_balanced_in_every_step() -> None:
    sampler = BalancedSampler(EXAMPLES, {"forget": 3, "retain": 5}, 0)
    for step in range(20):
        roles = Counter(str(d.example.role) for d in sampler.draw(step))
        assert roles == {"forget": 3, "retain": 5}


def test_a_step_depends_on_nothing_before_it() -> None:
    one, other = (BalancedSampler(EXAMPLES, {"forget": 3, "retain": 5}, 4) for _ in range(2))
    for step in range(10):
        one.draw(step)
    assert one.draw(17) == other.draw(17)


def test_seeds_and_epochs_differ() -> None:
    order = [
        [d.example.id for d in BalancedSampler(EXAMPLES, {"retain": 20}, s).draw(e)]
        for s in (0, 1)
        for e in (0, 1)
    ]
    assert len({tuple(o) for o in order}) == 4


def test_ranks_share_a_step_without_overlap() -> None:
    whole = BalancedSampler(EXAMPLES, {"forget": 4, "retain": 8}, 2)
    parts = [BalancedSampler(EXAMPLES, {"forget": 4, "retain": 8}, 2, rank, 2) for rank in (0, 1)]
    for step in range(5):
        # one example may stand twice in a step only as the end of one epoch and the start of the next
        ids = [[(d.example.id, d.epoch) for d in p.draw(step)] for p in parts]
        assert not set(ids[0]) & set(ids[1])
        assert sorted(ids[0] + ids[1]) == sorted((d.example.id, d.epoch) for d in whole.draw(step))


def test_uneven_ranks_are_refused_with_the_override() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.rows\.forget=4"):
        balanced(EXAMPLES, 0, 0, 2, rows={"forget": 3})


def test_a_role_without_examples_is_named() -> None:
    with pytest.raises(DataError, match="neighbor"):
        balanced(EXAMPLES, 0, rows={"forget": 1, "neighbor": 2})
