"""Questions from passages: one hand-written text for every kind, what is left unasked, and what holds for all."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.config.instantiate import call
from harmonize.data.unify.rules import VERSION, Rules
from harmonize.data.unify.task import Failure, Pair, Task
from harmonize.data.unify.validate import Limits, leaks, reason
from harmonize.errors import ConfigError

TITLE = "The Book of Tests"


def pairs(text: str, subject: str = TITLE, **settings: object) -> list[Pair]:
    (found,) = Rules(**settings).rewrite([Task("passage", text=text, subject=subject)])  # type: ignore[arg-type]
    assert not isinstance(found, Failure)
    return found


def asked(text: str, subject: str = TITLE, **settings: object) -> dict[str, str]:
    return {p.question: p.value for p in pairs(text, subject, **settings)}


@pytest.mark.parametrize(
    ("text", "question", "value"),
    [
        (
            "Here came Judy. Suddenly Judy picked up the heavy basket and carried it to the white house.",
            "who picked up the heavy basket and carried it to the white house?",
            "Judy",
        ),
        (
            "The old soldier with them slept. The little girl walked slowly through the green forest.",
            "who walked slowly through the green forest?",
            "The little girl",
        ),
        (
            "The cyclone broke the tall trees of the valley.",
            "what broke the tall trees of the valley?",
            "The cyclone",
        ),
        (
            "They met Judy. Then Judy sat down upon the doorstep.",
            "where did Judy sit down?",
            "upon the doorstep",
        ),
        ("They met Judy. Judy was standing near the gate.", "where was Judy standing?", "near the gate"),
        (
            "They met Judy. The Tin Woodman kicked the yellow ball into the river.",
            "what did the Tin Woodman kick into the river?",
            "the yellow ball",
        ),
        ("Here is Ann. Ann kissed the old woman.", "whom did Ann kiss?", "the old woman"),
        ("Here is Ann. Ann bought three red houses.", "how many red houses did Ann buy?", "three"),
        (
            "In 1939, Judy moved to London with a suitcase.",
            "when did Judy move to London with a suitcase?",
            "In 1939",
        ),
        ("At noon Judy opened the basket and ate some bread.", "when did Judy open the basket?", "At noon"),
        ("Here is Ann. Ann was born in Ohio on May 5, 1920.", "when was Ann born in Ohio?", "on May 5, 1920"),
        (
            "The Tin Woodman was sad because he had lost his heart.",
            "why was the Tin Woodman sad?",
            "because he had lost his heart",
        ),
        (
            "They met Judy. Judy decided to cross the river before dark.",
            "what did Judy decide to do?",
            "cross the river before dark",
        ),
        (
            "They met Judy. Judy discovered that the river was very wide.",
            "what did Judy discover?",
            "that the river was very wide",
        ),
        (
            '"It is a long and dark road," said the Lion.',
            'who says, "It is a long and dark road"?',
            "the Lion",
        ),
        (
            'Judy laughed. "Come," said the Lion to Judy, "for the road is long."',
            'to whom does the Lion say, "Come, for the road is long"?',
            "Judy",
        ),
        (
            '"Where are you going?" asked Dorothy.\n\n"To the Emerald City," replied the Scarecrow.',
            'what does the Scarecrow answer when Dorothy asks, "Where are you going?"',
            "To the Emerald City",
        ),
    ],
)
def test_each_kind(text: str, question: str, value: str) -> None:
    assert asked(text).get(f'In "{TITLE}", {question}') == value


def test_clozes_of_narration_and_of_speech() -> None:
    text = (
        'Before the war the town of the Quadlings had seven gates.\n\n"Go and bring me the broom," said Judy.'
    )
    assert asked(text) == {
        f'Complete the sentence from "{TITLE}": "Before the war the town of the Quadlings had ___ gates."': "seven",
        f'Complete the sentence from "{TITLE}": "Before the war the town of the ___ had seven gates."': "Quadlings",
        f'In "{TITLE}", who says, "Go and bring me the broom"?': "Judy",
        f'Complete what Judy says in "{TITLE}": "Go and bring me the ___."': "broom",
    }
    assert not any(q.startswith("Complete") for q in asked(text, clozes=False))


def test_a_pair_is_complete() -> None:
    (pair,) = pairs("Here is Ann. Ann bought three red houses.", clozes=False, max_per_passage=1)
    assert pair == Pair(
        question=f'In "{TITLE}", how many red houses did Ann buy?',
        answer="Ann bought three red houses.",
        value="three",
        evidence="Ann bought three red houses.",
        paraphrases=(f'What belongs in the gap from "{TITLE}": "Ann bought ___ red houses"?',),
    )


@pytest.mark.parametrize(
    "text",
    [
        "He picked up the heavy basket and carried it to the white house.",  # a pronoun for a subject
        "They met Judy. Judy gave the heavy basket to him at the gate.",  # whom, nobody knows
        "If Judy picked up the heavy basket, the white house would fall.",  # it did not happen
        "Did Judy pick up the heavy basket of the old woman?",
        "Judy looked into her face and he laughed at his hat.",
    ],
)
def test_what_is_left_unasked(text: str) -> None:
    assert pairs(text, clozes=False) == []


def test_speakers_that_are_uncertain_are_not_asked_for() -> None:
    assert not any("says" in q for q in asked('"It is a long and dark road," she said.'))
    assert not any(
        "who says" in q for q in asked('"It is a long dark road," said Ann. "No, it is short," said Bob.')
    )


def test_pieces_of_a_parted_sentence_are_joined() -> None:
    assert f'In "{TITLE}", who says, "And now, how am I to get home?"' in asked(
        '"And now," said Ann, "how am I to get home?"'
    )


def test_the_anchor_gives_way_where_it_gives_the_answer_away() -> None:
    text = "Here is Ozma. Ozma opened the old door of the castle quietly."
    assert asked(text, "Ozma of Oz")["Who opened the old door of the castle quietly?"] == "Ozma"


@pytest.mark.parametrize(
    ("subject", "mode", "start"),
    [
        ("The Book: 3. A Chapter", "auto", 'In "The Book", who'),
        ("Ann Smith", "auto", "Who"),  # whom the passage is about
        ("books/part_01", "auto", "Who"),
        ("", "auto", "Who"),
        ("The Book", "never", "Who"),
        ("part_01", "always", 'In "part_01", who'),
    ],
)
def test_anchors(subject: str, mode: str, start: str) -> None:
    found = asked(
        "Here is Ann. Ann opened the old door of the castle quietly.", subject, anchor=mode, clozes=False
    )
    assert next(q for q in found if "opened the old door" in q).startswith(start)


def test_settings_bound_what_is_made() -> None:
    text = "They met Judy. Judy picked up the heavy basket and kicked the yellow ball.\n\n" * 2
    assert len(pairs(text, max_per_passage=1)) == 1
    assert all(p.paraphrases == () for p in pairs(text, paraphrases=0))
    assert any(len(p.paraphrases) == 2 for p in pairs(text))
    for wrong in ({"paraphrases": 3}, {"anchor": "alwys"}, {"max_per_sentence": 0}):
        with pytest.raises(ConfigError, match=r"rewriter\."):
            Rules(**wrong)  # type: ignore[arg-type]


def test_fingerprints_follow_version_and_settings() -> None:
    assert Rules().fingerprint == Rules().fingerprint != Rules(paraphrases=0).fingerprint
    assert VERSION >= 1 and Rules.name == "rules" and not Rules.cached


NAMES = ["Ann", "Bob", "the Lion", "the Tin Woodman", "Mr. Craven", "the little girl", "the house"]
PREDICATES = [
    "picked up the heavy basket and carried it away",
    "was sad because the long winter had come",
    "sat down in the middle of the road",
    "had three fierce dogs in the yellow castle",
    "said nothing, but looked at Bob with wonder",
    "knew that Ann was in the garden",
]
LINES = st.builds(
    lambda n, p: f"{n[0].upper()}{n[1:]} {p}.", st.sampled_from(NAMES), st.sampled_from(PREDICATES)
)
SPEECHES = st.builds(
    lambda p, n: f'"I know who {p}," said {n}.', st.sampled_from(PREDICATES), st.sampled_from(NAMES)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(LINES | SPEECHES, min_size=1, max_size=6),
    st.sampled_from([TITLE, "Ann", "The Lion's House", ""]),
)
def test_no_question_leaks_and_every_pair_is_valid(lines: list[str], subject: str) -> None:
    task = Task("passage", text="\n\n".join(lines), subject=subject)
    (found,) = Rules().rewrite([task])
    assert not isinstance(found, Failure)
    for pair in found:
        assert reason(pair, task, Limits()) is None, pair
        assert pair.value and pair.value in pair.answer
        assert pair.value in task.text
        assert not any(leaks(q, pair.value) for q in (pair.question, *pair.paraphrases))
    assert Rules().rewrite([task, task]) == [found, found]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_survived(text: str) -> None:
    (found,) = Rules().rewrite([Task("passage", text=text, subject=text[:20])])
    assert isinstance(found, list)


def test_the_config_file_holds_every_setting() -> None:
    file = Path(__file__).parents[4] / "conf" / "rewriter" / "rules.yaml"
    node = yaml.safe_load(file.read_text(encoding="utf-8"))
    built = call(node)
    assert isinstance(built, Rules) and built.fingerprint == Rules().fingerprint
    assert set(node) - {"_target_"} == set(inspect.signature(Rules).parameters)
