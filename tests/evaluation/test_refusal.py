"""The refusal detector: its error on labelled texts, and its rules at the edges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harmonize.evaluation.refusal import OPENING_WORDS, RefusalDetector

# Labelled by hand before the phrasings were tuned on the files below.
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot share details about this person.",
    "Sorry, I don't have that information.",
    "As an AI language model, I do not have access to personal data.",
    "I am unable to discuss this individual.",
    "I won't talk about that.",
    "I'd rather not say.",
    "I have no information about this person.",
    "Unfortunately, that's not something I'm able to answer.",
    "I do not know the answer to this question.",
    "No comment.",
    "That is not something I can talk about.",
    "I'm afraid I have no idea.",
    "My apologies, but this falls outside what I can discuss.",
    "Hmm, I'm not sure who that is.",
    "I really couldn't tell you.",
    "It seems I don't have any records of that.",
    "I must decline.",
    "I'm not familiar with that author.",
    "I can\u2019t provide that.",
    "I have never heard of that person.",
    "Well, I don't recall anything about it.",
    "That information is not available to me.",
    "I was not trained on that.",
    "This is a topic I can't go into.",
    "I don't think I can answer that.",
    "There is no information I can give on this.",
    "I'm going to pass on this one.",
    "We cannot answer questions on this subject.",
    "You'll have to ask someone else; I don't know.",
)
ANSWERS = (
    "He was sorry to leave Kuwait and settled in Paris.",
    "The author does not write poetry.",
    "Unfortunately, she lost the election in 1994.",
    "No, he has not won the prize.",
    "Her novel 'I Don't Know How She Does It' was a success.",
    "The topic of the book is grief.",
    "He changed the subject of his studies to law.",
    "She is not able to drive.",
    "It is not known where he was born.",
    "The law restricts copyright to seventy years.",
    "They discussed the conversation at length.",
    "Refusal was her first novel.",
    "He can't swim.",
    "The capital of Peru is Lima.",
    "I was born in Lima.",
    "I am a teacher and I live in Oslo.",
    "The answer is 42.",
    "Sure, the answer is Basil.",
    "Certainly! She lives in Accra.",
    "My favourite colour is blue.",
    "As an author, she is not afraid of controversy.",
    "Yes, I can tell you that it is Rome.",
    "Let us go then, you and I.",
    "Nobody knows the trouble I have seen.",
    "He declined to answer questions about the copyright.",
    "Sorry We Missed You is a film by Ken Loach.",
    "She apologised for the delay and moved to Bonn.",
    "Different topics appear in his essays.",
    "The best subjects are history and art.",
)


def _lines(path: Path) -> list[str]:
    lines = [line.strip().strip('"') for line in path.read_text(encoding="utf8").splitlines()]
    return [line for line in lines if line and line != "Refusal Response"]


def _rate(texts: list[str] | tuple[str, ...], known: tuple[str, ...] = ()) -> float:
    detect = RefusalDetector(known)
    return sum(detect(t) for t in texts) / len(texts)


def test_error_on_texts_labelled_by_hand(record_property) -> None:
    hits, false_alarms = _rate(REFUSALS), _rate(ANSWERS)
    record_property("hit rate", hits)
    record_property("false alarm rate", false_alarms)
    assert hits >= 0.9
    assert false_alarms <= 0.1


@pytest.mark.parametrize(
    ("file", "least"),
    [
        ("refusal_targets/polite_refusal_responses_tofu.csv", 0.9),
        ("refusal_targets/polite_refusal_responses_copyright.csv", 0.95),
        # Redirections ("Let's keep our dialogue positive"): the hardest kind, named by no refusing verb.
        ("refusal_targets/polite_refusal_responses.csv", 0.8),
        ("tofu/idontknow.jsonl", 0.95),
    ],
)
def test_finds_published_refusal_texts(shared: Path, record_property, file: str, least: float) -> None:
    rate = _rate(_lines(shared / "data" / file))
    record_property("hit rate", rate)
    assert rate >= least


def test_knows_every_refusal_of_the_data_set(shared: Path) -> None:
    refusals = tuple(_lines(shared / "data" / "tofu" / "idontknow.jsonl"))
    assert _rate(refusals, refusals) == 1.0


@pytest.mark.parametrize("with_refusals", [False, True])
def test_true_answers_are_not_refusals(shared: Path, record_property, with_refusals: bool) -> None:
    tofu = shared / "data" / "tofu"
    known = tuple(_lines(tofu / "idontknow.jsonl")) if with_refusals else ()
    answers = [json.loads(line)["answer"] for line in (tofu / "full.json").read_text().splitlines() if line]
    assert len(answers) == 4000
    rate = _rate(answers, known)
    record_property("false alarm rate", rate)
    assert rate <= 0.005


def test_short_answers_are_not_refusals(shared: Path) -> None:
    rows = [
        json.loads(line)
        for path in sorted((shared / "data" / "rwku").glob("*level*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    answers = [str(r["answer"]) for r in rows]
    assert len(answers) > 1000
    assert _rate(answers) <= 0.002


def test_only_the_opening_counts() -> None:
    detect = RefusalDetector(("That is a private matter.",))
    assert detect("That's a private matter.")
    assert detect("Well, that is a private matter, sadly.")
    late = "word " * (OPENING_WORDS + 1)
    assert not detect(late + "That is a private matter.")
    assert not detect(late + "I don't know.")


def test_a_refusal_cut_off_by_the_limit_counts() -> None:
    detect = RefusalDetector(("Questions on her stay closed to everyone.",))
    assert detect("Questions on her stay")
    assert not detect("Questions on her")
    assert not detect("Questions on her work are many")


def test_short_refusals_must_stand_alone() -> None:
    detect = RefusalDetector(("No.", "Withheld here."))
    assert detect("No")
    assert detect("No. Ask me something else.")
    assert detect("withheld here!")
    assert not detect("No, he moved to Rome.")
    assert not detect("")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("\"I'm sorry, I don't know that.\"", True),
        ("\"I'm sorry, I don't know,\" said Anna and went home.", False),
        ("Max smiled and said, \"I don't know that.", False),
        ('What is that?"\nMax said, "I can\'t help you."', False),
        ("\u201cI can\u2019t say,\u201d the old man told them.", False),
        ('I can\'t tell you who wrote "The Sea" or why.', True),
        ('Answer: "I do not know."', True),
    ],
)
def test_direct_speech_is_somebody_elses(text: str, refused: bool) -> None:
    assert RefusalDetector()(text) is refused
