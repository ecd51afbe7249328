"""Cutting passages into parts: sizes, borders, and that no word is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.data.example import Example, Role
from harmonize.data.records import Chat, Passage
from harmonize.data.unify.chunks import parts, tasks_of

WORDS = st.lists(st.sampled_from(["oz", "a.", "Dorothy", "ran!", "“Yes.”", "seven"]), min_size=1, max_size=40)
TEXTS = st.lists(WORDS.map(" ".join), max_size=12).map("\n\n".join)


def _paragraph(n: int, tag: str) -> str:
    return " ".join(f"{tag}{i}" for i in range(n))


def test_whole_paragraphs_fill_a_part() -> None:
    text = "\n\n".join([_paragraph(40, "a"), _paragraph(50, "b"), _paragraph(30, "c"), _paragraph(60, "d")])
    assert list(parts(text, 100)) == [
        f"{_paragraph(40, 'a')}\n\n{_paragraph(50, 'b')}",
        f"{_paragraph(30, 'c')}\n\n{_paragraph(60, 'd')}",
    ]


def test_a_small_rest_joins_the_part_before() -> None:
    text = f"{_paragraph(90, 'a')}\n\n{_paragraph(24, 'b')}"
    assert list(parts(text, 100)) == [text]
    text = f"{_paragraph(90, 'a')}\n\n{_paragraph(25, 'b')}"
    assert len(list(parts(text, 100))) == 2


def test_a_long_paragraph_is_cut_after_sentences() -> None:
    sentences = [f"{_paragraph(39, tag)} end." for tag in "abcde"]
    assert list(parts(" ".join(sentences), 100)) == [
        " ".join(sentences[:2]),
        " ".join(sentences[2:4]),
        sentences[4],
    ]


def test_ten_megabytes_without_a_border_are_cut_between_words() -> None:
    text = "word " * 200_000
    found = list(parts(text, 300))
    assert max(len(p.split()) for p in found) <= 375
    assert sum(len(p.split()) for p in found) == 200_000


def test_other_line_ends_and_blank_lines_with_spaces() -> None:
    assert list(parts("one\r\n \t\r\ntwo", 1)) == ["one", "two"]
    assert list(parts(" \n\n \n", 5)) == []


@settings(deadline=None, max_examples=150)
@given(TEXTS, st.integers(1, 60))
def test_no_word_is_lost_and_parts_have_a_size(text: str, words: int) -> None:
    found = list(parts(text, words))
    assert " ".join(found).split() == text.split()
    # 1.5 sizes at most, and a quarter of one that joined
    assert all(len(p.split()) <= 1.75 * words for p in found)


def test_other_forms_are_one_task_each() -> None:
    base = {"id": "x", "role": Role.RETAIN, "subject": "Oz"}
    choice = Example(question="Which?", answer="b", choices=("yes", "no"), answer_index=1, **base)
    (task,) = tasks_of(choice)
    assert (task.form, task.answer, task.choices) == ("choice", "no", ("yes", "no"))
    (task,) = tasks_of(Example(question="Oz is a ___.", answer="land", **base))
    assert (task.form, task.question, task.answer, task.subject) == ("cloze", "Oz is a ___.", "land", "Oz")
    (task,) = tasks_of(Chat(messages=(("user", "Hi"), ("assistant", "Ho")), **base))
    assert (task.form, task.messages) == ("chat", (("user", "Hi"), ("assistant", "Ho")))
    assert [t.text for t in tasks_of(Passage(text="One.\n\nTwo.", **base), words=1)] == ["One.", "Two."]
