"""Paragraphs, quotations and sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize.data.unify.rules.sentences import is_heading, is_whole, paragraphs, sentences, spans, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Craven left. Mrs. Medlock stayed.", ["Mr. Craven left.", "Mrs. Medlock stayed."]),
        ("Dr. Craven came at 3.5 p.m. on Monday.", ["Dr. Craven came at 3.5 p.m. on Monday."]),
        ("J. K. Rowling wrote. She won.", ["J. K. Rowling wrote.", "She won."]),
        ("Wait... he said so. Go!", ["Wait... he said so.", "Go!"]),
        ("Well... I never! Did you?", ["Well...", "I never!", "Did you?"]),
        ("It was I. He knew.", ["It was I.", "He knew."]),
        ("She ran--fast--and fell. Then she rose.", ["She ran--fast--and fell.", "Then she rose."]),
        ("No end mark here", ["No end mark here"]),
        ("", []),
    ],
)
def test_sentence_borders(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text(alphabet="aB .!?\"'”\n", max_size=80))
def test_splitting_loses_no_word(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_double_quotes_part_speech_from_narration() -> None:
    found = spans('"Come," said Ann, "now." She left.')
    assert [(s.speech, s.text) for s in found] == [
        (True, "Come,"),
        (False, "said Ann,"),
        (True, "now."),
        (False, "She left."),
    ]


def test_single_quotes_are_told_from_apostrophes() -> None:
    found = spans("‘I don’t know the boys’ names,’ said Ann. ‘Tell me!’")
    assert [(s.speech, s.text) for s in found] == [
        (True, "I don’t know the boys’ names,"),
        (False, "said Ann."),
        (True, "Tell me!"),
    ]


def test_a_speech_may_stay_open_to_the_end_of_its_paragraph() -> None:
    assert [(s.speech, s.text) for s in spans("“First. And more")] == [(True, "First. And more")]


def test_offsets_cover_quotation_marks() -> None:
    text = 'He said, "Go home."'
    assert [text[s.start : s.end].strip() for s in spans(text)] == ["He said,", '"Go home."']


@pytest.mark.parametrize(
    "line",
    [
        "CHAPTER IV",
        "Chapter 2. The Road",
        "3.  Letters in the Sand",
        "XII. Home",
        "THE END",
        "* * *",
        "The Rescue",
    ],
)
def test_headings(line: str) -> None:
    assert is_heading(line)


@pytest.mark.parametrize(
    "line", ["He ran.", "“Yes,” said she", "I went home, and then I slept for a very long time until noon."]
)
def test_no_headings(line: str) -> None:
    assert not is_heading(line)


def test_layout_is_left_out() -> None:
    text = (
        "CHAPTER I\n\n[Illustration: a cat]\n\nThe cat sat\ndown.\n\n"
        "     He took his sword in hand:\n      Long time he sought--\n     So rested he\n\n_Very_ well, she said."
    )
    assert paragraphs(text) == ["The cat sat down.", "Very well, she said."]


def test_a_full_stop_without_its_space_still_ends_a_sentence() -> None:
    assert sentences(paragraphs("He left in 2012.Moore stayed behind.")[0]) == [
        "He left in 2012.",
        "Moore stayed behind.",
    ]


def test_whole_sentences() -> None:
    assert is_whole("The cat sat (down).")
    assert not is_whole("and the cat sat.")
    assert not is_whole('The cat said "no.')
    assert not is_whole("The cat (sat.")


def test_tokens_keep_titles_hyphens_and_possessives() -> None:
    words = [t.text for t in tokens("Mr. Tik-tok’s oil-can--was 1,500 lbs.")]
    assert words == ["Mr.", "Tik-tok’s", "oil-can", "--", "was", "1,500", "lbs", "."]
