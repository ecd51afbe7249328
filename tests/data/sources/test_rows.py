"""Streaming rows: lines and arrays alike, flat memory, and an error that says what to type for every bad file."""

from __future__ import annotations

import builtins
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.data.sources import rows as module
from harmonize.data.sources.rows import csv_records, rows, text_lines
from harmonize.errors import DataError

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
objects = st.dictionaries(
    text, st.none() | st.booleans() | st.integers() | text | st.lists(text, max_size=3), max_size=4
)


def read(path: Path, **settings: Any) -> list[dict[str, Any]]:
    return [row.data for row in rows(path, **settings)]


def message(path: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **settings)
    return str(caught.value)


@settings(deadline=None)
@given(
    st.lists(objects, min_size=1, max_size=6),
    st.sampled_from([None, 0, 2]),
    st.integers(1, 40),
    st.booleans(),
)
def test_lines_and_arrays_give_the_same_rows_however_the_file_is_cut(
    written: list[dict[str, Any]], indent: int | None, chunk: int, ascii_only: bool
) -> None:
    before = module.CHUNK
    module.CHUNK = chunk
    try:
        with tempfile.TemporaryDirectory() as folder:
            array, lines = Path(folder) / "a.json", Path(folder) / "b.json"
            array.write_bytes(json.dumps(written, indent=indent, ensure_ascii=ascii_only).encode())
            lines.write_bytes(
                "".join(json.dumps(w, ensure_ascii=ascii_only) + "\n" for w in written).encode()
            )
            assert read(array) == read(lines) == written
    finally:
        module.CHUNK = before


def test_rows_are_counted_and_placed(tmp_path: Path) -> None:
    lines, array = tmp_path / "l.jsonl", tmp_path / "a.jsonl"
    lines.write_text('{"a": 1}\n\n  {"a": 2}\r\n')
    array.write_text('[\n{"a": 1},\n\n{"a": 2}]\n')
    assert [(r.number, r.place) for r in rows(lines)] == [(1, "line 1"), (2, "line 3")]
    assert [(r.number, r.place) for r in rows(array)] == [(1, "item 1 (line 2)"), (2, "item 2 (line 4)")]


@pytest.mark.parametrize("shape", ["lines", "array", "csv"])
def test_memory_is_flat(tmp_path: Path, shape: str) -> None:
    """25 MB are read within 3 MB."""
    filler = "x" * 2500
    path = tmp_path / ("big.csv" if shape == "csv" else "big.json")
    with path.open("w") as stream:
        stream.write({"lines": "", "array": "[", "csv": "question\n"}[shape])
        for i in range(10_000):
            comma = "," if i and shape == "array" else ""
            stream.write(f"{filler}\n" if shape == "csv" else f'{comma}{{"question": "{filler}"}}\n')
        stream.write("]" if shape == "array" else "")
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows(path)) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("opening", ["", "["])
def test_ten_megabyte_rows_are_read(tmp_path: Path, opening: str) -> None:
    path = tmp_path / "x.json"
    long = "é\\n" * 2_500_000
    path.write_text(
        f'{opening}{{"a": "{long}"}}{"," if opening else chr(10)}{{"a": "b"}}{"]" if opening else ""}'
    )
    first, second = read(path)
    assert path.stat().st_size > 10_000_000
    assert first["a"] == "é\n" * 2_500_000 and second == {"a": "b"}


