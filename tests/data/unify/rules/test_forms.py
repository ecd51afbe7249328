"""Choice, cloze, chat and question-answer pairs."""

from __future__ import annotations

import pytest

from harmonize.data.unify.rules import Rules
from harmonize.data.unify.task import Failure, Pair, Task


def one(task: Task) -> list[Pair] | Failure:
    return Rules().rewrite([task])[0]


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Question: Which planet is largest?", "Jupiter", "Which planet is largest?"),
        ("What do cats eat", "mice", "What do cats eat?"),
        ("Which of the following is the capital of France?", "Paris", "What is the capital of France?"),
        ("Which of the following gases is needed for fire?", "oxygen", "Which gas is needed for fire?"),
        ("The capital of France is", "Paris.", 'Complete the statement: "The capital of France is ___."'),
        (
            "When a ball falls, it is pulled by",
            "gravity",
            'Complete the statement: "When a ball falls, it is pulled by ___."',
        ),
        ("Water is hydrogen and ____.", "oxygen", 'What belongs in the gap: "Water is hydrogen and ___"?'),
    ],
)
def test_choice_becomes_a_question(question: str, answer: str, expected: str) -> None:
    found = one(Task("choice", question=question, answer=answer, choices=(answer, "other")))
    assert not isinstance(found, Failure)
    assert found[0].question == expected
    assert (found[0].value or found[0].answer) == answer.rstrip(".")
    assert found[0].value in found[0].answer


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which of the following is true?", "Cats sleep"),
        ("Which statement best explains rain?", "Clouds cool"),
        ("All of these are metals EXCEPT", "wood"),
        ("What do cats eat?", "All of the above"),
        ("What do cats eat?", "Both A and B"),
        ("What do cats eat?", "I and II only"),
        ("Which is an example of a mammal?", "a cat"),
    ],
)
def test_choice_that_needs_its_options_is_counted(question: str, answer: str) -> None:
    found = one(Task("choice", question=question, answer=answer, choices=(answer, "other")))
    assert isinstance(found, Failure) and found.reason == "needs_options"


def test_cloze_is_filled() -> None:
    found = one(Task("cloze", question="Jim Carrey was born in ____, Ontario, Canada", answer="Newmarket"))
    assert found == [
        Pair(
            'What belongs in the gap: "Jim Carrey was born in ___, Ontario, Canada"?',
            "Jim Carrey was born in Newmarket, Ontario, Canada.",
            "Newmarket",
            "",
            ('Complete the sentence: "Jim Carrey was born in ___, Ontario, Canada."',),
        )
    ]


@pytest.mark.parametrize(
    ("gapped", "value", "expected"),
    [
        ("Ada Lovelace was born in ___.", "1815", "When was Ada Lovelace born?"),
        ("Ada Lovelace was born in ___.", "London", "Where was Ada Lovelace born?"),
        (
            "Ada Lovelace was born in ___.",
            "poverty",
            'What belongs in the gap: "Ada Lovelace was born in ___"?',
        ),
    ],
)
def test_cloze_becomes_a_question_where_that_is_safe(gapped: str, value: str, expected: str) -> None:
    found = one(Task("cloze", question=gapped, answer=value))
    assert not isinstance(found, Failure) and found[0].question == expected


@pytest.mark.parametrize(
    ("gapped", "reason"), [("No gap here.", "no_gap"), ("___ and ___ ran.", "several_gaps")]
)
def test_cloze_without_one_gap_is_counted(gapped: str, reason: str) -> None:
    found = one(Task("cloze", question=gapped, answer="x"))
    assert isinstance(found, Failure) and found.reason == reason


def test_exchanges_of_a_conversation_that_stand_by_themselves() -> None:
    messages = (
        ("system", "Be nice."),
        ("user", "what is the capital of France"),
        ("assistant", "It is  Paris."),
        ("user", "And how big is it?"),
        ("assistant", "Two million."),
        ("user", "Who wrote the novel Dracula?"),
        ("assistant", "Bram Stoker."),
        ("user", "bye"),
    )
    assert one(Task("chat", messages=messages)) == [
        Pair("What is the capital of France?", "It is Paris."),
        Pair("Who wrote the novel Dracula?", "Bram Stoker."),
    ]


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("  “who   wrote dracula ”", ' "Bram Stoker" ', Pair("Who wrote dracula?", "Bram Stoker")),
        (
            "Q: name the author of Dracula",
            "A: Bram Stoker",
            Pair("Name the author of Dracula", "Bram Stoker"),
        ),
        ("Why so ??", "Because.", Pair("Why so?", "Because.")),
        ("Who said 'no'?", "Ann", Pair("Who said 'no'?", "Ann")),
    ],
)
def test_qa_is_normalised(question: str, answer: str, expected: Pair) -> None:
    assert one(Task("qa", question=question, answer=answer)) == [expected]


@pytest.mark.parametrize("form", ["qa", "choice", "cloze", "anchor"])
def test_what_cannot_be_done_is_a_failure(form: str) -> None:
    assert isinstance(one(Task(form)), Failure)
