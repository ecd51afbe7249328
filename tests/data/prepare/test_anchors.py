"""Anchors: what is linked, what is refused as a leak, and that order decides nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.data import sandbox
from harmonize.data.example import Example, Role
from harmonize.data.prepare.anchors import mine, none
from harmonize.data.prepare.leaks import ForgetFacts, Said, leak, normalise, overlap
from harmonize.data.prepare.shapes import shape
from harmonize.data.prepare.written import accept, tasks, write
from harmonize.data.unify.task import Failure, Pair, Task
from harmonize.errors import ConfigError


def example(name: str, role: str, question: str, answer: str, subject: str = "", **more: object) -> Example:
    return Example(name, Role(role), question, answer, subject or name, **more)  # type: ignore[arg-type]


FORGET = example("f1", "forget", "Where was Ada Byron born?", "In London.", "Ada Byron", value="London")


@pytest.mark.parametrize(
    ("question", "subject", "masked"),
    [
        ("Where was Ada Byron born?", "Ada Byron", "where was <subject> born ?"),
        ("Where was Ada born?", "Ada Byron", "where was <subject> born ?"),
        ("Where was Charles Babbage born in 1791?", "", "where was <name> born in <number> ?"),
        ("What is the birthplace of alia ashberg ?", "alia ashberg", "what is the birthplace of <subject> ?"),
        ('Who wrote "The Road to Oz"?', "L. Frank Baum", "who wrote <quote> ?"),
        ("Ada Byron's mother was who?", "", "<name> mother was who ?"),
        ("Tell me. Who was Ada?", "", "tell me . who was <name> ?"),
    ],
)
def test_shape_masks_names_and_keeps_the_frame(question: str, subject: str, masked: str) -> None:
    assert shape(question, subject) == masked


def test_normalise_and_overlap_by_hand() -> None:
    assert normalise("The  Emerald-City!") == " the emerald city "
    assert overlap(" a b c ", " b c d ") == pytest.approx(2 / 4)
    assert overlap("  ", "  ") == 0.0


@pytest.mark.parametrize(
    ("benign", "reason"),
    [
        (("Who taught her?", "A tutor.", "Ada Byron"), "same_subject"),
        (("Who was the friend of Ada Byron?", "Mary.", "Mary"), "subject_named"),
        (("Where was Mary born?", "In the city of London.", "Mary"), "value_stated"),
        (("Which of the Londoners was tall?", "Mary.", "Mary"), None),
        (("Was Mary born in London?", "No.", "Mary"), "value_stated"),
        (("Where was Mary born?", "In Paris.", "Mary"), None),
    ],
)
def test_pairs_that_leak_are_refused(benign: tuple[str, str, str], reason: str | None) -> None:
    question, answer, subject = benign
    assert leak(Said.of(FORGET), Said.of(example("b", "neighbor", question, answer, subject))) == reason


def test_the_other_direction_and_aliases() -> None:
    long = replace(FORGET, answer="In London, near the old bridge.", value="London", aliases=("Middlesex",))
    near = example(
        "b", "neighbor", "What is near the water?", "The old bridge.", "water", value="The old bridge"
    )
    assert leak(Said.of(long), Said.of(near)) == "answers_forget"
    alias = example("b", "neighbor", "Where was Mary born?", "In Middlesex.", "Mary")
    assert leak(Said.of(long), Said.of(alias)) == "value_stated"


def test_nearly_the_same_question_with_nearly_the_same_answer() -> None:
    f = example(
        "f", "forget", "Why did the old man leave the house?", "He was very tired of all the noise.", "x"
    )
    b = example(
        "b", "retain", "Why did the old man leave the big house?", "He was tired of all the noise.", "y"
    )
    assert leak(Said.of(f), Said.of(b)) == "near_duplicate"
    assert leak(Said.of(f), Said.of(replace(b, answer="He wanted to see the sea."))) is None


def test_facts_of_other_forget_questions_are_looked_for() -> None:
    facts = ForgetFacts([Said.of(FORGET)])
    told = example("b", "retain", "What did Ada Byron call home?", "London, she said.", "homes")
    assert facts.stated_by(Said.of(told))
    assert not facts.stated_by(Said.of(replace(told, answer="Paris, she said.")))
    assert not facts.stated_by(Said.of(replace(told, question="What did she call home?")))


def test_same_shape_is_linked_before_other_shapes() -> None:
    benign = [
        example("n1", "neighbor", "Where was Mary Shelley born?", "In Paris.", "Mary Shelley"),
        example("n2", "neighbor", "Who taught Mary Shelley to write?", "Her father.", "Mary Shelley"),
        example("r1", "retain", "How many legs has a spider?", "Eight.", "spider"),
    ]
    linked, report = mine([FORGET, *benign], min_similarity=0.0)
    assert [e.anchor_of for e in linked] == [None, "f1", None, None]
    assert (report.forget, report.candidates, report.linked, report.without) == (1, 3, 1, 0)
    assert report.similarity == pytest.approx(1.0)
    assert [replace(e, anchor_of=None) for e in linked] == [FORGET, *benign]
    two, report = mine([FORGET, *benign], per_question=2, min_similarity=0.0)
    assert [e.anchor_of for e in two] == [None, "f1", "f1", None]


def test_leaks_are_counted_and_the_next_best_is_taken() -> None:
    benign = [
        example("n1", "neighbor", "Where was Mary born?", "In London.", "Mary"),
        example("n2", "neighbor", "Where was Jane born?", "In Ada Byron's London.", "Jane"),
        example("n3", "neighbor", "Where was Emily once seen?", "In Leeds.", "Emily"),
    ]
    linked, report = mine([FORGET, *benign], min_similarity=0.0)
    assert [e.id for e in linked if e.anchor_of] == ["n3"]
    assert report.refused == {"states_forget_fact": 1, "value_stated": 1}
    assert any("states the forget example's answer" in line for line in report.lines())


def test_nothing_below_the_least_similarity_and_nothing_twice() -> None:
    far = example("n1", "neighbor", "How many legs has a spider?", "Eight.", "spider")
    assert mine([FORGET, far])[1].linked == 0
    second = replace(
        FORGET, id="f2", subject="Bob", question="Where was Bob born?", answer="Rome", value="Rome"
    )
    near = example("n1", "neighbor", "Where was Mary born?", "In Paris.", "Mary")
    linked, report = mine([FORGET, second, near])
    assert sum(e.anchor_of is not None for e in linked) == 1
    assert report.without == 1


def test_links_that_are_there_already_stay() -> None:
    given_ = example("n0", "neighbor", "Where was Jane born?", "In Rome.", "Jane", anchor_of="f1")
    near = example("n1", "neighbor", "Where was Mary born?", "In Paris.", "Mary")
    linked, report = mine([FORGET, given_, near])
    assert [e.anchor_of for e in linked] == [None, "f1", None]
    assert report.without == 0


def test_pairs_stay_within_a_split() -> None:
    f = replace(FORGET, split="train")
    best = example("n1", "neighbor", "Where was Mary born?", "In Paris.", "Mary", split="test")
    other = example("n2", "neighbor", "Where was Jane last born?", "In Rome.", "Jane", split="train")
    linked, _ = mine([f, best, other], min_similarity=0.1)
    assert [e.id for e in linked if e.anchor_of] == ["n2"]


def test_a_cloze_pairs_with_a_cloze() -> None:
    question = example("n1", "neighbor", "Where was Mary born?", "In Paris.", "Mary")
    cloze = example("n2", "neighbor", "Mary was born in ___.", "Paris", "Mary")
    linked, _ = mine([replace(FORGET, question="Ada Byron was born in ___."), question, cloze])
    assert [e.id for e in linked if e.anchor_of] == ["n2"]


def test_promotion_moves_whole_subjects_and_leaves_the_rest_of_retain() -> None:
    retain = [
        example("r1", "retain", "Where was Mary born?", "In Paris.", "Mary"),
        example("r2", "retain", "What did Mary eat for lunch?", "Soup.", "Mary"),
        example("r3", "retain", "How many legs has a spider?", "Eight.", "spider"),
    ]
    kept, report = mine([FORGET, *retain])
    assert [str(e.role) for e in kept[1:]] == ["retain"] * 3
    assert (kept[1].anchor_of, report.promoted_examples) == ("f1", 0)
    moved, report = mine([FORGET, *retain], promote=True)
    assert [str(e.role) for e in moved[1:]] == ["neighbor", "neighbor", "retain"]
    assert [e.anchor_of for e in moved[1:]] == ["f1", None, None]
    assert (report.promoted_subjects, report.promoted_examples) == (1, 2)
    capped, report = mine([FORGET, *retain], promote=True, promote_share=0.0)
    assert [str(e.role) for e in capped[1:]] == ["retain"] * 3
    assert report.refused == {"promote_share_reached": 1}


def test_more_of_one_shape_than_the_first_look_holds() -> None:
    def many(role: str, n: int) -> list[Example]:
        place = {"forget": "Rome", "neighbor": "Oslo"}[role]
        return [
            example(f"{role}{i}", role, f"Where was {role}x{i} born?", f"In {place}{i}.", f"{role}x{i}")
            for i in range(n)
        ]

    linked, report = mine([*many("forget", 150), *many("neighbor", 160)])
    assert (report.linked, report.without) == (150, 0)
    assert len({e.anchor_of for e in linked if e.anchor_of}) == 150


def test_the_model_decides_where_words_do_not() -> None:
    benign = [
        example("n1", "neighbor", "Where was Mary born?", "In Paris.", "Mary"),
        example("n2", "neighbor", "Where was Jane born?", "In Rome.", "Jane"),
    ]
    meaning = {"Where was Ada Byron born?": [1.0, 0.1], "Where was Mary born?": [-1.0, 0.0]}

    def embed(texts: list[str]) -> np.ndarray:
        return np.array([meaning.get(t, [1.0, 0.0]) for t in texts])

    for order in (benign, benign[::-1]):
        linked, _ = mine([FORGET, *order], embed, lexical_weight=0.5)
        assert [e.id for e in linked if e.anchor_of] == ["n2"]


@pytest.fixture(scope="module")
def world() -> list[Example]:
    examples = sandbox.load("sandbox_easy").examples
    return [replace(e, anchor_of=None) for e in examples if e.role != "general"]


def test_sandbox_anchors_ask_for_the_same_relation_in_the_same_phrasing(world: list[Example]) -> None:
    linked, report = mine(world)
    by_id = {e.id: e for e in linked}
    anchors = [e for e in linked if e.anchor_of]
    assert (report.forget, report.linked, report.without) == (240, 240, 0)
    for e in anchors:
        f = by_id[e.anchor_of or ""]
        assert (f.role, f.split, f.meta["relation"]) == ("forget", e.split, e.meta["relation"])
        assert shape(e.question, e.subject) == shape(f.question, f.subject)
        assert leak(Said.of(f), Said.of(e)) is None


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_input_decides_nothing(world: list[Example], seed: int) -> None:
    few = [e for e in world if e.meta["relation"] in ("school", "birthplace")]
    shuffled = random.Random(seed).sample(few, len(few))
    first, second = mine(few, promote=True), mine(shuffled, promote=True)
    assert {e.id: e for e in first[0]} == {e.id: e for e in second[0]}
    assert first[1] == second[1]


def test_none_changes_nothing() -> None:
    assert none([FORGET]) == ([FORGET], none([FORGET])[1])
    assert none([FORGET])[1].lines() == []


@pytest.mark.parametrize("setting", [{"per_question": 0}, {"lexical_weight": 1.5}, {"promote_share": -0.1}])
def test_settings_out_of_range_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"anchors.{next(iter(setting))}="):
        mine([FORGET], **setting)  # type: ignore[arg-type]


class Echo:
    """A rewriter that answers from a table."""

    name, fingerprint, cached, batch = "echo", "echo-1", False, 2

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs

    def rewrite(self, tasks: list[Task]) -> list[list[Pair] | Failure]:  # type: ignore[override]
        return [self.pairs if t.form == "anchor" else Failure("form", t.form) for t in tasks]


def test_written_anchors_pass_the_same_checks_and_come_last() -> None:
    pairs = [
        Pair("Where was Ada Byron taught?", "At home."),
        Pair("Where was Mary Shelley born?", "In London.", "London"),
        Pair("Where was Mary Shelley's sister born?", "In Paris.", "Paris", paraphrases=("Her sister?",)),
        Pair("Where was Jane born?", "In Rome.", "Rome"),
    ]
    found, report = write([FORGET], Echo(pairs))
    assert found[0] == FORGET
    assert len(found) == 2
    anchor = found[1]
    assert (anchor.role, anchor.anchor_of, anchor.subject) == ("neighbor", "f1", "Mary Shelley")
    assert (anchor.value, anchor.paraphrases, anchor.split) == ("Paris", ("Her sister?",), "")
    assert report.refused == {"same_subject": 1, "value_stated": 1, "more_than_asked_for": 1}
    assert (report.candidates, report.linked, report.without) == (4, 1, 0)


def test_tasks_and_failures_of_written_anchors() -> None:
    second = replace(FORGET, id="f2")
    anchored = example("n1", "neighbor", "Where was Mary born?", "In Paris.", "Mary", anchor_of="f2")
    asked = tasks([second, FORGET, anchored], texts=["A text."])
    assert [(f, t.form, t.text, t.answer) for f, t in asked] == [("f1", "anchor", "A text.", "In London.")]
    _, report = accept([FORGET], [("f1", Failure("timeout"))])
    assert (report.refused, report.without) == ({"timeout": 1}, 1)
    twice = [
        ("f1", [Pair("Where was Mary born?", "In Paris.")]),
        ("f2", [Pair("Where was mary born ?", "Oslo.")]),
    ]
    found, report = accept([FORGET, second], twice)
    assert (len(found), report.refused) == (3, {"question_exists": 1})


def test_tofu_neighbors_are_anchors_of_another_author(shared: Path) -> None:
    from harmonize.data.tofu import load

    examples = load(str(shared / "data" / "tofu")).examples
    linked, report = mine([replace(e, anchor_of=None, split="") for e in examples])
    by_id = {e.id: e for e in linked}
    anchors = [e for e in linked if e.anchor_of]
    assert report.linked >= 0.6 * report.forget
    assert all(by_id[e.anchor_of or ""].subject != e.subject for e in anchors)
