"""Samplers beside the balanced one: functions of the step, shared by ranks, with their source's counts and coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harmonize.data.example import Example, Role
from harmonize.data.samplers import Cyclic, Interleaved, Modular, RandomOneToOne, Ratio, spread
from harmonize.errors import ConfigError, DataError


def pool(role: str, n: int, subjects: int = 1000, source: str = "") -> list[Example]:
    return [
        Example(f"{role}-{source}{i}", Role(role), "q", "a", f"s{i % subjects}", source) for i in range(n)
    ]


def anchored(n: int) -> list[Example]:
    return [
        Example(f"neighbor-{i}", Role.NEIGHBOR, "q", "a", f"n{i}", anchor_of=f"forget-{i % 5}")
        for i in range(n)
    ]


EXAMPLES = {
    "forget": pool("forget", 7, subjects=3),
    "neighbor": pool("neighbor", 11, subjects=3),
    "retain": [*pool("retain", 20), *pool("retain", 6, source="books")],
}
PAIRS = {"forget": 4, "neighbor": 4, "retain": 4}
MADE: dict[str, Callable[..., Any]] = {
    "random_one_to_one": lambda *a: RandomOneToOne(EXAMPLES, *a, rows=PAIRS),
    "cyclic": lambda *a: Cyclic(EXAMPLES, *a, rows=PAIRS),
    "cyclic_in_order": lambda *a: Cyclic(EXAMPLES, *a, rows=PAIRS, shuffle=False),
    "modular": lambda *a: Modular(EXAMPLES, *a, rows={**PAIRS, "retain": 2}),
    "ratio": lambda *a: Ratio(EXAMPLES, *a, rows={"forget": 2, "neighbor": 1, "retain": 2}, size=8),
    "interleaved": lambda *a: Interleaved(
        EXAMPLES, *a, rows={**PAIRS, "retain": 2}, sources=["books"], general=2
    ),
}


def ids(sampler: Any, steps: int | range) -> list[str]:
    return [
        d.example.id for s in (range(steps) if isinstance(steps, int) else steps) for d in sampler.draw(s)
    ]


@pytest.mark.parametrize("name", MADE)
def test_a_step_depends_on_seed_and_step_alone(name: str) -> None:
    one, other = MADE[name](3), MADE[name](3)
    for step in range(12):
        one.draw(step)
    assert one.draw(17) == other.draw(17) and one.draw(2) == other.draw(2)
    if name != "cyclic_in_order":
        assert ids(MADE[name](4), 12) != ids(one, 12)


@pytest.mark.parametrize("name", MADE)
def test_ranks_share_a_step(name: str) -> None:
    whole, parts = MADE[name](3), [MADE[name](3, rank, 2) for rank in (0, 1)]
    for step in range(9):
        drawn = [[(d.example.id, d.epoch) for d in p.draw(step)] for p in parts]
        assert sorted(drawn[0] + drawn[1]) == sorted((d.example.id, d.epoch) for d in whole.draw(step))
        assert len(drawn[0]) == len(drawn[1])


def test_random_one_to_one() -> None:
    sampler = MADE["random_one_to_one"](0)
    draws = [d for s in range(7 * 40) for d in sampler.draw(s)]
    forget = [d for d in draws if d.example.role == "forget"]
    assert Counter(Counter(d.example.id for d in forget if d.epoch == 5).values()) == {1: 7}
    assert [str(d.example.role) for d in draws[:6]] == ["forget", "neighbor", "retain"] * 2
    partners = Counter(d.example.id for d in draws if d.example.role == "retain")
    assert len(partners) == 26 and sum(partners.values()) == len(forget) == 1120
    # with replacement: uniform counts scatter around 1120 / 26 = 43 by about its root
    assert min(partners.values()) > 15 and max(partners.values()) < 80 and len(set(partners.values())) > 5


def test_cyclic_covers_the_longest_role_once_and_recycles_the_others() -> None:
    for name in ("cyclic", "cyclic_in_order"):
        sampler = MADE[name](0)
        draws = [d for s in range(13) for d in sampler.draw(s)]  # 52 places: two passes of 26
        for epoch in (0, 1):
            counts = Counter(d.example.id for d in draws if d.epoch == epoch)
            assert {counts[e.id] for e in EXAMPLES["retain"]} == {1}
            assert {counts[e.id] for e in EXAMPLES["forget"]} == {3, 4}
            assert {counts[e.id] for e in EXAMPLES["neighbor"]} == {2, 3}
    assert ids(MADE["cyclic_in_order"](0), 1)[:6] == [
        "forget-0", "neighbor-0", "retain-0", "forget-1", "neighbor-1", "retain-1",
    ]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 14), st.integers(1, 4), st.integers(0, 99))
def test_modular_pairs_share_a_subject_and_cover_everything(f: int, n: int, subjects: int, seed: int) -> None:
    examples = {"forget": pool("forget", f, subjects), "neighbor": pool("neighbor", n, min(subjects, f))}
    sampler = Modular(examples, seed, rows={"forget": 1, "neighbor": 1})
    draws = [sampler.draw(s) for s in range(sampler.length)]
    assert {d.epoch for step in draws for d in step} == {0} and sampler.draw(sampler.length)[0].epoch == 1
    assert {d.example.id for step in draws for d in step} == {
        e.id for group in examples.values() for e in group
    }
    assert all(len({d.example.subject for d in step}) == 1 for step in draws)
    visited = [step[0].example.subject for step in draws]
    changes = sum(a != b for a, b in pairwise(visited))
    assert changes == len(set(visited)) - 1  # module by module
    counts = Counter(d.example.id for step in draws for d in step)
    assert sum(counts.values()) <= 2 * sampler.length


def test_modular_by_anchor_deals_out_what_belongs_to_none() -> None:
    stray = [Example(f"stray-{i}", Role.NEIGHBOR, "q", "a", "x", anchor_of="nobody") for i in range(4)]
    examples = {"forget": pool("forget", 5), "neighbor": [*anchored(5), *stray]}
    sampler = Modular(examples, 0, rows={"forget": 1, "neighbor": 1})
    subject = {e.id: e.subject for e in examples["forget"]}
    for step in range(sampler.length):
        forget, neighbor = (d.example for d in sampler.draw(step))
        if neighbor.anchor_of != "nobody":
            assert subject[neighbor.anchor_of or ""] == forget.subject
    assert {e.id for e in stray} <= set(ids(sampler, sampler.length)) and sampler.length == 9


def test_modular_without_subjects_is_refused() -> None:
    examples = {"forget": pool("forget", 5), "neighbor": [Example("n", Role.NEIGHBOR, "q", "a", "n")]}
    with pytest.raises(DataError, match=r"none of the 1 neighbor.*sampler=balanced"):
        Modular(examples, 0, rows={"forget": 1, "neighbor": 1})


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 7), st.integers(0, 7), st.integers(1, 20))
def test_ratio_holds_at_every_length(f: int, n: int, r: int, size: int) -> None:
    rows = {"forget": f, "neighbor": n, "retain": r}
    sampler = Ratio(EXAMPLES, 0, rows=rows, size=size)
    seen: Counter[str] = Counter()
    for step in range(12):
        drawn = sampler.draw(step)
        assert len(drawn) == size
        seen.update(str(d.example.role) for d in drawn)
        for role, part in rows.items():
            assert abs(seen[role] - (step + 1) * size * part / (f + n + r)) < 2.0
    assert spread({k: v for k, v in rows.items() if v})[-1] == {k: v for k, v in rows.items() if v}


def test_ratio_by_hand() -> None:
    assert spread({"a": 2, "b": 1}) == [
        {"a": 0, "b": 0},
        {"a": 1, "b": 0},
        {"a": 1, "b": 1},
        {"a": 2, "b": 1},
    ]
    sampler = Ratio(EXAMPLES, 0, rows={"forget": 2, "neighbor": 0, "retain": 3}, size=7)
    assert Counter(str(d.example.role) for s in range(5) for d in sampler.draw(s)) == {
        "forget": 14,
        "retain": 21,
    }
    first = [
        d.example.id
        for s in range(99)
        for d in sampler.draw(s)
        if d.example.role == "retain" and d.epoch == 0
    ]
    assert len(first) == len(set(first)) == 26


def test_interleaved_general_samples_are_apart_and_take_turns() -> None:
    sampler = Interleaved(EXAMPLES, 0, rows={"forget": 4, "retain": 4}, sources=["books"], general=2, every=3)
    sizes = [len(sampler.draw(s)) for s in range(9)]
    assert sizes == [10, 8, 8] * 3
    general = [[d.example.id for d in sampler.draw(s) if d.example.source == "books"] for s in range(9)]
    assert [len(g) for g in general] == [2, 0, 0] * 3
    assert len({i for g in general for i in g}) == 6  # one pass of all six, without replacement
    rest = [d.example for s in range(5) for d in sampler.draw(s) if d.example.role == "retain"]
    assert len({e.id for e in rest if not e.source}) == 20


def test_interleaved_without_such_a_source_names_those_there_are() -> None:
    with pytest.raises(DataError, match=r"comes from boks\. Did you mean 'books'.*sampler\.sources"):
        Interleaved(EXAMPLES, 0, rows={"forget": 4}, sources=["boks"])
    with pytest.raises(DataError, match="retain"):
        Interleaved({"retain": pool("retain", 2, source="x")}, 0, rows={"retain": 4}, sources=["x"])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: RandomOneToOne(EXAMPLES, 0, 0, 3, rows=PAIRS), r"sampler\.rows\.forget=6"),
        (lambda: Cyclic(EXAMPLES, 0, rows={"retain": 4}), r"sampler\.rows\.forget=16"),
        (lambda: Ratio(EXAMPLES, 0, 0, 3, rows=PAIRS, size=8), r"sampler\.size=9"),
        (
            lambda: Interleaved(EXAMPLES, 0, 0, 4, rows=PAIRS, sources=["books"], general=2),
            r"sampler\.general=4",
        ),
    ],
)
def test_shares_that_do_not_work_out_are_refused(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()


@pytest.mark.parametrize(
    ("kind", "sampler", "told"),
    [
        (Cyclic, {"rows": {"forget": 8, "neighbor": 4}}, None),  # the method does not train on neighbors
        (Cyclic, {"rows": {"forget": 8, "retain": 4}}, "sampler.rows.retain=8"),
        (RandomOneToOne, {"rows": {"retain": 4}}, "sampler.rows.forget=16"),
        (Modular, {"rows": {"forget": 8, "retain": 4}}, "sampler.paired=[neighbor]"),
        (Modular, {"rows": {"forget": 8, "retain": 4}, "paired": ["retain"]}, "sampler.rows.retain=8"),
        (Modular, {"rows": {"forget": 8}, "paired": ["retian"]}, "Did you mean 'retain'"),
        (Ratio, {"rows": {"forget": 1}, "size": 0}, "sampler.size=1"),
        (Interleaved, {"rows": {"forget": 1}, "sources": ["a"], "general": 0}, "sampler.general=1"),
        (Interleaved, {"rows": {"forget": 1}}, "sampler.sources=[books]"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind: Any, sampler: dict[str, Any], told: str | None) -> None:
    cfg = OmegaConf.create(
        {"sampler": sampler, "method": {"response": {"forget": "reference", "retain": "reference"}}}
    )
    problems = kind.problems(cfg)
    assert (problems == []) if told is None else (len(problems) == 1 and told in problems[0])
