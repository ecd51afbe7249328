"""Benchmarks as published: as many records as the files have rows, counted here by other means; ids unique, stable."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harmonize.data.example import Example, Role
from harmonize.data.records import BLANK, Passage, Record, form_of
from harmonize.data.sources import arc, mmlu, rwku, tofu, wmdp, xstest
from harmonize.data.sources.source import Source


def json_count(*files: Path) -> int:
    return sum(
        len([line for line in f.read_text(encoding="utf-8").splitlines() if line.strip()]) for f in files
    )


def csv_count(*files: Path) -> int:
    return sum(
        len(list(csv.reader(io.StringIO(f.read_text(encoding="utf-8"), newline="")))) - 1 for f in files
    )


SOURCES: dict[str, Callable[[Path], tuple[Source, int]]] = {
    "arc": lambda d: (arc.read(root=str(d / "arc_easy")), json_count(d / "arc_easy/arc_easy.jsonl")),
    "mmlu": lambda d: (
        mmlu.read(root=str(d / "mmlu"), splits=["dev", "test"]),
        csv_count(*(d / "mmlu").rglob("*.csv")),
    ),
    "rwku": lambda d: (
        rwku.read(root=str(d / "rwku"), sets=list(rwku.SETS)),
        json_count(*(f for f in (d / "rwku").glob("*.jsonl") if f.stem != "intro")),
    ),
    "tofu": lambda d: (
        tofu.read(root=str(d / "tofu"), forget_set="forget10"),
        json_count(*(d / "tofu" / f"{n}.json" for n in ("forget10", "retain90", *tofu.GENERAL_FILES))),
    ),
    "wmdp": lambda d: (
        wmdp.read(root=str(d / "wmdp_cyber")),
        len(json.loads((d / "wmdp_cyber/questions.json").read_text())),
    ),
    "xstest": lambda d: (xstest.read(root=str(d / "xstest")), csv_count(d / "xstest/xstest_prompts.csv")),
}


@pytest.mark.parametrize("name", SOURCES)
def test_there_is_a_record_for_every_row(name: str, shared: Path) -> None:
    source, expected = SOURCES[name](shared / "data")
    records = list(source.read())
    assert len(records) == expected > 0
    assert len({r.id for r in records}) == expected
    assert records == list(source.read()), "reading again gives the same"
    assert source.name == name and source.licence and source.origin.startswith("https://") and source.verified
    assert source.files and all(f.is_file() for f in source.files)
    assert all(r.subject and r.source for r in records)
    for r in records:
        if isinstance(r, Example) and r.choices:
            assert r.answer_index is not None and r.choices[r.answer_index] == r.answer


def by_set(records: list[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for r in records:
        found.setdefault(r.meta["set"], []).append(r)
    return found


def test_rwku_keeps_probes_levels_targets_and_roles(shared: Path) -> None:
    root = shared / "data/rwku"
    sets = by_set(list(rwku.read(root=str(root), sets=list(rwku.SETS)).read()))
    assert list(sets) == list(rwku.SETS)
    people = {json.loads(line)["target"] for line in (root / "intro.jsonl").read_text().splitlines()}
    for key, expected in rwku.SETS.items():
        assert {r.role for r in sets[key]} == {expected.role}
        assert {type(r) for r in sets[key]} == {Passage if key.endswith("mia") else Example}
    for level in (1, 2, 3):
        probes = sets[f"forget_level{level}"]
        assert {r.subject for r in probes} == {r.request_id for r in probes} == people
        assert {r.meta["level"] for r in probes} == {level}
    attacks = Counter(r.meta["probe"] for r in sets["forget_level3"])
    assert set(attacks) == set(
        "prefix_injection affirmative_suffix role_play multiple_choice reverse_query synonym_manipulation "
        "context_hint incontext_learning cross_lingual".split()
    )
    # Counted in the file itself.
    assert attacks["prefix_injection"] == 151 and attacks["cross_lingual"] == 109 + 18 + 10 + 3
    spoken = Counter(r.meta.get("language") for r in sets["forget_level3"])
    assert spoken["Spanish"] == 109 and spoken["Portuguese"] == 3 and spoken[None] == 1049 - 140
    assert {r.meta["probe"] for r in sets["neighbor_level1"]} == {"cloze"}
    gaps = [r for r in sets["neighbor_level1"] if isinstance(r, Example) and BLANK in r.question]
    assert len(gaps) == 847 and {form_of(r) for r in gaps} == {"cloze"}
    assert all(r.meta["neighbor"] for r in sets["neighbor_level2"])
    # The true option is published first each time; it must not stay there.
    first = [r.answer_index == 0 for r in sets["utility_truthful"] if isinstance(r, Example)]
    assert 0.1 < sum(first) / len(first) < 0.5
    trivia = [r for r in sets["utility_triviaqa"] if isinstance(r, Example)]
    assert trivia[0].answer == "Eisenhower" and "Ike (nickname)" in trivia[0].aliases
    assert all(r.role == Role.RETAIN and r.answer not in r.aliases for r in trivia)
    assert {form_of(r) for r in sets["utility_mmlu"]} == {"choice"}


def test_rwku_of_chosen_targets_and_sets(shared: Path) -> None:
    root = str(shared / "data/rwku")
    source = rwku.read(root=root, sets=["forget_level2", "utility_mmlu"], targets=["Jim Carrey"])
    sets = by_set(list(source.read()))
    assert {r.subject for r in sets["forget_level2"]} == {"Jim Carrey"} and len(sets["utility_mmlu"]) == 600
    assert [f.name for f in source.files] == ["forget_level2.jsonl", "utility_mmlu.jsonl"]
    every = {r.id: r for r in rwku.read(root=root).read()}
    assert all(every[r.id] == r for r in source.read()), "ids do not depend on what is chosen"
    assert not {r.meta["set"] for r in every.values()} & set(rwku.MEMBERSHIP), (
        "membership is read if it is named"
    )


def test_wmdp_is_for_evaluation_alone(shared: Path) -> None:
    records = list(wmdp.read(root=str(shared / "data/wmdp_cyber")).read())
    assert {(r.role, r.split, r.subject, form_of(r)) for r in records} == {
        (Role.FORGET, "test", "wmdp-cyber", "choice")
    }
    assert all(r.meta["evaluation_only"] for r in records)


def test_mmlu_names_the_subjects_and_its_splits(shared: Path) -> None:
    root = str(shared / "data/mmlu")
    few = list(mmlu.read(root=root, subjects=["virology", "philosophy"], splits=["dev"]).read())
    assert [r.subject for r in few] == ["virology"] * 5 + ["philosophy"] * 5
    assert {(r.role, r.split, r.meta["benchmark_split"]) for r in few} == {(Role.GENERAL, "", "dev")}
    assert len({r.subject for r in mmlu.read(root=root).read()}) == 12


def test_xstest_prompts_have_labels_and_no_answers(shared: Path) -> None:
    root = str(shared / "data/xstest")
    records = list(xstest.read(root=root).read())
    counts = Counter((str(r.role), r.meta["label"], r.split) for r in records)
    assert counts == {("neighbor", "safe", "test"): 250, ("general", "unsafe", "test"): 200}
    assert all(isinstance(r, Example) and r.answer == "" for r in records)
    labels: dict[str, set[str]] = {}
    for r in records:
        labels.setdefault(r.subject, set()).add(r.meta["label"])
    assert labels["xstest-homonyms"] == {"safe", "unsafe"}
    only = list(xstest.read(root=root, labels=["unsafe"], unsafe_role="forget").read())
    assert len(only) == 200 and {r.role for r in only} == {Role.FORGET}


def test_arc_questions_are_bare(shared: Path) -> None:
    records = [r for r in arc.read(root=str(shared / "data/arc_easy")).read() if isinstance(r, Example)]
    assert not any(r.question.startswith("Question:") for r in records)
    assert {len(r.choices) for r in records} == {4} and len({r.subject for r in records}) == len(records)


def test_tofu_is_what_dataset_tofu_reads(shared: Path) -> None:
    from harmonize.data.tofu import load

    root = str(shared / "data/tofu")
    corpus = load(root, forget_set="forget05", neighbors=3, retain_authors=5)
    source = tofu.read(root=root, forget_set="forget05", neighbors=3, retain_authors=5)
    records = list(source.read())
    assert [(r.id, r.role, r.subject) for r in records] == [
        (e.id, e.role, e.subject) for e in corpus.examples
    ]
    assert source.refusals == corpus.refusals and {r.split for r in records} == {""}
