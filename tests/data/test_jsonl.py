"""JSON Lines in and out: what is written is read back, and every mistake names file, line and field."""

from __future__ import annotations

import json
import os
import stat
import string
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonize.data.example import Example, Role
from harmonize.data.jsonl import SHOWN_PROBLEMS, read_examples, read_rows, write_examples
from harmonize.errors import DataError

GOOD: dict[str, Any] = {"id": "a", "role": "forget", "question": "Who?", "answer": "Ann.", "subject": "Ann"}
# Any character of any plane, line separators and controls included; surrogates are no text.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
filled = texts.filter(lambda t: t.strip() != "")
scalars = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | texts
metas = st.dictionaries(
    st.text(string.ascii_letters, min_size=1, max_size=8) | st.sampled_from(["meta", "role", "id"]),
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(texts, scalars, max_size=2),
    max_size=3,
)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    answer = draw(filled)
    choices: tuple[str, ...] = ()
    index = None
    if draw(st.booleans()):
        choices = tuple(draw(st.lists(texts, min_size=1, max_size=4)))
        index = draw(st.integers(0, len(choices) - 1))
    start = draw(st.integers(0, len(answer)))
    return Example(
        id=draw(texts.filter(bool)),
        role=draw(st.sampled_from(list(Role))),
        question=draw(filled),
        answer=answer,
        subject=draw(texts.filter(bool)),
        source=draw(texts),
        split=draw(st.sampled_from(["", "train", "val", "test"])),
        anchor_of=draw(st.none() | texts),
        choices=choices,
        answer_index=index,
        aliases=tuple(draw(st.lists(texts, max_size=2))),
        request_id=draw(texts),
        value=answer[start:],
        paraphrases=tuple(draw(st.lists(texts, max_size=3))),
        fact=draw(texts),
        meta=draw(metas),
    )


