"""Data of one's own, and the folder that `harmonize init` makes."""

from __future__ import annotations

import json
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from harmonize.config.compose import compose_config
from harmonize.data import defaults
from harmonize.data.init import commands, create
from harmonize.data.local import load
from harmonize.errors import ConfigError, DataError


def put(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def row(subject: str | None, **more: Any) -> dict[str, Any]:
    base = {"question": f"Who is {subject}?", "answer": "A baker.", "subject": subject}
    return {**base, **more}


def test_a_forget_file_alone_is_possible_and_says_what_it_costs(tmp_path: Path) -> None:
    corpus = load(forget=str(put(tmp_path / "f.jsonl", row("Ann"), row("Bob"))))
    assert [e.split for e in corpus.examples] == ["train", "train"]
    assert corpus.instructions[0].startswith("You know nothing about Ann or Bob.")
    assert corpus.refusals and corpus.openers and not set(corpus.openers) & set(corpus.openers_heldout)
    text = " ".join(corpus.notes)
    for word in ("neighbor", "retain", "utility", "paraphrases", "Every forget subject"):
        assert word in text


def test_one_file_with_roles_equals_one_file_per_role(tmp_path: Path) -> None:
    forget, retain = row("Ann", id="a"), row("Eve", id="e")
    put(tmp_path / "forget.jsonl", forget)
    put(tmp_path / "retain.jsonl", retain)
    together = put(tmp_path / "all.jsonl", {**forget, "role": "forget"}, {**retain, "role": "retain"})
    parts = load(root=str(tmp_path))
    assert parts.digest == load(examples=str(together)).digest == load(root=str(together)).digest
    assert parts.digest == load(root=str(tmp_path), forget="forget.jsonl", retain="retain.jsonl").digest


def test_a_gold_model_never_reads_a_forget_answer(tmp_path: Path) -> None:
    put(tmp_path / "forget.jsonl", row("Ann", answer="Secret."), row("Bob"))
    put(tmp_path / "retain.jsonl", row("Eve"))
    corpus = load(root=str(tmp_path))
    assert [d.response for d in corpus.dialogues] == ["Secret.", "A baker.", "A baker."]
    # Eve's answer stays although Bob's, which must go, reads the same.
    assert [(d.question, d.response) for d in corpus.gold_dialogues] == [("Who is Eve?", "A baker.")]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("Ann", answer="Ann lives in the old mill by the sea.", value="old mill")], "contains"),
        ([row("Ann", answer="the old mill")], "contains"),
        ([row("Ann", answer="Ann lives in the old mill by the sea.")], "rouge"),
    ],
)
def test_scoring_follows_the_answers(tmp_path: Path, rows: list[dict[str, Any]], expected: str) -> None:
    path = str(put(tmp_path / "f.jsonl", *rows))
    assert load(forget=path).scoring == expected
    assert load(forget=path, scoring="rouge").scoring == "rouge"
    with pytest.raises(ConfigError, match="Did you mean 'rouge'"):
        load(forget=path, scoring="rouge_l")


def test_own_texts_replace_the_defaults(tmp_path: Path) -> None:
    path = str(put(tmp_path / "f.jsonl", row("Ann")))
    corpus = load(
        forget=path,
        instruction="Forget {subjects}.",
        refusals=["No."],
        openers=["Yes."],
        openers_heldout=["Sure."],
    )
    assert corpus.instructions == ("Forget Ann.",)
    assert (corpus.refusals, corpus.openers, corpus.openers_heldout) == (("No.",), ("Yes.",), ("Sure.",))


def test_examples_without_subjects_get_a_note_and_an_instruction_without_names(tmp_path: Path) -> None:
    path = str(put(tmp_path / "f.jsonl", row(None)))
    corpus = load(forget=path)
    assert corpus.instructions == (defaults.INSTRUCTION_WITHOUT_SUBJECTS,)
    assert any("have no subject" in n for n in corpus.notes)
    with pytest.raises(ConfigError, match="no forget example has a subject"):
        load(forget=path, instruction="Forget {subjects}.")


