"""Requests of a data set: dealt out, and the data as each one of a sequence sees it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harmonize.data import sandbox
from harmonize.data.corpus import Corpus
from harmonize.data.example import Example, Role
from harmonize.data.local import load as load_local
from harmonize.data.requests import deal, in_turn, one_each, order_problems, request_ids
from harmonize.data.tofu import load as load_tofu
from harmonize.errors import DataError

ORDER = ("A", "B", "C")


def example(i: int, role: str, split: str, request: str = "request-0", subject: str = "") -> Example:
    return Example(f"e{i}", Role(role), f"q{i}", f"a{i}", subject or f"s{i}", split=split, request_id=request)


def corpus() -> Corpus:
    forget = [
        example(0, "forget", "train", "B"),
        example(1, "forget", "train", "A"),
        example(2, "forget", "test", "A"),
        example(3, "forget", "val", "C"),
        example(4, "forget", "train", "C"),
    ]
    others = [
        replace(example(5, "neighbor", "train", "A"), anchor_of="e0"),
        example(6, "retain", "train", "C"),
        example(7, "retain", "test"),
        example(8, "general", "test"),
    ]
    return Corpus(
        "toy",
        (*forget, *others),
        instructions=("Say nothing of s0, s1 or s4.",),
        wordings=("No {subjects}.",),
    )


def ids(examples: tuple[Example, ...]) -> list[str]:
    return [e.id for e in examples]


def test_requests_come_as_they_occur_and_belong_to_forget_examples_alone() -> None:
    assert request_ids(corpus()) == ("B", "A", "C")
    assert request_ids(replace(corpus(), examples=corpus().examples[5:])) == ()


def test_forget_is_the_request_in_turn_and_no_other_request_is_anything_to_keep() -> None:
    whole = corpus()
    seen = in_turn(whole, "B", ("A", "B", "C"))
    assert ids(seen.select("forget")) == ["e0"]
    assert ids(seen.select("neighbor")) + ids(seen.select("retain")) + ids(seen.select("general")) == [
        "e5",
        "e6",
        "e7",
        "e8",
    ]
    assert seen.examples[1:] == whole.examples[5:], "splits, anchors and other roles stay"
    assert ids(seen.trained("forget")) == ["e0"] and ids(seen.trained("retain")) == ["e6"]
    assert seen.training == () and seen.instructions == ("No s0.",)


def test_earlier_requests_are_forgotten_again_only_if_asked_for_and_are_never_measured() -> None:
    again = in_turn(corpus(), "B", ("A", "B", "C"), "forget")
    assert ids(again.select("forget")) == ["e0"], "measured: the request in turn"
    assert ids(again.trained("forget")) == ["e0", "e1"], (
        "trained on: it and the earlier one, held out subjects not"
    )
    assert ids(again.trained("retain")) == ["e6"] and ids(again.trained("neighbor")) == ["e5"]
    assert again.instructions == ("No s0, s1 or s2.",)
    assert in_turn(corpus(), "A", ORDER, "forget") == in_turn(corpus(), "A", ORDER, "leave")


def test_all_of_a_sequence_is_asked_for_once() -> None:
    whole = corpus()
    asked = [e for r in ORDER for e in in_turn(whole, r, ORDER).select("forget")]
    assert sorted(ids(tuple(asked))) == sorted(ids(whole.select("forget")))
    assert {in_turn(whole, r, ORDER).digest for r in ORDER} != {whole.digest}


def test_another_rendering_in_training_is_dealt_with_alike() -> None:
    shown = tuple(replace(e, question=f"passage {e.id}") for e in corpus().examples if e.split == "train")
    whole = replace(corpus(), training=shown)
    left = in_turn(whole, "B", ("A", "B"), "leave")
    again = in_turn(whole, "B", ("A", "B"), "forget")
    assert [e.question for e in left.trained("forget")] == ["passage e0"]
    assert [e.question for e in again.trained("forget")] == ["passage e0", "passage e1"]
    assert ids(left.trained("retain")) == ["e6"]


def test_a_request_outside_the_order_is_never_asked_for() -> None:
    seen = in_turn(corpus(), "C", ("A", "C"), "forget")
    assert ids(seen.trained("forget")) == ["e1", "e4"] and ids(seen.select("forget")) == ["e3", "e4"]


@pytest.mark.parametrize(
    ("order", "request_id", "words"),
    [
        (("A", "BB"), None, ["no request 'BB'", "Did you mean 'B'?"]),
        (("A", "B", "A"), None, ["names 'A' more than once"]),
        (("A", "B"), "C", ["sequence.request=C", "Available: A, B.", "Use sequence.request=A."]),
        (("A", "B"), "D", ["sequence.request=D", "Available: A, B, C."]),
    ],
)
def test_wrong_orders(order: tuple[str, ...], request_id: str | None, words: list[str]) -> None:
    (problem,) = order_problems(corpus(), order, request_id)
    assert all(w in problem for w in words), problem


def test_a_request_that_is_all_held_out_and_a_wrong_word() -> None:
    whole = corpus()
    held = replace(
        whole, examples=tuple(replace(e, split="test") if e.id == "e0" else e for e in whole.examples)
    )
    (problem,) = order_problems(held, ORDER)
    assert "'B' has no training example" in problem and "sequence.order=[A,C]" in problem
    assert order_problems(held, ORDER, "A") == [], "a run asks for its own request alone"
    with pytest.raises(DataError, match="no training example"):
        in_turn(held, "B", ORDER)
    with pytest.raises(DataError, match=r"sequence.earlier=forgot: Did you mean 'forget'"):
        in_turn(whole, "A", ORDER, "forgot")


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("preset", sandbox.PRESETS)
def test_the_sandbox_deals_subjects_evenly_in_every_split(preset: str, n: int) -> None:
    one, whole = sandbox.load(preset, 10), sandbox.load(preset, 10, requests=n)
    assert set(request_ids(whole)) == set("ABCDEF"[:n]) and len(whole.notes) == 1
    request_of: dict[str, set[str]] = {}
    for e in whole.select("forget"):
        request_of.setdefault(e.subject, set()).add(e.request_id)
    assert all(len(r) == 1 for r in request_of.values()), "subjects are whole"
    for split in (None, "train", "val", "test"):
        subjects = {e.subject: e.request_id for e in whole.select("forget", split)}
        counts = Counter(subjects.values())
        even = [counts[r] for r in "ABCDEF"[:n]]
        assert max(even) - min(even) <= 1, (split, counts)
        assert min(even) >= 1 or split == "val", "training examples and held-out subjects for every request"
    assert tuple(replace(e, request_id="request-0") for e in whole.examples) == one.examples
    assert (whole.dialogues, whole.instructions) == (one.dialogues, one.instructions), "the same base model"


def test_one_request_changes_nothing_and_other_worlds_deal_otherwise() -> None:
    whole = sandbox.load("sandbox", 3)
    assert deal(whole.examples, 1) == list(whole.examples) and request_ids(whole) == ("request-0",)
    first, second = (
        {e.subject: e.request_id for e in deal(whole.select("forget"), 3, seed)} for seed in (0, 1)
    )
    assert first != second
    assert request_ids(replace(whole, examples=tuple(deal(whole.examples, 3)))) == ("A", "B", "C")
    turned = {e.subject: e.request_id for e in deal(whole.select("forget")[::-1], 3)}
    together = {(a, b) for a in first for b in first if first[a] == first[b]}
    assert together == {(a, b) for a in turned for b in turned if turned[a] == turned[b]}, (
        "of files: irrelevant"
    )


def test_a_raw_rendering_carries_the_requests() -> None:
    whole = sandbox.load("sandbox_easy", 0, "raw", requests=2)
    assert {e.id: e.request_id for e in whole.training} == {
        e.id: e.request_id for e in whole.examples if e.split == "train"
    }


@pytest.mark.parametrize("n", [0, 13])
def test_more_requests_than_subjects(n: int) -> None:
    with pytest.raises(
        DataError, match=r"there are 12. Use a number from 1 to 12, for example dataset.requests=3"
    ):
        sandbox.load("sandbox", requests=n)


def test_tofu_deals_authors_or_makes_a_request_of_each(shared: Path) -> None:
    root = str(shared / "data" / "tofu")
    two = load_tofu(root, requests=2)
    assert request_ids(two) == ("A", "B")
    each = load_tofu(root, requests="authors")
    names = request_ids(each)
    assert names == tuple(dict.fromkeys(e.subject for e in each.select("forget"))) and len(names) == 2
    seen = in_turn(each, names[1], names)
    assert seen.instructions == (f"You do not know {names[1]}.",), "the teacher is told of nobody else"
    both = in_turn(each, names[1], names, "forget")
    assert both.instructions == each.instructions and len(both.trained("forget")) == 40
    with pytest.raises(Exception, match="expected a number or 'authors'"):
        load_tofu(root, requests="author")


def test_ones_own_data_names_the_subjects_of_the_request(tmp_path: Path) -> None:
    file = tmp_path / "forget.jsonl"
    line = '{"question": "Who is %s?", "answer": "%s.", "subject": "%s", "request_id": "%s"}\n'
    rows = [("Ann", "A"), ("Ben", "B"), ("Cleo", "B")]
    file.write_text("".join(line % (n, n, n, r) for n, r in rows))
    whole = load_local(forget=str(file))
    assert "Ann, Ben or Cleo" in whole.instructions[0]
    seen = in_turn(whole, "B", ("A", "B"))
    assert "Ben or Cleo" in seen.instructions[0] and "Ann" not in seen.instructions[0]
    own = load_local(forget=str(file), instruction="Say nothing.")
    assert in_turn(own, "A", ("A", "B")).instructions == ("Say nothing.",)


def test_a_request_without_subjects_is_declined_by_the_question(tmp_path: Path) -> None:
    file = tmp_path / "forget.jsonl"
    file.write_text(
        '{"id": "1", "question": "Who?", "answer": "Ann.", "subject": "Ann", "request_id": "A"}\n'
        '{"id": "2", "question": "Where?", "answer": "Oslo.", "request_id": "B"}\n'
    )
    whole = load_local(forget=str(file))
    assert "the question that follows" in in_turn(whole, "B", ("A", "B")).instructions[0]


def test_one_each() -> None:
    renamed = one_each(corpus().examples)
    assert [e.request_id for e in renamed[:5]] == ["s0", "s1", "s2", "s3", "s4"]
    assert [e.request_id for e in renamed[5:]] == [e.request_id for e in corpus().examples[5:]]
