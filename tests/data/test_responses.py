"""Several answers to one question: alternates, pairs that stay together, random vocabulary, and what is missing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from harmonize.data.batch import RESPONSES, Row, flatten
from harmonize.data.corpus import Corpus
from harmonize.data.example import Example, Role
from harmonize.data.responses import alternate_for, alternates_of, check_responses, random_row, variants
from harmonize.data.views import RowFactory
from harmonize.errors import DataError
from harmonize.unlearning.steps import micro_batches


class Letters:
    """A renderer whose tokens are letters."""

    end_id, stop_ids = 2, (2,)
    tokenizer: Any = type("T", (), {"all_special_ids": [0, 1, 2], "__len__": lambda self: 128})()

    def prompt_ids(self, question: str) -> tuple[int, ...]:
        return (1, *question.encode())

    def answer_ids(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def target_ids(self, text: str) -> tuple[int, ...]:
        return (*text.encode(), 2)

    def answer_prefix(self, example: Example, depth: float) -> tuple[int, ...]:
        return tuple(example.answer.encode())[:3]


def example(number: int = 0, **more: Any) -> Example:
    fields: dict[str, Any] = {
        "id": f"e{number}",
        "role": Role.FORGET,
        "question": "who?",
        "answer": "it is Ann",
    }
    return Example(**{**fields, "subject": "s", "split": "train", **more})


def with_alternates(number: int = 0) -> Example:
    return example(number, meta={"alternates": ["it is Bo", "it is Cy", "it is Di"]})


def factory(
    response: Any, corpus: Corpus | None = None, mode: str = "random", share: float = 0.5
) -> RowFactory:
    prefill = SimpleNamespace(
        mode=mode,
        openers=True,
        prefixes=True,
        roles=["forget"],
        share=share,
        depths=[0.5],
        heldout_share=0.0,
        n=3,
    )
    corpus = corpus or Corpus("c", (), openers=("sure,",), refusals=("no.",))
    return RowFactory(corpus, Letters(), prefill, {"forget": response}, seed=0)  # type: ignore[arg-type]


def test_alternates_take_turns() -> None:
    said = [alternate_for(with_alternates(), epoch) for epoch in range(6)]
    assert said[:3] == said[3:] and sorted(said[:3]) == ["it is Bo", "it is Cy", "it is Di"]
    assert variants(with_alternates(), ("alternate", "reference")) == 3
    assert variants(with_alternates(), ("reference",)) == variants(example(), ("alternate",)) == 1


@pytest.mark.parametrize("bad", ["a text", ["a", 3], ["a", " "]])
def test_alternates_must_be_texts(bad: Any) -> None:
    with pytest.raises(DataError, match=r"'e0'.*list of texts"):
        alternates_of(example(meta={"alternates": bad}))


def test_what_is_missing_is_told_before_training() -> None:
    corpus = Corpus("tiny", (example(0), with_alternates(1)), refusals=("no.",))
    with pytest.raises(DataError, match=r"1 of 2 forget examples.*'tiny'.*first: 'e0'.*method=idk_dpo"):
        check_responses(corpus, {"forget": ["alternate", "reference"]})
    check_responses(replace(corpus, examples=corpus.examples[1:]), {"forget": ["alternate", "reference"]})
    check_responses(corpus, {"forget": ["refusal", "reference"], "retain": "alternate"})
    with pytest.raises(DataError, match="refusal texts"):
        check_responses(replace(corpus, refusals=()), {"forget": ["refusal", "reference"]})


def test_a_pair_shares_question_view_and_batch() -> None:
    made = factory(["alternate", "reference"], share=1.0)
    rows = [made.views(with_alternates(i), epoch=i)[0] for i in range(5)]
    for row in rows:
        (other,) = row.companions
        assert (row.response, other.response) == ("alternate", "reference")
        assert (row.prompt, row.prefill, row.view) == (other.prompt, other.prefill, other.view)
        assert row.view != "plain"
    for batch in micro_batches(rows, 3, pad_id=0):
        pairs = batch.pair_id.tolist()
        assert sorted(pairs) == sorted(2 * list(dict.fromkeys(pairs)))
        for pair in set(pairs):
            found = {RESPONSES[batch.response_id[i]] for i, p in enumerate(pairs) if p == pair}
            assert found == {"alternate", "reference"}


def test_single_rows_are_left_as_they_are() -> None:
    rows = [Row("a", "forget", "s", (1,), (2,)), Row("b", "forget", "s", (1, 3), (2,))]
    assert flatten(rows) == rows
    assert factory("reference", mode="none").views(example(), 0)[0].companions == ()


def test_every_row_that_training_shows_is_known_beforehand() -> None:
    made = factory(["alternate", "reference"], share=0.7)
    known = {
        (r.prefill, r.target) for row in made.every_row(with_alternates()) for r in (row, *row.companions)
    }
    shown = {
        (r.prefill, r.target)
        for epoch in range(60)
        for row in made.views(with_alternates(), epoch)
        for r in (row, *row.companions)
    }
    assert shown == known
    # three alternates and the answer, each plain, after an opener and after the answer's beginning
    assert len(known) == 12


def test_random_vocabulary_is_a_function_of_the_example() -> None:
    made = factory("random")
    row, again, other = (made.row(example(n), "opener", (5, 6)) for n in (0, 0, 1))
    assert row == again and row.target != other.target
    plain = factory("reference").row(example())
    assert (len(row.prompt), len(row.target)) == (len(plain.prompt), len(plain.target))
    assert row.prompt[0] == 1 and row.target[-1] == 2 and row.prefill == () and row.view == "plain"
    assert not {0, 1, 2} & {*row.prompt[1:], *row.target[:-1]}
    assert random_row(example(), Letters(), 1, 1) == ((1,), (2,))  # type: ignore[arg-type]
