"""From sources to examples: order, ids, what is carried over, what is counted; the same with any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harmonize.data.example import Example, Role
from harmonize.data.prepare.pipeline import Settings, Tally, survey, unified
from harmonize.data.records import Chat, Passage, Record
from harmonize.data.sources.books import read as books
from harmonize.data.sources.source import Source
from harmonize.data.unify.rules.rules import Rules
from harmonize.data.unify.task import Failure, Pair, Task
from harmonize.data.unify.verbatim import Verbatim
from harmonize.errors import DataError


class Scripted:
    """Returns what is prepared for a task's text or question."""

    name, fingerprint, cached, batch = "rules", "f", False, 2

    def __init__(self, answers: dict[str, list[Pair] | Failure]) -> None:
        self.answers, self.tasks = answers, list[Task]()

    def rewrite(self, tasks: Any) -> list[list[Pair] | Failure]:
        self.tasks += tasks
        return [self.answers[task.text or task.question] for task in tasks]


def source(*records: Record) -> Source:
    return Source("own", lambda: iter(records))


def run(
    sources: dict[str, Source], rewriter: Any, settings: Settings | None = None, build: Any = None
) -> tuple[list[Example], Tally]:
    settings = settings or Settings()
    found = survey(sources, settings)
    tally = Tally(found.records)
    made = list(unified(sources, rewriter, settings, tally, build, total=found.tasks))
    assert tally.tasks == found.tasks
    return made, tally


def test_ids_meta_and_what_is_carried_over() -> None:
    passage = Passage(
        "p", Role.FORGET, "Toto ran.\n\nOz is far away.", "Oz", request_id="r1", meta={"page": 3}
    )
    asked = Example(
        "own-7", Role.NEIGHBOR, "Who is Em?", "Em is an aunt.", "Em", "there", "val", "p",
        aliases=("auntie",), value="an aunt", paraphrases=("Em is who?",), fact="em",
    )  # fmt: skip
    rewriter = Scripted(
        {
            "Toto ran.": [
                Pair("Who ran away?", "Toto ran.", "Toto", "Toto ran."),
                Pair("What?", "Toto ran."),
            ],
            "Oz is far away.": [Pair("Where is Oz now?", "Oz is far away.", "far away")],
            "Who is Em?": [Pair("Who is Em?", "Em is an aunt.", "", "", ("Tell who Em is?",))],
        }
    )
    made, tally = run({"own": source(passage, asked)}, rewriter, Settings(chunk_words=3))
    first, second, third = made
    assert (first.id, second.id, third.id) == ("own-p-0.0", "own-p-1.0", "own-7-0")
    assert first.meta == {"page": 3, "record": "p", "form": "passage", "evidence": "Toto ran."}
    assert (first.source, first.subject, first.request_id, first.value) == ("own", "Oz", "r1", "Toto")
    assert (third.source, third.split, third.value, third.aliases) == ("there", "val", "an aunt", ("auntie",))
    assert third.paraphrases == ("Tell who Em is?", "Em is who?")
    assert (third.anchor_of, third.fact) == ("own-p-0", "own-em")
    assert tally.rejected == {"question_short": 1} and (tally.pairs, tally.accepted) == (4, 3)
    assert tally.records == {"own": {"passage": 1, "qa": 1}}


def test_general_multiple_choice_is_never_rewritten() -> None:
    item = Example(
        "m1", Role.GENERAL, "Which is a bird?", "wren", "birds", choices=("trout", "wren"), answer_index=1
    )
    bare = Example("m2", Role.GENERAL, "Which is a bird?", "wren", "birds")
    (made,), tally = run({"own": source(item, bare)}, Scripted({}))
    assert (made.id, made.question, made.choices, made.answer_index) == (
        "own-m1-0",
        "Which is a bird?",
        item.choices,
        1,
    )
    assert (tally.general, tally.tasks, tally.rejected) == (1, 0, {"general_without_choices": 1})


def test_near_duplicates_go_within_a_role_and_stay_between_roles() -> None:
    """Between roles they are measured, not hidden: which one went would depend on the order of the sources."""
    records = [
        Example(f"{role}{i}", role, f"Where does Toto live now? {i}", "In Kansas.", "Toto")
        for role in (Role.FORGET, Role.RETAIN)
        for i in range(2)
    ]
    same = [Pair("Where does Toto live now?", "Toto lives in Kansas.", "Kansas")]
    rewriter = Scripted({r.question: same for r in records if isinstance(r, Example)})
    made, tally = run({"own": source(*records)}, rewriter)
    assert [e.role for e in made] == [Role.FORGET, Role.RETAIN]
    assert tally.rejected == {"near_duplicate": 2}


def test_failures_and_values_that_do_not_stand_in_the_answer() -> None:
    texts = {
        "One.": Failure("timed out"),
        "Two lions sat.": [Pair("What did sit there?", "Two Lions sat.", "two lions")],
        "Three bears ran.": [Pair("What did run there?", "Three bears ran.", "four bears")],
    }
    records = [Passage(str(i), Role.RETAIN, text, "s") for i, text in enumerate(texts)]
    (made,), tally = run({"own": source(*records)}, Scripted(texts))
    assert made.value == "Two Lions"
    assert tally.failed == {"timed out": 1} and tally.rejected == {"value_missing": 1}


def test_the_raw_rendering_shows_every_form_unchecked() -> None:
    turns = [("system", "Be."), ("user", "Hi"), ("assistant", "Ho"), ("user", "So?"), ("assistant", "Yes.")]
    records: list[Record] = [
        Passage("p", Role.RETAIN, "One two three. Four five six. Seven eight.", "s"),
        Example("c", Role.RETAIN, "Which?", "b", "s", choices=("x", "y"), answer_index=1),
        Example("z", Role.RETAIN, "Oz is a ___.", "land", "s"),
        Example("q", Role.RETAIN, "Who?", "I.", "s", value="I"),
        Chat("t", Role.RETAIN, tuple(turns), "s"),
        Chat("u", Role.RETAIN, (("user", "Hi"),), "s"),
    ]
    made, tally = run({"own": source(*records)}, Verbatim())
    assert [(e.question, e.answer, e.value) for e in made] == [
        ("One two three.", "Four five six. Seven eight.", ""),
        ("Which?\nA. x\nB. y", "B. y", "y"),
        ("Oz is a ___.", "land", ""),
        ("Who?", "I.", "I"),
        ("So?", "Yes.", ""),
    ]
    assert tally.failed == {"nothing to show": 1}


def test_mistakes_in_the_data_are_found_before_anything_is_rewritten() -> None:
    twice = [Passage("p", Role.RETAIN, "Text.", "s")] * 2
    with pytest.raises(DataError, match="two records with the id 'p'"):
        survey({"own": source(*twice)}, Settings())
    with pytest.raises(DataError, match="'own' holds no records"):
        survey({"own": source()}, Settings())

    def broken() -> Iterator[Record]:
        yield twice[0]
        raise DataError("line 7 is broken")

    rewriter = Scripted({})
    with pytest.raises(DataError, match="line 7"):
        run({"own": Source("own", broken)}, rewriter)
    assert not rewriter.tasks


def test_the_number_of_workers_does_not_show(shared: Path) -> None:
    sources = {"oz": books(forget=str(shared / "data/books/The-Wonderful-Wizard-of-Oz_55.txt"))}
    alone, counted = run(sources, Rules(), Settings(max_records=4))
    several, also = run(sources, Rules(), Settings(max_records=4, workers=3), partial(Rules))
    assert several == alone and len(alone) > 50
    assert (counted.rejected, counted.pairs) == (also.rejected, also.pairs)
