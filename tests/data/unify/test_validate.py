"""Every reason to reject, and near-duplicates."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize.data.unify.task import Pair, Task
from harmonize.data.unify.validate import REASONS, Duplicates, Limits, grounded, is_english, leaks, reason

TEXT = "Dorothy lived in Kansas with Uncle Henry, who was a farmer. The house had four walls and never shook."
TASK = Task("passage", text=TEXT)
GOOD = Pair(
    "Where did Dorothy live?",
    "Dorothy lived in Kansas.",
    "in Kansas",
    "Dorothy lived in Kansas with Uncle Henry",
)


def test_a_good_pair_has_no_reason() -> None:
    assert reason(GOOD, TASK, Limits()) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"question": " "}, "empty"),
        ({"answer": ""}, "empty"),
        ({"question": "Dorothy where?"}, "question_short"),
        ({"question": "Where " + "very " * 90 + "far?"}, "question_long"),
        ({"answer": "Kansas " * 200, "value": ""}, "answer_long"),
        ({"question": "Dorothy lived somewhere in the west."}, "not_a_question"),
        ({"paraphrases": ("She lived there.",)}, "not_a_question"),
        ({"value": "in Omaha"}, "value_missing"),
        ({"answer": "She lived in Omaha.", "value": "in Omaha"}, "not_in_source"),
        ({"question": "Who lived in kansas?"}, "leak"),
        ({"paraphrases": ("In Kansas lived who?",)}, "leak"),
        ({"question": "Où est-ce que Dorothy vivait avec les gens du pays?"}, "language"),
        ({"question": "Где жила Дороти?"}, "language"),
    ],
)
def test_each_reason(changes: dict[str, object], expected: str) -> None:
    assert reason(replace(GOOD, **changes), TASK, Limits()) == expected  # type: ignore[arg-type]
    assert expected in REASONS


def test_answers_can_be_too_short() -> None:
    assert reason(GOOD, TASK, Limits(min_answer_words=9)) == "answer_short"


def test_every_reason_has_a_sentence() -> None:
    assert all(text and text[0].islower() for text in REASONS.values())


def test_language_can_be_switched_off() -> None:
    pair = replace(GOOD, question="Où est-ce que Dorothy vivait avec les gens du pays?")
    assert reason(pair, TASK, Limits(language=None)) is None


@pytest.mark.parametrize(
    ("question", "value", "expected"),
    [
        ("Who is Dorothy's uncle?", "Dorothy", True),
        ("Who met the old tin man of the wood?", "the man of tin", True),
        ("Who met the man?", "the tin man", False),
        ("Where is Kansas-City?", "Kansas", True),
        ("Where is Arkansas?", "Kansas", False),
        ("Is there no way out?", "No", True),
        ("How many walls has it?", "four", False),
        ("What did he pay, $5?", "$", True),
    ],
)
def test_leaks(question: str, value: str, expected: bool) -> None:
    assert leaks(question, value) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Uncle Henry", True),
        ("uncle  henry", True),
        ("UNCLE HENRY’S", True),
        ("Aunt Em", False),
        (
            "Dorothy's uncle Henry was a farmer in Kansas",
            True,
        ),  # entailed: every content word in one sentence
        ("Dorothy and Uncle Henry had four walls", False),  # spread over two sentences
        ("the house with four walls shook", False),  # the negation is lost
        ("the house had five walls and never shook", False),  # another number
    ],
)
def test_grounding(value: str, expected: bool) -> None:
    assert grounded(value, TEXT) is expected


@pytest.mark.parametrize(
    ("task", "pair", "expected"),
    [
        (Task("choice", answer="Paris"), Pair("What is the capital of France?", "Paris"), None),
        (Task("choice", answer="Paris"), Pair("What is the capital of France?", "Rome"), "not_in_source"),
        (Task("cloze", answer="1815"), Pair("When was Ada Lovelace born?", "In 1815.", "1815"), None),
        (
            Task("qa", answer="Bram Stoker wrote it."),
            Pair("Who wrote Dracula?", "Bram Stoker wrote it.", "Bram Stoker"),
            None,
        ),
        (Task("qa", answer="Bram Stoker"), Pair("Who wrote Dracula?", "Mary Shelley"), "not_in_source"),
        (Task("chat"), Pair("Write me a poem", "Roses are red."), None),
        (Task("anchor"), Pair("Who wrote Emma?", "Jane Austen"), None),
    ],
)
def test_other_forms(task: Task, pair: Pair, expected: str | None) -> None:
    assert reason(pair, task, Limits()) == expected


def test_english() -> None:
    assert is_english("The cat sat on the mat and looked at the dog.")
    assert is_english("Jabberwock?")  # too short to tell but for its letters
    assert not is_english("Der Hund und die Katze sind nicht auf dem Tisch.")
    assert not is_english("猫はどこにいますか")


def seen(*pairs: Pair) -> list[bool]:
    duplicates = Duplicates()
    return [duplicates.seen(pair) for pair in pairs]


def test_duplicates_in_other_words() -> None:
    first = Pair('In "X", who slowly opened the heavy door of the old castle?', "Ann", "Ann")
    again = Pair('Who slowly opened the heavy door of the old castle in "X"?', "It was Ann", "Ann")
    reworded = Pair('In "X", who quietly opened the heavy door of the old castle?', "Ann", "Ann")
    same_question = Pair('in "X" who slowly opened the heavy door of old castle', "Bob", "Bob")
    assert seen(first, first, again, reworded, same_question) == [False, True, True, True, True]


def test_one_template_many_questions() -> None:
    assert (
        seen(
            Pair("Where was Jim Carrey born?", "Canada"),
            Pair("Where was Mel Gibson born?", "the USA"),
            Pair("Where was Jim Parsons born?", "the USA"),
            Pair("In what year was the old company called Acme founded by Ann?", "1990"),
            Pair("In what year was the old company called Bolt founded by Ann?", "1990"),
            Pair("How many of the old houses of the town had 3 doors?", "nine"),
            Pair("How many of the old houses of the town had 4 doors?", "nine"),
            Pair("Who did Dorothy see?", "Toto"),
            Pair("Who saw Dorothy?", "Toto"),
            Pair('Complete: "The ___ sat on the old red mat of the house"', "cat"),
            Pair('Complete: "The cat sat on the old red ___ of the house"', "mat"),
        )
        == [False] * 11
    )


@given(st.lists(st.integers(min_value=0, max_value=60), max_size=200))
def test_duplicates_agree_with_a_set_of_questions(numbers: list[int]) -> None:
    pairs = [Pair(f"Who owns house number {n}?", f"Person {n}") for n in numbers]
    known: set[int] = set()
    expected = []
    for n in numbers:
        expected.append(n in known)
        known.add(n)
    assert seen(*pairs) == expected


def test_memory_of_duplicates_is_bounded_by_hashes() -> None:
    duplicates = Duplicates()
    for i in range(2000):
        assert not duplicates.seen(
            Pair(f"Who slowly opened the heavy door of the old castle number {i}?", f"P{i}")
        )
    assert len(duplicates) <= 2000 * 26
