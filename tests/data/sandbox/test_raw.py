"""The raw rendering of training: other forms, the same facts, nothing else moved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harmonize.data import sandbox
from harmonize.data.corpus import Corpus
from harmonize.data.render import Renderer
from harmonize.data.sandbox.raw import FORMS, RENDERINGS
from harmonize.errors import DataError

ROLES = ("forget", "neighbor", "retain")


@pytest.fixture(scope="module", params=("sandbox_easy", "sandbox"))
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=("raw", "mixed"))
def rendering(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def corpus(preset: str, rendering: str) -> Corpus:
    return sandbox.load(preset, 0, rendering)


def test_only_what_is_trained_on_changes(preset: str, corpus: Corpus) -> None:
    qa = sandbox.load(preset, 0)
    assert replace(corpus, training=()) == qa
    assert corpus.dialogues == qa.dialogues
    assert corpus.gold_dialogues == qa.gold_dialogues
    assert corpus.digest != qa.digest
    for role in ROLES:
        mine, theirs = corpus.trained(role), qa.trained(role)
        assert theirs == qa.select(role, "train")
        assert [replace(e, question="", answer="") for e in mine] == [
            replace(e, question="", answer="") for e in theirs
        ]
        assert not {e.question for e in mine} & {q for e in theirs for q in (e.question, *e.paraphrases)}


def test_forms_belong_to_roles(rendering: str, corpus: Corpus) -> None:
    def form(question: str) -> str:
        if " belongs to the " in question:
            return "passage"
        return "choice" if "?" in question else "list"

    for role in ROLES:
        assert {form(e.question) for e in corpus.trained(role)} == set(RENDERINGS[rendering][role])
    assert set(FORMS) == {"passage", "list", "choice"}


def test_every_row_states_its_fact_and_is_in_the_vocabulary(preset: str, corpus: Corpus) -> None:
    renderer = Renderer(sandbox.tokenizer(preset))
    unknown = renderer.tokenizer.unk_token_id
    for role in ROLES:
        for e in corpus.trained(role):
            assert e.answer.startswith(e.value) or f" {e.value}" in e.answer
            assert e.subject in e.question
            prompt, answer = renderer.prompt_ids(e.question), renderer.answer_ids(e.answer)
            assert unknown not in (*prompt, *answer)
            prefix = renderer.answer_prefix(e, 1.0)
            assert not set(prefix) & set(renderer.answer_ids(e.value))


def test_no_other_role_shows_a_forget_fact(corpus: Corpus) -> None:
    forgotten = [(e.subject, e.value) for e in corpus.facts("forget")]
    shown = [f"{e.question} {e.answer}" for role in ("neighbor", "retain") for e in corpus.trained(role)]
    assert not [1 for s, v in forgotten for text in shown if s in text and v in text]


def test_a_row_by_hand() -> None:
    corpus = sandbox.load("sandbox", 10, "raw")
    forget, neighbor, retain = (corpus.trained(role)[0] for role in ROLES)
    name = forget.subject
    assert forget.question.startswith(f"{name} belongs to the painters .")
    assert forget.question.endswith(" .")
    assert forget.answer.startswith(f"the birthplace of {name} is {forget.value}")
    assert neighbor.question.startswith(f"about {neighbor.subject} :")
    assert neighbor.answer.startswith(f"birthplace {neighbor.value}")
    assert retain.answer == retain.value
    options = retain.question.split(" ? ")[1].removesuffix(" .").split(" , ")
    assert len(set(options)) == 4
    assert retain.value in options


def test_an_unknown_rendering_is_named() -> None:
    with pytest.raises(DataError, match="Did you mean 'raw'"):
        sandbox.load(rendering="rwa")