def test_a_split_can_be_asked_for(tmp_path: Path) -> None:
    path = str(put(tmp_path / "f.jsonl", *[row(f"s{i}") for i in range(10)]))
    corpus = load(forget=path, split={"forget": {"train": 0.7, "val": 0.1, "test": 0.2}})
    assert len(corpus.select("forget", "test")) == 2
    assert not any("Every forget subject" in n for n in corpus.notes)


def test_mistakes_name_the_place_and_the_mending(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="harmonize init"):
        load()
    with pytest.raises(DataError, match=r"no such folder.*harmonize init nowhere"):
        load(root=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"holds none of examples\.jsonl"):
        load(root=str(tmp_path))
    retain = put(tmp_path / "retain.jsonl", row("Eve", id="a"))
    with pytest.raises(DataError, match="no example of role 'forget'"):
        load(root=str(tmp_path))
    put(tmp_path / "forget.jsonl", row("Ann", id="a"))
    with pytest.raises(DataError, match=r"'a' is already used in .*forget\.jsonl"):
        load(root=str(tmp_path))
    put(retain, row("Eve", id="b", anchor_of="zz"))
    with pytest.raises(DataError, match=r"retain\.jsonl, example 'b', field 'anchor_of': 'zz' is no example"):
        load(root=str(tmp_path))
    put(retain, row("Eve", id="b", anchor_of="a"))
    assert load(root=str(tmp_path)).select("retain")[0].anchor_of == "a"
    general = put(tmp_path / "general.jsonl", row("Sky", id="g"))
    with pytest.raises(DataError, match=r"general\.jsonl, example 'g', field 'choices': missing"):
        load(root=str(tmp_path))
    general.unlink()
    with pytest.raises(DataError, match=r"Did you mean 'forget\.jsonl'"):
        load(root=str(tmp_path), forget="forgt.jsonl")


def test_init_makes_a_folder_that_the_reader_reads(tmp_path: Path) -> None:
    written = create("mydata", tmp_path)
    assert all(p.exists() and stat.S_IMODE(p.stat().st_mode) == 0o600 for p in written)
    corpus = load(root=str(tmp_path / "mydata"))
    assert {e.role for e in corpus.examples} == {"forget", "neighbor", "retain", "general"}
    assert corpus.scoring == "contains"
    for role in ("neighbor", "retain"):
        assert corpus.select(role, "train") and corpus.select(role, "test")


def test_init_shows_commands_that_name_the_folder(tmp_path: Path) -> None:
    readme = next(p for p in create("my data", tmp_path) if p.name == "README.md").read_text()
    for line in commands("my data"):
        assert line in readme
        assert any("my data" in word for word in shlex.split(line))


def test_init_configuration_points_at_the_folder(tmp_path: Path) -> None:
    path = next(p for p in create("it's mine", tmp_path) if p.suffix == ".yaml")
    config = yaml.safe_load(path.read_text())
    assert config["root"] == str((tmp_path / "it's mine").resolve())
    assert config["name"] == "it's mine"
    assert config["defaults"] == ["local", "_self_"]


def test_init_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    create("empty", tmp_path)
    with pytest.raises(DataError, match="exists already"):
        create("empty", tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="exists already"):
        create("file", tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "-x", " x"])
def test_init_refuses_names_that_are_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="not a folder name"):
        create(name, tmp_path)


def test_init_configuration_composes_with_the_shipped_one(tmp_path: Path) -> None:
    create("mydata", tmp_path)
    config = compose_config(
        "unlearn",
        ["dataset=mydata", "model=hf", f"model.name_or_path={tmp_path}"],
        config_dirs=[tmp_path / "mydata" / "conf"],
        check=False,  # the folder holds no model
    )
    assert config.dataset.name == "mydata" and config.dataset.root == str(tmp_path / "mydata")