@given(st.lists(examples(), min_size=1, max_size=4, unique_by=lambda e: e.id))
def test_what_is_written_is_read_back(written: list[Example]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        write_examples(path, written)
        assert read_examples(path) == written


def lines(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8"
    )
    return path


def message(path: Path, role: Role | str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_examples(path, role)
    return str(caught.value)


def test_defaults_of_id_subject_and_role(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "mine.jsonl", {"question": "q", "answer": "a"}, "", {"question": "r", "answer": "b"}
    )
    first, second = read_examples(path, "retain")
    assert (first.id, first.subject, first.role) == ("mine-1", "mine-1", Role.RETAIN)
    assert second.id == "mine-3"


def test_unknown_columns_are_kept_and_written_back(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {**GOOD, "level": 3, "tags": ["x"]})
    (example,) = read_examples(path)
    assert example.meta == {"level": 3, "tags": ["x"]}
    write_examples(tmp_path / "y.jsonl", [example])
    row = json.loads((tmp_path / "y.jsonl").read_text())
    assert row["level"] == 3 and row["tags"] == ["x"] and "meta" not in row


def test_numbers_serve_as_ids_and_null_means_absent(tmp_path: Path) -> None:
    (example,) = read_examples(lines(tmp_path / "x.jsonl", {**GOOD, "id": 7, "value": None}))
    assert example.id == "7" and example.value == ""


def test_the_index_of_a_literal_choice_is_found(tmp_path: Path) -> None:
    row = {**GOOD, "role": "general", "answer": "b", "choices": ["a", "b"]}
    (example,) = read_examples(lines(tmp_path / "x.jsonl", row))
    assert example.answer_index == 1


def test_written_files_are_private_and_replace_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.jsonl"
    examples = read_examples(lines(tmp_path / "a.jsonl", GOOD))
    write_examples(path, examples)
    write_examples(path, examples)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["x.jsonl"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    old = read_examples(lines(path, GOOD))
    bad = Example(**{**GOOD, "role": Role.FORGET, "meta": {"x": object()}})
    with pytest.raises(DataError, match="example 'a'"):
        write_examples(path, [*old, bad])
    assert read_examples(path) == old and os.listdir(tmp_path) == ["x.jsonl"]


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert read_examples(path)[0].answer == "Ann."


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"question": None}, "field 'question': missing"),
        ({"answer": None}, "field 'answer': missing"),
        ({"answer": "  "}, "field 'answer': is empty"),
        ({"question": 3}, "field 'question': expected text, found a number (3)"),
        ({"subject": ["x"]}, "field 'subject': expected text, found a list ([\"x\"])"),
        ({"role": "forgot"}, "unknown role 'forgot'. Did you mean 'forget'?"),
        ({"role": None}, "field 'role': missing"),
        ({"split": "tests"}, "unknown split 'tests'. Did you mean 'test'?"),
        ({"paraphrases": "Who is it?"}, "field 'paraphrases': expected a list of texts, found text"),
        ({"aliases": ["a", 2]}, "field 'aliases': expected a list of texts, found a list with a number (2)"),
        (
            {"choices": ["a", "b"], "answer_index": 2},
            "field 'answer_index': 2 is out of range; there are 2 choices",
        ),
        ({"choices": ["a"], "answer_index": -1}, "field 'answer_index': -1 is out of range"),
        ({"choices": ["a"], "answer_index": True}, "field 'answer_index': expected a whole number"),
        (
            {"choices": ["a"], "answer_index": "0"},
            "field 'answer_index': expected a whole number, found text",
        ),
        ({"choices": ["a", "b"]}, "field 'answer_index': missing"),
        ({"value": "Bob"}, "field 'value': 'Bob' does not occur in the answer"),
        ({"meta": 1}, "field 'meta': expected an object"),
        ({"id": 1.5}, "field 'id': expected text"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    path = lines(tmp_path / "x.jsonl", {**GOOD, "id": "z"}, {**GOOD, **change})
    text = message(path)
    assert f"{path}, line 2" in text and expected in text


def test_a_misspelt_column_is_suggested(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"role": "forget", "qestion": "q", "answer": "a"})
    assert "is 'qestion' meant?" in message(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"question": "q", ', "line 2: not valid JSON"),
        ('"text"', "line 2: expected a JSON object, found text"),
        ("[1]", "line 2: expected a JSON object, found a list"),
        ("[" * 100_000, "line 2: not"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = lines(tmp_path / "x.jsonl", GOOD, line)
    text = message(path)
    assert str(path) in text and expected in text


def test_the_first_problems_are_listed_with_their_number(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", *[{**GOOD, "id": str(i), "answer": ""} for i in range(8)])
    text = message(path)
    assert "8 problems" in text and f"line {SHOWN_PROBLEMS}," in text and "line 6" not in text
    assert "and 3 more" in text


def test_an_id_used_twice_names_both_lines(tmp_path: Path) -> None:
    text = message(lines(tmp_path / "x.jsonl", GOOD, GOOD))
    assert "line 2, field 'id': 'a' is already used on line 1" in text


def test_a_role_that_contradicts_the_file_is_an_error(tmp_path: Path) -> None:
    assert "'forget' in a file of role 'retain'" in message(lines(tmp_path / "x.jsonl", GOOD), "retain")


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_says_what_belongs_there(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content, encoding="utf-8")
    assert "is empty" in message(path) and '"question"' in message(path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    lines(tmp_path / "forget.jsonl", GOOD)
    assert "Did you mean 'forget.jsonl'?" in message(tmp_path / "forgett.jsonl")
    assert "there is no folder" in message(tmp_path / "nowhere" / "forget.jsonl")
    assert "is a folder" in message(tmp_path)


def test_other_encodings_are_named_with_the_mending_command(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + '{"question": "é"}'.encode("latin1"))
    assert "line 2: not UTF-8" in message(path) and "iconv" in message(path)
    path.write_bytes(json.dumps(GOOD).encode("utf-16"))
    assert "UTF-16" in message(path)


def test_a_json_array_is_explained(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.json", [GOOD])
    with pytest.raises(DataError, match="one object per line"):
        read_rows(path)
