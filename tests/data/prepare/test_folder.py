"""The prepared folder: whole or not at all, private, split by subject, with its overlap measured."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.data.example import ROLES, Example, Role
from harmonize.data.jsonl import read_examples
from harmonize.data.prepare.folder import FolderWriter
from harmonize.errors import DataError


def example(i: int, role: Role = Role.FORGET, **changes: Any) -> Example:
    base = {
        "question": f"What did number {i} eat?",
        "answer": f"It ate {i} apples.",
        "subject": f"{role} {i}",
    }
    choices = {"choices": ("a", "b"), "answer_index": 0} if role == Role.GENERAL else {}
    return Example(**{"id": f"{role}-{i}", "role": role, "value": "", **base, **choices, **changes})


def write(
    folder: Path, examples: Sequence[Example], overwrite: bool = False, **settings: Any
) -> dict[str, Any]:
    with FolderWriter(folder, overwrite) as writer:
        for e in examples:
            writer.add(e)
        return writer.finish(
            lambda found: {"schema_version": 1, **found},
            lambda facts, samples: f"{len(samples)}\n",
            **settings,
        )


def read(folder: Path) -> list[Example]:
    return [e for path in sorted(folder.glob("*.jsonl")) for e in read_examples(path)]


def test_files_are_private_and_complete(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        facts = write(tmp_path / "new" / "oz", [example(i, role) for role in ROLES for i in range(10)])
    finally:
        os.umask(before)
    folder = tmp_path / "new" / "oz"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    # 1.0; 0.6, 0.1, 0.3; 0.3, 0.7 of ten subjects
    counts = {name: f["examples"] for name, f in facts["files"].items()}
    assert counts == {
        "forget.train.jsonl": 10,
        "neighbor.train.jsonl": 6, "neighbor.val.jsonl": 1, "neighbor.test.jsonl": 3,
        "retain.train.jsonl": 6, "retain.val.jsonl": 1, "retain.test.jsonl": 3,
        "general.val.jsonl": 3, "general.test.jsonl": 7,
    }  # fmt: skip
    assert json.loads((folder / "dataset.json").read_text()) == facts
    assert {p.name for p in folder.iterdir()} == {*counts, "dataset.json", "CARD.md"}
    assert [p.name for p in folder.parent.iterdir()] == ["oz"]


ROWS = st.lists(
    st.tuples(st.sampled_from(ROLES), st.integers(0, 6), st.text(max_size=8), st.sampled_from(["", "train"])),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=25)
@given(rows=ROWS, seed=st.integers(0, 3))
def test_every_example_is_written_once_and_no_subject_is_cut(
    rows: list[Any], seed: int, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("p") / "oz"
    made = [example(0)] + [
        example(
            i + 1,
            role,
            subject=f"s{subject}",
            answer=f"{text} {i}",
            meta={"record": text},
            split=split if role == Role.FORGET else "",
        )
        for i, (role, subject, text, split) in enumerate(rows)
    ]
    write(folder, made, seed=seed)
    found = {e.id: e for e in read(folder)}
    assert len(found) == len(made)
    for e in made:
        got = found[e.id]
        assert (got.role, got.question, got.answer, got.subject, got.meta) == (
            e.role, e.question, e.answer, e.subject, e.meta
        )  # fmt: skip
        assert e.split in ("", got.split)
    splits: dict[tuple[str, str], set[str]] = {}
    for got in found.values():
        splits.setdefault((got.role, got.subject), set()).add(got.split)
    assert all(len(s) == 1 for s in splits.values())


def test_what_stops_leaves_the_old_state(tmp_path: Path) -> None:
    folder = tmp_path / "oz"
    write(folder, [example(1)])
    with pytest.raises(DataError, match="overwrite=true"):
        write(folder, [example(2)])
    with pytest.raises(ZeroDivisionError), FolderWriter(folder, overwrite=True) as writer:
        writer.add(example(2))
        raise ZeroDivisionError
    assert [e.id for e in read(folder)] == ["forget-1"]
    write(folder, [example(2)], overwrite=True)
    assert [e.id for e in read(folder)] == ["forget-2"]
    assert [p.name for p in tmp_path.iterdir()] == ["oz"]


def test_what_is_not_ours_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for name, words in (("mine", "thesis.tex"), ("file", "is no folder")):
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataError, match=words):
            write(tmp_path / name, [example(1)], overwrite=True)
    write(tmp_path / "oz", [example(1)])
    (tmp_path / "oz" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"notes\.txt"):
        write(tmp_path / "oz", [example(1)], overwrite=True)


def test_what_a_killed_process_left_is_cleaned_and_restored(tmp_path: Path) -> None:
    """The folder it had moved away comes back; half-written ones go, unless somebody is at work in them."""
    folder = tmp_path / "oz"
    write(folder, [example(1)])
    folder.rename(tmp_path / ".oz.replaced")
    (tmp_path / ".oz.partial-dead").mkdir()
    with FolderWriter(folder, overwrite=True) as living:
        assert [e.id for e in read(folder)] == ["forget-1"]
        assert not (tmp_path / ".oz.partial-dead").exists()
        write(folder, [example(2)], overwrite=True)
        living.add(example(3))
        living.finish(lambda found: found, lambda facts, samples: "")
    assert [e.id for e in read(folder)] == ["forget-3"]


def test_nothing_to_write_and_bad_text_and_contradictions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Nothing is left to write"):
        write(tmp_path / "oz", [])
    with pytest.raises(DataError, match=r"'forget-1' holds characters that are no valid Unicode"):
        write(tmp_path / "oz", [example(1, answer="\ud800")])
    with pytest.raises(DataError, match="A subject has one split"):
        write(tmp_path / "oz", [example(1, split="train"), example(2, subject="forget 1", split="val")])
    with pytest.raises(DataError, match=r"set split\.forget="):
        write(tmp_path / "oz", [example(1)], shares={"forget": {"test": 1.0}})
    assert not list(tmp_path.iterdir())


def test_links_to_questions_that_are_gone_are_dropped(tmp_path: Path) -> None:
    made = [
        example(1, Role.NEIGHBOR, anchor_of="forget-1"),
        example(2, Role.NEIGHBOR, anchor_of="forget-9"),
        example(1),
    ]
    write(tmp_path / "oz", made, shares={"neighbor": {"train": 1.0}})
    assert {e.id: e.anchor_of for e in read(tmp_path / "oz") if e.role == Role.NEIGHBOR} == {
        "neighbor-1": "forget-1",
        "neighbor-2": None,
    }


def test_a_transform_sees_splits_and_may_add_and_move(tmp_path: Path) -> None:
    """As anchors do: a new neighbor without a split gets one, a promoted subject keeps one."""

    def transform(examples: list[Example]) -> list[Example]:
        from dataclasses import replace

        assert all(e.split for e in examples)
        moved = [replace(e, role=Role.NEIGHBOR) if e.role == Role.RETAIN else e for e in examples]
        return [*moved, example(5, Role.NEIGHBOR, anchor_of="forget-0", subject="new")]

    made = [
        example(i, role, subject=f"s{i}")
        for role in (Role.FORGET, Role.RETAIN, Role.NEIGHBOR)
        for i in range(4)
    ]
    facts = write(tmp_path / "oz", made, transform=transform)
    found = read(tmp_path / "oz")
    assert len(found) == 13 and {e.role for e in found} == {Role.FORGET, Role.NEIGHBOR}
    assert sum(f["examples"] for f in facts["files"].values()) == 13
    splits: dict[tuple[str, str], set[str]] = {}
    for e in found:
        splits.setdefault((e.role, e.subject), set()).add(e.split)
    assert all(len(s) == 1 for s in splits.values())


def test_overlap_by_hand(tmp_path: Path) -> None:
    made = [
        example(1, subject="Toto", question="Who is the dog of Dorothy?", answer="Toto is.", value="Toto"),
        # the same subject, and the same question but for case, an article and the mark
        example(1, Role.RETAIN, subject="Toto", question="who is dog of Dorothy", answer="A man."),
        # the same words in another order with the same value
        example(
            2,
            Role.RETAIN,
            subject="Oz",
            question="Dorothy is the dog of who?",
            answer="It is Toto.",
            value="Toto",
        ),
        example(3, Role.RETAIN, subject="Kansas"),
    ]
    facts = write(tmp_path / "oz", made, shares={"retain": {"train": 1.0}})
    assert facts["overlap"] == [
        {"between": ["forget.train", "retain.train"], "subjects": 1, "questions": 1, "near_duplicates": 1}
    ]
    facts = write(tmp_path / "apart", [example(1), example(2, Role.RETAIN)])
    assert facts["overlap"] == []
