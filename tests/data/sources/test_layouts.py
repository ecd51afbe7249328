"""Layouts that are not at hand, written here as they are documented, and what is wrong with wrong ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harmonize.data.example import Example, Role
from harmonize.data.records import Passage
from harmonize.data.sources import arc, blur, dusk, mmlu, muse, rwku, tofu, wmdp, xstest
from harmonize.errors import ConfigError, DataError


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def qa(n: int) -> list[dict[str, Any]]:
    return [{"question": f"q{i}", "answer": f"a{i}"} for i in range(n)]


def texts(n: int) -> list[dict[str, Any]]:
    return [{"text": f"text {i}"} for i in range(n)]


def muse_folder(folder: Path, suffix: str) -> Path:
    name = (
        (lambda stem: f"{stem}-00000-of-00001.parquet")
        if suffix == ".parquet"
        else (lambda stem: stem + suffix)
    )
    put(folder / "knowmem" / name("forget_qa"), qa(3))
    put(folder / "knowmem" / name("retain_qa"), qa(2))
    put(folder / "knowmem" / name("forget_qa_icl"), qa(1))
    put(folder / "verbmem" / name("forget"), [{"prompt": "Once", "gt": "upon a time"}])
    for part, n in (("forget", 4), ("retain1", 2), ("retain2", 3), ("holdout", 1)):
        put(folder / "raw" / name(part), texts(n))
    for part in ("forget", "retain", "holdout"):
        content: Any = texts(2) if suffix == ".parquet" else ["one", "two"]
        put(folder / "privleak" / name(part), content)
    return folder


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_muse(tmp_path: Path, suffix: str) -> None:
    root = str(muse_folder(tmp_path, suffix))
    source = muse.read(root=root, sets=list(muse.SETS))
    records = list(source.read())
    assert not source.verified and len(source.files) == 11
    counts = Counter((r.meta["set"], r.meta["part"], str(r.role), r.split) for r in records)
    assert counts == {
        ("knowmem", "forget_qa", "forget", ""): 3, ("knowmem", "retain_qa", "retain", ""): 2,
        ("knowmem_icl", "forget_qa_icl", "forget", ""): 1, ("verbmem", "forget", "forget", "test"): 1,
        ("privleak", "forget", "forget", "test"): 2, ("privleak", "retain", "retain", "test"): 2,
        ("privleak", "holdout", "general", "test"): 2, ("raw", "forget", "forget", ""): 4,
        ("raw", "retain1", "retain", "train"): 2, ("raw", "retain2", "retain", "test"): 3,
        ("holdout", "holdout", "general", "test"): 1,
    }  # fmt: skip
    assert len({r.id for r in records}) == len(records)
    (verbatim,) = [r for r in records if r.meta["set"] == "verbmem"]
    assert isinstance(verbatim, Example) and (verbatim.question, verbatim.answer) == ("Once", "upon a time")
    near = muse.read(root=root, sets=["knowmem"], retain_role="neighbor")
    assert [str(r.role) for r in near.read()] == ["forget"] * 3 + ["neighbor"] * 2


def test_muse_raw_text_files_and_older_names(tmp_path: Path) -> None:
    put(tmp_path / "hp/raw/forget.txt", "\n\n".join(f"Paragraph {i}. " + "word " * 400 for i in range(10)))
    put(tmp_path / "hp/raw/retain1.txt", "One line.\nAnother.\n")
    put(tmp_path / "hp/knowmem/retain2_qa.json", qa(2))
    records = list(muse.read(root=str(tmp_path), corpus="books", sets=["raw", "knowmem"]).read())
    passages = [r for r in records if isinstance(r, Passage)]
    assert all(len(p.text) <= muse.PIECE + 2500 for p in passages)
    assert "".join(p.text for p in passages if p.role == Role.FORGET).count("Paragraph") == 10
    assert passages[-1].text == "One line. Another." and len(records) - len(passages) == 2


PEOPLE = ("Ann Lee", "Bo van der Berg", "Chu Ito")


def profiles(people: tuple[str, ...], title: str) -> str:
    return "\n\n\n\n".join(
        f"Title: {title} Dr. {p}\n\nBiography: 1. Dr. {p} is here.\n\n2. Yes." for p in people
    )


@pytest.mark.parametrize("hub", [False, True])
def test_dusk(tmp_path: Path, hub: bool) -> None:
    for document in dusk.DOCUMENTS:
        text = profiles(PEOPLE, "The Life of")
        if hub:
            kind = "forget" if document == "chronological" else "retain"
            cut = [{"text": text[i : i + 37]} for i in range(0, len(text), 37)]
            put(tmp_path / f"raw/{kind}_{document}-00000-of-00001.parquet", cut)
        else:
            put(tmp_path / f"{document.title()}.txt", text)
    questions = [{"question": f"Where does Dr. {p} teach?", "answer": "Rome"} for p in PEOPLE]
    names = dict(zip(("GeneralQA", "SpecificForgetQA", "SpecificRetainQA"), dusk.QUESTIONS, strict=True))
    for theirs, ours in names.items():
        put(tmp_path / (f"eval_{ours}.jsonl" if hub else f"eval/{theirs}.jsonl"), questions)
    verbatim = [{"prompt": "Dr. Ann Lee was", "gt": "born"}]
    put(tmp_path / ("eval_verbatim.json" if hub else "eval/verbatim.json"), verbatim)
    if hub:
        put(tmp_path / "eval_holdout-00000-of-00001.parquet", [{"text": profiles(("Di Fo",), "On")}])
    else:
        put(tmp_path / "eval/holdout.txt", profiles(("Di Fo",), "On"))
    source = dusk.read(root=str(tmp_path), sets=list(dusk.SETS))
    records = list(source.read())
    assert not source.verified and len(source.files) == 10
    counts = Counter((r.meta["set"], str(r.role), r.split) for r in records)
    assert counts == {
        ("raw", "forget", ""): 3, ("raw", "retain", ""): 12, ("general_qa", "neighbor", ""): 3,
        ("specific_forget_qa", "forget", ""): 3, ("specific_retain_qa", "retain", ""): 3,
        ("verbatim", "forget", "test"): 1, ("holdout", "general", "test"): 1,
    }  # fmt: skip
    assert {r.subject for r in records if r.meta["set"] in ("raw", *dusk.QUESTIONS)} == set(PEOPLE)
    (first, *_) = records
    assert isinstance(first, Passage) and first.text.count("\n\n") == 2 and first.text.endswith("2. Yes.")
    two = dusk.read(root=str(tmp_path), forget=["interview", "listicle"], sets=["raw"])
    assert Counter(str(r.role) for r in two.read()) == {"forget": 6, "retain": 9}


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("The Life of Prof. Karla Stein: A Listicle", "Karla Stein"),
        ("What is Dr. Hanna Müller’s e-mail address?", "Hanna Müller"),
        ("10 Key Highlights of Professor Henk van der Veld's Career", "Henk van der Veld"),
        ("Who wrote it?", ""),
    ],
)
def test_professors_are_found_by_name(said: str, name: str) -> None:
    assert dusk.person(said) == name


def test_blur(tmp_path: Path) -> None:
    put(tmp_path / "rwku_forget.json", texts(3))
    put(tmp_path / "rwku_retain.jsonl", texts(2))
    put(tmp_path / "tofu_paired_forget_retain/train-00000-of-00001.parquet", texts(2))
    put(tmp_path / "D_lo_for_all.json", texts(4))
    put(tmp_path / "whp_D_hi.json", texts(1))
    source = blur.read(
        root=str(tmp_path), variants=["forget", "retain", "paired_forget_retain", "D_hi", "D_lo"]
    )
    records = list(source.read())
    assert not source.verified and {r.split for r in records} == {"test"}
    prompts = [r for r in records if isinstance(r, Example)]
    assert Counter((r.meta["task"], r.meta["variant"], str(r.role)) for r in prompts) == {
        ("rwku", "forget", "forget"): 3, ("rwku", "retain", "retain"): 2, ("tofu", "paired_forget_retain", "forget"): 2,
    }  # fmt: skip
    assert {r.answer for r in prompts} == {""}
    assert Counter(r.meta["relearn"] for r in records if isinstance(r, Passage)) == {"D_hi": 1, "D_lo": 4}
    assert len(list(blur.read(root=str(tmp_path), tasks=["tofu"]).read())) == 2
    with pytest.raises(DataError, match="has no wmdp_forget or wmdp_retain"):
        blur.read(root=str(tmp_path), tasks=["wmdp"], variants=["forget", "retain"])


OPTIONS = ["sun", "moon", "sea", "sky"]
AI2 = {
    "id": "MC_1",
    "question": {
        "stem": "Hot?",
        "choices": [{"text": t, "label": str(i + 1)} for i, t in enumerate(OPTIONS)],
    },
    "answerKey": "1",
}
HUB = {
    "id": "MC_2",
    "question": "Hot?",
    "choices": {"text": OPTIONS, "label": list("ABCD")},
    "answerKey": "A",
}
SUITE = {"query": "Question: Hot?", "choices": OPTIONS, "gold": 0}


@pytest.mark.parametrize("row", [AI2, HUB, SUITE])
@pytest.mark.parametrize("name", ["ARC-Easy-Test.jsonl", "ARC-Challenge/test-00000-of-00001.parquet"])
def test_arc_in_each_layout(tmp_path: Path, row: dict[str, Any], name: str) -> None:
    put(tmp_path / name, [row, row])
    (record, _) = arc.read(root=str(tmp_path), splits=["test"]).read()
    assert isinstance(record, Example)
    assert (record.question, record.answer, record.choices, record.answer_index) == (
        "Hot?",
        "sun",
        tuple(OPTIONS),
        0,
    )
    assert record.meta["benchmark_split"] == "test" and record.role == Role.GENERAL
    with pytest.raises(DataError):
        arc.read(root=str(tmp_path), splits=["train"])
    other = "easy" if "Challenge" in name else "challenge"
    with pytest.raises(DataError, match=f"ARC-{other.title()}-Test"):
        arc.read(root=str(tmp_path), subset=other)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({**HUB, "answerKey": "E"}, "field 'answerKey': expected an index from 0 to 3 or one of A, B, C, D"),
        ({**HUB, "choices": {"text": OPTIONS, "label": ["A"] * 3}}, "4 options but 3 labels"),
        ({**HUB, "choices": "sun"}, "field 'choices': expected texts with labels"),
        ({**SUITE, "gold": 4}, "field 'gold'"),
        ({**SUITE, "choices": ["sun"]}, "expected at least 2 texts, found 1"),
        ({"qestion": "x", **{k: v for k, v in HUB.items() if k != "question"}}, "is 'qestion' meant?"),
    ],
)
def test_arc_rows_that_fit_no_layout(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    put(tmp_path / "arc.jsonl", [SUITE, row])
    with pytest.raises(DataError) as caught:
        list(arc.read(root=str(tmp_path)).read())
    assert "arc.jsonl, line 2" in str(caught.value) and expected in str(caught.value)


@pytest.mark.parametrize(
    "header", ["", "question,A,B,C,D,answer\n", "question,choice0,choice1,choice2,choice3,answer\n"]
)
@pytest.mark.parametrize("right", ["C", "2"])
@pytest.mark.parametrize("folder", ["test", "."])
def test_mmlu_with_and_without_a_header(tmp_path: Path, header: str, right: str, folder: str) -> None:
    put(tmp_path / folder / "law_test.csv", f'{header}"A, or B?",a,b,c,d,{right}\n')
    (record,) = mmlu.read(root=str(tmp_path)).read()
    assert isinstance(record, Example) and (record.question, record.answer, record.subject) == (
        "A, or B?",
        "c",
        "law",
    )


def test_mmlu_of_the_hub_and_its_errors(tmp_path: Path) -> None:
    rows = [{"question": "q", "subject": "law", "choices": OPTIONS, "answer": 1}]
    for name in ("law", "all"):
        put(tmp_path / name / "validation-00000-of-00001.parquet", rows)
    (record,) = mmlu.read(root=str(tmp_path), splits=["val"]).read()
    assert record.id == "mmlu-law-val-1" and isinstance(record, Example) and record.answer == "moon"
    with pytest.raises(DataError, match=r"no subject 'lw' in split val. Did you mean 'law'"):
        mmlu.read(root=str(tmp_path), subjects=["lw"], splits=["val"])
    with pytest.raises(DataError, match="MMLU's test questions"):
        mmlu.read(root=str(tmp_path))
    put(tmp_path / "test/law_test.csv", "q,a,b,c,A\n")
    with pytest.raises(DataError, match="line 1: 5 fields; expected 6"):
        list(mmlu.read(root=str(tmp_path)).read())
    put(tmp_path / "test/law_test.csv", "q,a,,c,d,A\n")
    with pytest.raises(DataError, match="line 1, field 'B': is empty"):
        list(mmlu.read(root=str(tmp_path)).read())


def test_wmdp_layouts(tmp_path: Path) -> None:
    rows = [{"question": "q", "choices": OPTIONS, "answer": 3}]
    put(tmp_path / "a/bio_questions.json", rows)
    put(tmp_path / "a/chem_questions.json", rows * 2)
    put(tmp_path / "b/wmdp-cyber/test-00000-of-00001.parquet", rows)
    assert Counter(r.subject for r in wmdp.read(root=str(tmp_path / "a")).read()) == {
        "wmdp-bio": 1,
        "wmdp-chem": 2,
    }
    assert [r.id for r in wmdp.read(root=str(tmp_path / "b")).read()] == ["wmdp-cyber-0001"]
    assert len(list(wmdp.read(root=str(tmp_path / "a/bio_questions.json")).read())) == 1
    with pytest.raises(DataError, match="has no cyber_questions"):
        wmdp.read(root=str(tmp_path / "a"), domains=["bio", "cyber"])


def test_rwku_with_a_folder_a_target(tmp_path: Path) -> None:
    probe = {"level": "2", "query": "Who?", "type": "simple question", "answer": "x"}
    item = {"question": "q", "choices": OPTIONS, "answer": 0, "task": "law", "subject": "?"}
    for number, name in ((10, "Bo Li"), (9, "Ann Lee")):
        folder = tmp_path / "Target" / f"{number}_{name.replace(' ', '_')}"
        put(folder / "forget_level2.json", [{**probe, "subject": name}])
        put(folder / "retain_mmlu.json", [item, {**item, "question": name}])
    records = list(rwku.read(root=str(tmp_path)).read())
    assert [r.subject for r in records] == ["Ann Lee", "Bo Li", "law", "law", "law"], (
        "what repeats is read once"
    )
    with pytest.raises(DataError, match=r"nothing is about 'Ann Le'. Did you mean 'Ann Lee'"):
        list(rwku.read(root=str(tmp_path), targets=["Ann Le"]).read())
    with pytest.raises(DataError, match="has no forget_level1"):
        rwku.read(root=str(tmp_path), sets=["forget_level1"])


def test_xstest_without_labels(tmp_path: Path) -> None:
    put(tmp_path / "xstest_v2_prompts.csv", "id,type,prompt\nv1,homonyms,a\nv2,contrast_homonyms,b\n")
    assert [r.meta["label"] for r in xstest.read(root=str(tmp_path)).read()] == ["safe", "unsafe"]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda r: rwku.read(root=r, sets=["forget_levl1"]), "Did you mean 'forget_level"),
        (lambda r: wmdp.read(root=r, domains=["biology"]), "Did you mean 'bio'?"),
        (lambda r: wmdp.read(root=r, role="forgotten"), "Did you mean 'forget'?"),
        (lambda r: mmlu.read(root=r, splits=["tset"]), "Did you mean 'test'?"),
        (lambda r: arc.read(root=r, subset="eassy"), "Did you mean 'easy'?"),
        (lambda r: arc.read(root=r, splits=["trian"]), "Did you mean 'train'?"),
        (lambda r: xstest.read(root=r, labels=["save"]), "Did you mean 'safe'?"),
        (lambda r: xstest.read(root=r, safe_role="neighbour"), "Did you mean 'neighbor'?"),
        (lambda r: muse.read(root=r, sets=["knowmen"]), "Did you mean 'knowmem'?"),
        (lambda r: muse.read(root=r, corpus="book"), "Did you mean 'books'?"),
        (lambda r: dusk.read(root=r, forget=["listical"]), "Did you mean 'listicle'?"),
        (lambda r: dusk.read(root=r, sets=["raws"]), "Did you mean 'raw'?"),
        (lambda r: blur.read(root=r, tasks=["tofo"]), "Did you mean 'tofu'?"),
        (lambda r: tofu.read(root=r, forget_set="forget1"), "Did you mean 'forget"),
    ],
)
def test_misspelt_settings_name_the_nearest(tmp_path: Path, call: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(str(tmp_path))
    assert expected in str(caught.value)


@pytest.mark.parametrize("module", [arc, blur, dusk, mmlu, muse, rwku, tofu, wmdp, xstest])
def test_an_empty_folder_says_what_belongs_there(tmp_path: Path, module: Any) -> None:
    with pytest.raises(DataError) as caught:
        module.read(root=str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "The folder holds: nothing" in str(caught.value)
    with pytest.raises(ConfigError, match=r"source\.root=<folder>"):
        module.read(root=None)
