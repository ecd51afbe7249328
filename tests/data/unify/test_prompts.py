"""Prompts of the user's own, what is refused, and the reading of replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize.data.unify.prompts import PLACEHOLDERS, Prompts
from harmonize.data.unify.replies import UNREADABLE, parse_reply
from harmonize.data.unify.task import Failure, Pair, Task
from harmonize.errors import ConfigError

PAIR = {"question": "Who lives in Oz?", "answer": "Dorothy lives in Oz.", "value": "Dorothy"}
READ = [Pair("Who lives in Oz?", "Dorothy lives in Oz.", "Dorothy")]


def test_shipped_prompts_hold_their_material() -> None:
    prompts = Prompts.load()
    assert set(prompts.texts) == set(PLACEHOLDERS) == set(prompts.hashes)
    task = Task("choice", "", "Which is a bird?", "wren", ("trout", "wren"))
    text = prompts.render(task)
    assert "- trout\n- wren" in text and "Which is a bird?" in text and '[{"question": "..."' in text
    chat = prompts.render(Task("chat", messages=(("user", "Hi"), ("assistant", "Ho"))))
    assert "user: Hi\nassistant: Ho" in chat


def test_material_is_never_taken_for_a_placeholder() -> None:
    text = Prompts.load().render(Task("passage", text="{subject} and {text} and {x}", subject="Oz"))
    assert "{subject} and {text} and {x}" in text


def test_a_folder_of_ones_own_replaces_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "passage.txt").write_text('Ask about this: {text} {"x": 1}', encoding="utf-8")
    own, shipped = Prompts.load(str(tmp_path)), Prompts.load()
    assert own.render(Task("passage", text="Toto barked.")) == 'Ask about this: Toto barked. {"x": 1}'
    assert own.hashes["passage"] != shipped.hashes["passage"] and own.hashes["qa"] == shipped.hashes["qa"]


def test_all_mistakes_of_a_folder_are_told_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "passage.txt").write_text("Ask about {txt}.", encoding="utf-8")
    (tmp_path / "pasage.txt").write_text("{text}", encoding="utf-8")
    (tmp_path / "qa.txt").write_bytes(b"\xff\xfe\xff {question}")
    with pytest.raises(ConfigError) as caught:
        Prompts.load(str(tmp_path))
    message = str(caught.value)
    assert "passage.txt: unknown placeholder {txt}. Did you mean 'text'?" in message
    assert "passage.txt: the placeholder {text} is missing" in message
    assert "pasage.txt: there is no form 'pasage'. Did you mean 'passage'?" in message
    assert "qa.txt: not UTF-8" in message
    with pytest.raises(ConfigError, match="no such folder"):
        Prompts.load(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps([PAIR]),
        json.dumps(PAIR),
        json.dumps({"pairs": [PAIR]}),
        f"Here you are:\n```json\n{json.dumps([PAIR], indent=2)}\n```\nAnything else?",
        f"<think>[{{ I could ask }}]</think> {json.dumps([PAIR])}",
        f"See [1] and {{x}}: {json.dumps([PAIR])}",
        json.dumps([{**PAIR, "question": "Who  lives\n in Oz?", "difficulty": 3, "paraphrases": None}]),
    ],
)
def test_replies_that_are_read(reply: str) -> None:
    assert parse_reply(reply) == READ


def test_paraphrases_and_numbers() -> None:
    other = ["Who is it that lives in Oz?", "Who lives in Oz?", 3, "Who is it that lives in Oz?", {}]
    (pair,) = parse_reply(json.dumps([{**PAIR, "answer": 1900, "value": 1900, "paraphrases": other}]))
    assert pair == Pair("Who lives in Oz?", "1900", "1900", paraphrases=("Who is it that lives in Oz?", "3"))
    assert parse_reply("No facts there: []") == []


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot do that.",
        json.dumps([PAIR, PAIR])[:-20],
        json.dumps([PAIR, PAIR])[: len(json.dumps(PAIR)) + 2],
        json.dumps({"pairs": [PAIR]})[:-1],
        json.dumps([{"question": "Who?"}]),
        json.dumps([PAIR, {"q": "Who?", "a": "I"}]),
        json.dumps([["Who?", "I"]]),
        "[" * 100_000,
        "[{" * 5_000,
    ],
)
def test_replies_that_are_not(reply: str) -> None:
    assert parse_reply(reply) == Failure(UNREADABLE)


@given(st.integers(1, len(json.dumps([PAIR, PAIR])) - 1))
def test_no_part_of_a_reply_passes_for_a_reply(n: int) -> None:
    assert parse_reply(json.dumps([PAIR, PAIR])[:n]) == Failure(UNREADABLE)


@given(st.text(alphabet='[]{}":, ab\\1', max_size=60))
def test_any_text_gives_pairs_or_a_failure(text: str) -> None:
    found = parse_reply(text)
    assert isinstance(found, Failure) or all(p.question and p.answer for p in found)
