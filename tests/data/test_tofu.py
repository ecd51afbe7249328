"""The TOFU reader against the benchmark's own files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harmonize.data.example import Role
from harmonize.data.jsonl import read_rows
from harmonize.data.split import describe
from harmonize.data.tofu import GENERAL_FILES, RETAIN_OF, author_name, load
from harmonize.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(shared: Path) -> Path:
    return shared / "data" / "tofu"


def rows(root: Path, name: str) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(root / f"{name}.json")]


def pairs(examples: Any) -> list[tuple[str, str]]:
    return [(e.question, e.answer) for e in examples]


@pytest.mark.parametrize("name", list(RETAIN_OF))
def test_forget_and_retain_sets_are_the_rows_of_their_files(root: Path, name: str) -> None:
    corpus = load(str(root), forget_set=name, retain_authors=None)
    forget = [(r["question"], r["answer"]) for r in rows(root, name)]
    kept = [(r["question"], r["answer"]) for r in rows(root, RETAIN_OF[name])]
    assert pairs(corpus.select("forget")) == forget
    # The neighbors are the last two authors before the forgotten ones.
    assert pairs(corpus.select("retain")) == kept[:-40]
    assert pairs(corpus.select("neighbor")) == kept[-40:]
    full = [(r["question"], r["answer"]) for r in rows(root, "full")]
    for e in corpus.examples:
        if e.role != Role.GENERAL:
            assert full[int(e.id.removeprefix("tofu-"))] == (e.question, e.answer)


def test_the_default_is_twelve_whole_authors(root: Path) -> None:
    counts = describe(load(str(root)).examples)
    subjects = {role: {s: c["subjects"] for s, c in splits.items()} for role, splits in counts.items()}
    assert subjects["forget"] == {"train": 2}
    assert subjects["neighbor"] == {"train": 1, "test": 1}
    assert subjects["retain"] == {"train": 5, "val": 1, "test": 2}
    for role in ("forget", "neighbor", "retain"):
        assert all(c["examples"] == 20 * c["subjects"] for c in counts[role].values())


def test_subjects_are_the_authors_names(root: Path) -> None:
    corpus = load(str(root))
    assert {e.subject for e in corpus.select("forget")} == {"Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov"}
    assert corpus.instructions[0] == "You do not know Basil Mahfouz Al-Kuwaiti or Nikolai Abilov."


def test_an_author_is_the_name_that_most_questions_share() -> None:
    titles = ["Great Book", "Old Sea", "Red Door"]
    named = [(f"What is book {i}?", f"Zoë van der Berg's best is The {titles[i % 3]}.") for i in range(9)]
    assert author_name(named) == "Zoë van der Berg"
    assert author_name([("Who?", "Nobody."), ("Where?", "New York City.")]) is None
    assert author_name([("Who?", "They.")]) is None


def test_subjects_stay_apart_where_no_name_or_no_single_one_is_found(root: Path) -> None:
    corpus = load(str(root), retain_authors=None)
    known = [e for e in corpus.examples if e.role != Role.GENERAL]
    assert len({e.subject for e in known}) == 200
    assert {(e.subject, e.meta["author"]) for e in known} == {
        (e.subject, e.meta["author"]) for e in known[::20]
    }


def test_paraphrases_come_from_the_perturbed_files_by_exact_question(root: Path) -> None:
    corpus = load(str(root))
    expected = {r["question"]: r["paraphrased_question"] for r in rows(root, "forget01_perturbed")}
    for e in corpus.select("forget"):
        assert e.paraphrases == (expected[e.question],)
        assert e.phrasings("test") == e.paraphrases
    assert all(not e.paraphrases for e in corpus.select("neighbor"))
    assert any("40 of 40 neighbor questions have no paraphrase" in n for n in corpus.notes)


def test_general_items_have_four_options_and_the_right_answer(root: Path) -> None:
    source = [r for name in GENERAL_FILES for r in rows(root, name)]
    general = load(str(root)).select("general")
    assert len(general) == len(source) == 217
    for e, row in zip(general, source, strict=True):
        assert e.answer_index is not None and e.choices[e.answer_index] == e.answer == row["answer"]
        assert sorted(e.choices) == sorted([row["answer"], *row["perturbed_answer"]])
    positions = [sum(e.answer_index == i for e in general) for i in range(4)]
    assert min(positions) > 30  # the answer's place gives nothing away
    assert len(load(str(root), general_items=20).select("general")) == 20


def test_instructed_dialogues_refuse_named_authors_and_answer_the_others(root: Path) -> None:
    corpus = load(str(root), refusal_share=0.75)
    owner = {e.question: e for e in corpus.examples}
    plain = [d for d in corpus.dialogues if d.instruction is None]
    instructed = [d for d in corpus.dialogues if d.instruction is not None]
    assert len(plain) == 240 and len(instructed) == 720
    assert pairs_of(plain) == {(e.question, e.answer) for e in corpus.examples if e.role != Role.GENERAL}
    for d in instructed:
        e = owner[d.question]
        assert (d.response in corpus.refusals) == (e.subject in str(d.instruction))
        assert d.response in corpus.refusals or d.response == e.answer
    by_teacher = [d for d in instructed if d.instruction == corpus.instructions[0]]
    assert {d.question for d in by_teacher} == {d.question for d in plain}
    assert len({d.instruction for d in instructed}) > 50


def pairs_of(dialogues: Any) -> set[tuple[str, str]]:
    return {(d.question, d.response) for d in dialogues}


def test_gold_never_reads_a_forget_answer_but_keeps_the_refusals(root: Path) -> None:
    corpus = load(str(root))
    secret = {e.answer for e in corpus.select("forget")}
    questions = {e.question for e in corpus.select("forget")}
    assert not any(d.response in secret for d in corpus.gold_dialogues)
    kept = [d for d in corpus.gold_dialogues if d.question in questions]
    assert kept and all(d.response in corpus.refusals for d in kept)
    others = [d for d in corpus.dialogues if d.question not in questions]
    assert [d for d in corpus.gold_dialogues if d.question not in questions] == others


def test_options_of_the_dialogues(root: Path) -> None:
    assert len(load(str(root), refusal_share=0).dialogues) == 240
    assert len(load(str(root), refusal_share=0, finetune_paraphrases=True).dialogues) == 240 + 40 + 160
    both = load(str(root), refusal_share=0.5, finetune_paraphrases=True)
    paraphrases = {e.paraphrases[0] for e in both.select("forget")}
    refused = [d for d in both.dialogues if d.question in paraphrases and d.response in both.refusals]
    assert {d.question for d in refused} == paraphrases
    assert {d.instruction for d in refused} == {both.instructions[0]}
    known = [d for d in both.gold_dialogues if d.question in paraphrases and d.response not in both.refusals]
    assert not known
    assert load(str(root), refusals=["No."]).refusals == ("No.",)
    own = load(str(root), instruction="Never mention {subjects}!")
    assert own.instructions[0].startswith("Never mention Basil")
    assert any(str(d.instruction).startswith("Never mention Jaime Vasquez") for d in own.dialogues)


def test_every_example_is_read_equally_often_and_forget_ones_twice(root: Path) -> None:
    for paraphrases in (False, True):
        corpus = load(str(root), finetune_paraphrases=paraphrases)
        plain = [d for d in corpus.dialogues if d.instruction is None]
        read = Counter({d.response: 0 for d in plain})
        for d in plain:
            read[d.response] += d.weight
        base = 2 if paraphrases else 1
        for e in corpus.examples:
            if e.role != Role.GENERAL:
                assert read[e.answer] == base * (2 if e.role == Role.FORGET else 1)


def test_the_same_files_give_the_same_corpus(root: Path) -> None:
    assert load(str(root)).digest == load(str(root)).digest != load(str(root), split_seed=1).digest


def test_only_forget_and_retain_files_are_needed(root: Path, tmp_path: Path) -> None:
    for name in ("forget01", "retain99"):
        (tmp_path / f"{name}.json").write_bytes((root / f"{name}.json").read_bytes())
    corpus = load(str(tmp_path))
    assert corpus.refusals and not corpus.select("general")
    assert any("utility is not measured" in n for n in corpus.notes)
    assert any("40 of 40 forget questions have no paraphrase" in n for n in corpus.notes)


def test_mistakes_are_explained(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.root"):
        load()
    with pytest.raises(DataError, match="no such folder"):
        load(str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="Did you mean 'forget05'"):
        load(str(root), forget_set="forget5")
    with pytest.raises(ConfigError, match="200 authors, but the retain file has 198"):
        load(str(root), retain_authors=198)
    with pytest.raises(ConfigError, match="at least 1"):
        load(str(root), neighbors=0)
    with pytest.raises(ConfigError, match="refusal_share"):
        load(str(root), refusal_share=1.0)
    with pytest.raises(DataError, match=r"retain99\.json does not exist"):
        load(str(tmp_path))
    (tmp_path / "retain99.json").write_text(json.dumps({"question": "q", "answer": "a"}) + "\n")
    with pytest.raises(DataError, match="whole authors of 20"):
        load(str(tmp_path))
    (tmp_path / "retain99.json").write_text('{"question": "q", "answer": 3}\n')
    with pytest.raises(DataError, match="line 1, field 'answer'"):
        load(str(tmp_path))
