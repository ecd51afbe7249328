"""Views: prefills never hold a scored token, continue the answer where they open it, and depend on nothing hidden."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example, Role
from harmonize.data.prefill import prefix_is_trained
from harmonize.data.render import Renderer
from harmonize.data.views import RowFactory
from harmonize.errors import DataError

EXAMPLES = tuple(
    Example(
        f"{role}-{i}",
        Role(role),
        f"Where was Ann {i} born?",
        f"Ann {i} was born in Oslo town.",
        f"Ann {i}",
        value="Oslo",
    )
    for role in ("forget", "retain")
    for i in range(40)
)
CORPUS = Corpus(
    "toy", EXAMPLES, openers=("Sure, here it is:", "Yes,"), refusals=("I cannot say.", "No idea.")
)


def prefill(**changes: object) -> SimpleNamespace:
    defaults = {
        "mode": "random",
        "share": 1.0,
        "roles": ["forget", "retain"],
        "openers": True,
        "prefixes": True,
        "depths": [0.25, 0.5, 1.0],
        "heldout_share": 0.0,
        "n": 3,
    }
    return SimpleNamespace(**{**defaults, **changes})


@pytest.fixture(scope="module")
def renderer(shared: Path) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(shared / "models" / "stories260k"))


def factory(renderer: Renderer, response: str = "reference", **changes: object) -> RowFactory:
    return RowFactory(
        CORPUS, renderer, prefill(**changes), {"forget": response, "retain": "reference"}, seed=0
    )


def test_no_prefill_holds_a_token_of_the_value(renderer: Renderer) -> None:
    made = factory(renderer)
    for example in EXAMPLES[:5]:
        for view, ids in made.candidates(example):
            text = renderer.decode(ids)
            assert "Oslo" not in text
            if view == "prefix":
                assert example.answer.startswith(text)


def test_a_prefix_is_continued_by_the_answer_it_opens(renderer: Renderer) -> None:
    made = factory(renderer)
    whole = renderer.target_ids(EXAMPLES[0].answer)
    for view, ids in made.candidates(EXAMPLES[0]):
        row = made.row(EXAMPLES[0], view, ids)
        assert (row.prefill + row.target == whole) if view == "prefix" else (row.target == whole)


def test_a_refusal_follows_a_prefix_whole(renderer: Renderer) -> None:
    made = factory(renderer, response="refusal")
    row = made.row(EXAMPLES[0], "prefix", made.candidates(EXAMPLES[0])[-1][1])
    assert renderer.decode(row.target) in CORPUS.refusals
    assert row.prefill


def test_cache_rows_move_with_the_continuation(renderer: Renderer) -> None:
    made = RowFactory(
        CORPUS, renderer, prefill(), {"forget": "reference"}, seed=0, cache_start=lambda example_id: 100
    )
    ids = made.candidates(EXAMPLES[0])[-1][1]
    assert made.row(EXAMPLES[0], "prefix", ids).cache_start == 100 + len(ids)
    assert made.row(EXAMPLES[0]).cache_start == 100


def test_share_is_met_and_views_repeat_exactly(renderer: Renderer) -> None:
    made = factory(renderer, share=0.5)
    rows = [made.views(e, epoch)[0] for e in EXAMPLES for epoch in range(10)]
    opened = sum(bool(r.prefill) for r in rows) / len(rows)
    assert 0.42 < opened < 0.58
    again = factory(renderer, share=0.5)
    assert rows == [again.views(e, epoch)[0] for e in EXAMPLES for epoch in range(10)]
    assert {r.view for r in rows} == {"plain", "opener", "prefix"}


def test_mode_none_shows_everything_plain(renderer: Renderer) -> None:
    made = factory(renderer, mode="none")
    assert all(made.views(e, 0)[0].view == "plain" for e in EXAMPLES)


def test_roles_outside_the_setting_stay_plain(renderer: Renderer) -> None:
    made = factory(renderer, roles=["forget"])
    assert all(made.views(e, 0)[0].view == "plain" for e in EXAMPLES if e.role == "retain")


def test_worst_of_n_offers_distinct_candidates_for_forget_only(renderer: Renderer) -> None:
    made = factory(renderer, mode="worst_of_n")
    offered = made.views(EXAMPLES[0], 0)
    assert len({r.prefill for r in offered}) == 3
    assert all(len(made.views(e, 0)) == 1 for e in EXAMPLES if e.role == "retain")


def test_held_out_prefixes_are_never_candidates(renderer: Renderer) -> None:
    made = factory(renderer, heldout_share=0.5)
    held = [e for e in EXAMPLES if e.role == "forget" and not prefix_is_trained(e.fact_id, 0.5)]
    assert 8 < len(held) < 32
    for example in held:
        assert {view for view, _ in made.candidates(example)} == {"opener"}


def test_too_long_a_row_names_the_example(renderer: Renderer) -> None:
    made = RowFactory(CORPUS, renderer, prefill(mode="none"), {"forget": "reference"}, 0, max_length=10)
    with pytest.raises(DataError, match=r"forget-0.*at most 10"):
        made.row(EXAMPLES[0])


def test_refusals_are_needed_where_asked_for(renderer: Renderer) -> None:
    bare = Corpus("bare", EXAMPLES)
    made = RowFactory(bare, renderer, prefill(), {"forget": "refusal"}, 0)
    with pytest.raises(DataError, match=r"dataset\.refusals"):
        made.row(EXAMPLES[0])