@pytest.mark.parametrize("shape", ["lines", "array", "csv"])
def test_rows_longer_than_any_example_are_refused(
    tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 1 << 20)
    path = tmp_path / ("x.csv" if shape == "csv" else "x.json")
    long = "y" * 1_300_000
    path.write_text(
        {"lines": f'{{"a": 1}}\n{{"a": "{long}"}}\n', "array": f'[{{"a": 1}}, {{"a": "{long}"}}]'}.get(
            shape, f"a\n1\n{long}\n"
        )
    )
    said = message(path)
    assert str(path) in said
    assert {"lines": "line 2: longer than 1 MiB", "array": "item 2 (line 1): longer", "csv": "line 3"}[
        shape
    ] in said


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv", "x.txt"])
def test_latin_1_is_named_with_line_byte_and_command(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    start = {"x.csv": "question\nplain\n", "x.txt": "a\nb\n"}.get(name, '{"question": "plain"}\n\n')
    bad = {"x.csv": "caf\xe9\n", "x.txt": "caf\xe9\n"}.get(name, '{"question": "caf\xe9"}\n')
    path.write_bytes(start.encode() + bad.encode("latin1"))
    with pytest.raises(DataError) as caught:
        list(text_lines(path) if name == "x.txt" else rows(path))
    byte = bad.encode("latin1").index(b"\xe9") + 1
    assert f"{path}, line 3: not UTF-8 (byte {byte} of the line is 0xE9)" in str(caught.value)
    assert "iconv -f latin1 -t utf-8" in str(caught.value)


def test_latin_1_in_an_array_is_placed_too(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"a": 1},\n{"a": "\xe9"}]')
    assert "line 2: not UTF-8 (byte 8 of the line is 0xE9)" in message(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_wide_encodings_are_named(tmp_path: Path, encoding: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes('{"a": 1}\n'.encode(encoding))
    said = message(path)
    assert (
        f"not UTF-8 but {encoding.upper()[:6]}" in said
        and f"iconv -f {encoding[:6]}" in said
        and "byte 1" in said
    )


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("body", ['{"a": "é"}\n', '[{"a": "é"}]', "a\né\n"])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path, start: bytes, body: str) -> None:
    path = tmp_path / ("x.csv" if body[0] == "a" else "x.json")
    path.write_bytes(start + body.encode())
    assert read(path) == [{"a": "é"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.jsonl", ""), ("x.jsonl", " \n\n"), ("x.json", "[]"), ("x.csv", ""), ("x.csv", "a,b\n")],
)
def test_empty_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert f"{path} is empty" in message(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        ('{\n  "a": 1\n}', "line 1: not valid JSON (Expecting property name enclosed in double quotes"),
        ('{"a": 1}\n"text"\n', "line 2: expected a JSON object, found text"),
        ('[{"a": 1}, 3]', "item 2 (line 1): expected a JSON object, found a number (3)"),
        (
            '[{"a": 1},\n{"a": tru}, {"a": "' + "x" * 50 + '"}]',
            "line 2: not valid JSON (Expecting value, in item 2",
        ),
        ('[{"a": 1},\n{"a": "cut', "line 2: not valid JSON (Unterminated string"),
        ('[{"a": 1}', "expected ',' or ']' after item 1, found the end of the file: it was cut off"),
        ('[{"a": 1}\n{"a": 2}]', "line 2: not valid JSON (expected ',' or ']' after item 1, found '{')"),
        ('[{"a": 1},]', "a comma before the end"),
        ('[{"a": 1}] {"a": 2}', "more after the end of the JSON array"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 100_000, "line 1: not"),
    ],
)
def test_malformed_json_is_placed(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert expected in message(path) and str(path) in message(path)


def test_a_syntax_error_does_not_read_the_rest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a" 1},\n' + '{"a": 1},\n' * 100_000 + "]")
    tracemalloc.start()
    assert "line 1: not valid JSON (Expecting ':' delimiter, in item 1" in message(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000 < path.stat().st_size


def test_bare_texts_are_rows_only_where_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('["one", {"text": "two"}]')
    assert read(path, texts=True) == [{"text": "one"}, {"text": "two"}]
    assert "expected a JSON object, found text" in message(path)


def test_csv_with_quotes_commas_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('question, answer\r\n"a, ""b""\nc",d\r\n\r\ne,\r\n', newline="")
    assert [(r.place, r.data) for r in rows(path)] == [
        ("line 3", {"question": 'a, "b"\nc', "answer": "d"}),
        ("line 5", {"question": "e", "answer": ""}),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "qestion,answer\nq,a\n",
            "missing column 'question'. Is 'qestion' meant by 'question'? The file has: qestion",
        ),
        ("q,a\n1,2\n", "missing columns 'question', 'answer'"),
        ("question,answer\nq,a,b\n", "line 2: 3 fields, but the header names 2 columns"),
        ("question,answer\nq\n", "line 2: 1 fields"),
        ("question,answer,answer\nq,a,b\n", "column 'answer' is named twice"),
        ('question,answer\n"q,a\nb,c\n', "not valid CSV"),
    ],
)
def test_bad_tables_are_explained(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    said = message(path, required=("question", "answer"))
    assert expected in said and str(path) in said


def test_tabs_separate_tsv(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n1,2\t3\n")
    assert read(path) == [{"a": "1,2", "b": "3"}]


def test_parquet_is_read_in_batches_over_its_row_groups(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    written = [{"question": f"q{i}", "choices": ["a", "b"], "n": i} for i in range(1000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(written), path, row_group_size=300)
    assert read(path) == written
    assert [r.place for r in rows(path)][-1] == "row 1000"
    assert "missing column 'answer'" in message(path, required=("answer",))
    path.write_bytes(b"PAR1 but no more")
    assert "not readable as Parquet" in message(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'harmonize[parquet]'" in message(tmp_path / "x.parquet")


def test_missing_files_and_foreign_suffixes(tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").write_text("{}")
    assert "Did you mean 'forget.jsonl'?" in message(tmp_path / "forgot.jsonl")
    assert "rows are read from .csv, .json, .jsonl, .parquet, .tsv files" in message(tmp_path / "x.pkl")
    (tmp_path / "d.json").mkdir()
    assert "is a folder" in message(tmp_path / "d.json")


def test_records_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("q,1,2\n\nr,3,4\n")
    assert list(csv_records(path)) == [(1, ["q", "1", "2"]), (3, ["r", "3", "4"])]
