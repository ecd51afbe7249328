"""Splits by subject: whole subjects, stated counts, and no dependence on order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harmonize.config.schema import SplitShares
from harmonize.data.example import Example, Role
from harmonize.data.split import SPLITS, assign, describe, largest_remainder, resolve_shares, split_notes
from harmonize.errors import DataError

ALL = {"train": 1.0, "val": 0.0, "test": 0.0}


def make(role: str, subject: str, n: int = 1, split: str = "") -> list[Example]:
    return [
        Example(f"{role}-{subject}-{i}", Role(role), f"q{i}", "a", subject=subject, split=split)
        for i in range(n)
    ]


def retain(n: int, each: int = 1) -> list[Example]:
    return [e for s in range(n) for e in make("retain", f"s{s}", each)]


def subjects(examples: list[Example], role: str = "retain") -> dict[str, int]:
    found = {(e.subject, e.split) for e in examples if e.role == role}
    return dict(Counter(split for _, split in found))


def test_counts_follow_the_largest_remainder_rule() -> None:
    assert subjects(assign(retain(10))) == {"train": 6, "val": 1, "test": 3}
    assert subjects(assign(retain(8))) == {"train": 5, "val": 1, "test": 2}
    assert subjects(assign(retain(2))) == {"train": 1, "test": 1}
    assert subjects(assign(retain(1))) == {"train": 1}


@given(st.integers(0, 200), st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(any))
def test_largest_remainder_sums_and_stays_within_one(n: int, weights: list[int]) -> None:
    shares = dict(zip(SPLITS, map(float, weights), strict=True))
    counts = largest_remainder(n, shares)
    assert sum(counts.values()) == n
    for split in SPLITS:
        assert abs(counts[split] - n * shares[split] / sum(weights)) < 1 + 1e-6
        assert shares[split] > 0 or counts[split] == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["forget", "neighbor", "retain"]),
            st.integers(0, 9).map(str),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=25,
        unique_by=lambda t: t[:2],
    ),
    st.randoms(use_true_random=False),
    st.integers(0, 3),
)
def test_subjects_stay_whole_and_order_is_irrelevant(parts, random, seed) -> None:  # type: ignore[no-untyped-def]
    examples = [e for role, subject, n in parts for e in make(role, subject, n)]
    done = assign(examples, seed=seed)
    assert [e.id for e in done] == [e.id for e in examples]
    assert len({(e.role, e.subject, e.split) for e in done}) == len(parts)
    shuffled = list(examples)
    random.shuffle(shuffled)
    assert {e.id: e.split for e in assign(shuffled, seed=seed)} == {e.id: e.split for e in done}
    assert assign(done, seed=seed + 1) == done  # written splits win over any seed


def test_the_seed_chooses_other_subjects() -> None:
    drawn = {tuple(e.split for e in assign(retain(12), seed=s)) for s in range(4)}
    assert len(drawn) == 4


def test_a_written_split_wins_for_the_whole_subject_and_counts() -> None:
    examples = retain(10, each=2)
    fixed = replace(examples[0], split="test")
    done = assign([fixed, *examples[1:]])
    assert done[0].split == done[1].split == "test"
    assert subjects(done) == {"train": 6, "val": 1, "test": 3}


def test_more_written_than_due_takes_from_the_others() -> None:
    examples = [e for s in range(5) for e in make("retain", f"t{s}", split="test")] + retain(5)
    assert subjects(assign(examples)) == {"test": 5, "train": 4, "val": 1}


def test_contradicting_splits_of_a_subject_are_an_error() -> None:
    with pytest.raises(DataError, match=r"Subject 's'.*one split"):
        assign([*make("retain", "s", split="test"), replace(make("retain", "s")[0], id="b", split="train")])


def test_forget_is_trained_on_entirely_unless_shares_say_otherwise() -> None:
    examples = [e for s in range(10) for e in make("forget", f"s{s}")]
    assert subjects(assign(examples), "forget") == {"train": 10}
    shared = assign(examples, {"forget": {"train": 0.7, "test": 0.3}})
    assert subjects(shared, "forget") == {"train": 7, "test": 3}


def test_shares_may_be_an_object() -> None:
    assert subjects(assign(retain(10), {"retain": SplitShares(0.5, 0.25, 0.25)})) == {
        "train": 5,
        "val": 2,
        "test": 3,
    }


def test_shares_may_come_from_a_composed_configuration() -> None:
    shares = OmegaConf.create({"retain": {"train": 0.5, "test": 0.5}, "general": None})
    assert subjects(assign(retain(10), shares)) == {"train": 5, "test": 5}


def test_no_training_subject_is_an_error_that_says_what_to_type() -> None:
    with pytest.raises(DataError, match=r"No retain subject.*dataset\.split\.retain=\{train: 1"):
        assign(make("retain", "s"), {"retain": {"train": 0.2, "val": 0.2, "test": 0.6}})
    with pytest.raises(DataError, match="No forget subject"):
        assign(make("forget", "s"), {"forget": {"test": 1.0}})
    assert subjects(assign(retain(3), {"retain": {"test": 1.0}})) == {"test": 3}


def test_general_examples_are_never_trained_on() -> None:
    done = assign([e for s in range(10) for e in make("general", f"s{s}")])
    assert subjects(done, "general") == {"val": 3, "test": 7}
    with pytest.raises(DataError, match="never trained on"):
        assign(make("general", "s", split="train"))


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"retein": ALL}, "unknown role 'retein'. Did you mean 'retain'"),
        ({"retain": {"training": 1.0}}, "unknown split 'training'. Did you mean 'train'"),
        ({"retain": {"train": 0.5}}, "sum to 1"),
        ({"retain": {"train": 1.5, "test": -0.5}}, "between 0 and 1"),
    ],
)
def test_wrong_shares_are_explained(shares: dict[str, dict[str, float]], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        resolve_shares(shares)


def test_describe_counts_examples_facts_and_subjects() -> None:
    one = [replace(e, fact="f") for e in make("forget", "s", 3)]
    assert describe(assign(one)) == {"forget": {"train": {"examples": 3, "facts": 1, "subjects": 1}}}


def test_notes_name_shared_subjects_and_missing_splits() -> None:
    notes = split_notes(assign([*make("forget", "Ann"), *make("retain", "Ann"), *make("neighbor", "Bob")]))
    text = " ".join(notes)
    assert "'Ann'" in text and "No held-out retain" in text and "val" in text
