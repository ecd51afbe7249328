"""Readers of one's own files: what is written in every role is read back, and every mistake is placed."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.data.example import ROLES, Example, Role
from harmonize.data.jsonl import write_examples
from harmonize.data.records import Chat, Passage, Record
from harmonize.data.sources import books, chat, jsonl, prose, table
from harmonize.errors import ConfigError, DataError

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")
said = st.text(characters, min_size=1, max_size=20).filter(lambda t: t.strip() != "")
roles = st.sampled_from(list(ROLES))


@st.composite
def examples(draw: st.DrawFn, choices: bool = False) -> Example:
    options = tuple(draw(st.lists(said, min_size=2, max_size=4, unique=True))) if choices else ()
    index = draw(st.integers(0, len(options) - 1)) if choices else None
    return Example(
        id="",
        role=draw(roles),
        question=draw(said),
        answer=options[index] if index is not None else draw(said),
        subject=draw(said),
        choices=options,
        answer_index=index,
        meta={"note": draw(said)},
    )


def split(records: list[Any]) -> dict[str, list[Any]]:
    return {str(role): [r for r in records if r.role == role] for role in ROLES}


def facts(records: Iterator[Record] | list[Any]) -> list[tuple[Any, ...]]:
    """What must survive, in the order of roles."""
    found = []
    for r in records:
        kept = (
            (r.question, r.answer, r.choices, r.answer_index)
            if isinstance(r, Example)
            else (r.text if isinstance(r, Passage) else r.messages,)
        )
        found.append((str(r.role), r.subject, *kept, r.meta))
    return sorted(found, key=lambda f: ROLES.index(Role(f[0])))


def unique(records: list[Record]) -> bool:
    return len({r.id for r in records}) == len(records)


@settings(deadline=None, max_examples=60)
@given(st.lists(examples() | examples(choices=True), min_size=1, max_size=8), st.booleans())
def test_jsonl_reads_back_every_role(written: list[Example], array: bool) -> None:
    written = [Example(**{**row(e), "id": f"e{i}"}) for i, e in enumerate(written)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_examples(folder / "examples.jsonl", written)
        if array:
            lines = (folder / "examples.jsonl").read_text(encoding="utf-8").split("\n")
            (folder / "examples.json").write_text(f"[{', '.join(filter(None, lines))}]", encoding="utf-8")
            (folder / "examples.jsonl").unlink()
        read = list(jsonl.read(root=name).read())
        assert facts(read) == facts(written) and [r.id for r in read] == [e.id for e in written]


def row(example: Example) -> dict[str, Any]:
    return {f: getattr(example, f) for f in example.__dataclass_fields__}


@settings(deadline=None, max_examples=60)
@given(st.lists(examples(), min_size=1, max_size=8), st.sampled_from([".csv", ".tsv", ".parquet"]))
def test_tables_read_back_every_role(written: list[Example], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        for role, own in split(written).items():
            rows = [{"Q": e.question, "A": e.answer, "about": e.subject, "note": e.meta["note"]} for e in own]
            if own:
                write_table(Path(name) / f"{role}{suffix}", rows)
        read = list(table.read(root=name, question="Q", answer="A", subject="about").read())
        assert facts(read) == facts(written) and unique(read)


@settings(deadline=None, max_examples=40)
@given(st.lists(examples(choices=True), min_size=1, max_size=6), st.sampled_from(["text", "index"]))
def test_tables_of_choices_read_back_every_role(written: list[Example], right: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        for role, own in split(written).items():
            rows = [
                {
                    "question": e.question, "options": list(e.choices), "s": e.subject, "note": e.meta["note"],
                    "answer": e.answer if right == "text" else str(e.answer_index),
                }
                for e in own
            ]  # fmt: skip
            if own:
                write_table(Path(name) / f"{role}.parquet", rows)
        read = list(table.read(root=name, choices="options", subject="s").read())
        # `answer` and `options` are no meta; an option that is itself a number is taken by its text first.
        clear = right == "text" or not any(str(e.answer_index) in e.choices for e in written)
        pairs = zip(facts(read), facts(written), strict=True)
        assert unique(read) and all(r == w if clear else r[:3] == w[:3] for r, w in pairs)


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


turns = st.lists(st.tuples(st.sampled_from(["system", "assistant", "user"]), said), max_size=4).map(
    lambda made: [*made, ("user", "Who?"), ("assistant", "Ann.")]
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(roles, turns, said), min_size=1, max_size=6),
    st.sampled_from(["openai", "parts", "sharegpt"]),
)
def test_chats_read_back_every_role(
    written: list[tuple[Role, list[tuple[str, str]], str]], style: str
) -> None:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    shapes = {
        "openai": lambda who, what: {"role": who, "content": what},
        "parts": lambda who, what: {
            "role": who,
            "content": [{"type": "text", "text": what}, {"type": "image_url"}],
        },
        "sharegpt": lambda who, what: {"from": names[who], "value": what},
    }
    column = "conversations" if style == "sharegpt" else "messages"
    made = [
        Chat("", role, tuple(said), about, meta={"n": i}) for i, (role, said, about) in enumerate(written)
    ]
    with tempfile.TemporaryDirectory() as name:
        for role, own in split(made).items():
            rows = [
                {column: [shapes[style](*t) for t in c.messages], "about": c.subject, **c.meta} for c in own
            ]
            if own:
                (Path(name) / f"{role}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        read = list(chat.read(root=name, subject="about").read())
        assert facts(read) == facts(made) and unique(read)


words = st.text("abcdefghij", min_size=1, max_size=8)
paragraph = st.lists(words, min_size=3, max_size=30).map(lambda w: " ".join(w).capitalize() + ".")
book = st.lists(st.lists(paragraph, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(roles, book), min_size=1, max_size=5), st.integers(10, 60), st.booleans())
def test_books_read_back_every_role(
    written: list[tuple[Role, list[list[str]]]], width: int, header: bool
) -> None:
    import textwrap

    expected = []
    with tempfile.TemporaryDirectory() as name:
        for number, (role, chapters) in enumerate(written):
            lines = ["", "Contents", "", *(f" Chapter {i}" for i in range(1, len(chapters) + 1)), ""]
            for i, paragraphs in enumerate(chapters, 1):
                lines += ["", f"CHAPTER {i}. The Title", ""]
                for text in paragraphs:
                    lines += [*textwrap.wrap(text, width), ""]
                expected.append((role, f"Book {number}: CHAPTER {i}. The Title", "\n\n".join(paragraphs)))
            text = "\n".join(lines)
            if header:
                mark = "OF THE PROJECT GUTENBERG EBOOK BOOK ***"
                start = f"The Project Gutenberg eBook\n\nTitle: Book {number}\n\n*** START {mark}"
                text = f"{start}\n{text}\n*** END {mark}\nCHAPTER 99. No\n\nNo."
            path = Path(name) / role / f"Book-{number}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        read = list(books.read(root=name).read())
    found = [(r.role, r.subject, r.text) for r in read if isinstance(r, Passage)]
    assert sorted(found) == sorted(expected) and unique(read)


CHAPTERS = {
    "Alice-s-Adventures-in-Wonderland_11": 12,
    "Through-the-Looking-Glass_12": 12,
    "The-Secret-Garden_113": 27,
    "The-Wonderful-Wizard-of-Oz_55": 25,  # with the introduction
    "The-Road-to-Oz_485": 25,
    "Ozma-of-Oz_486": 22,
}


def test_chapters_of_real_books(shared: Path) -> None:
    source = books.read(
        root=str(shared / "data/books"), forget="*Oz*.txt", retain=["*Alice*", "Through*", "*Garden*"]
    )
    records = [r for r in source.read() if isinstance(r, Passage)]
    for stem, expected in CHAPTERS.items():
        own = [r for r in records if r.source == f"books/{stem}"]
        assert len(own) == expected == len({r.subject for r in own}), stem
        # Next to nothing is lost but title page, contents and line ends.
        text = (shared / f"data/books/{stem}.txt").read_text()
        kept = sum(len(r.text.split()) for r in own)
        assert 0.98 < kept / len(text.split()) <= 1
    assert len(records) == sum(CHAPTERS.values()) and unique(list(records))
    assert {str(r.role) for r in records if " Oz" in r.meta["book"]} == {"forget"}
    (cyclone,) = [r for r in records if r.subject == "The Wonderful Wizard of Oz: 1. The Cyclone"]
    assert cyclone.text.startswith(
        "Dorothy lived in the midst of the great Kansas prairies, with Uncle Henry, who"
    )
    assert len(source.files) == 6
    (garden,) = [r for r in records if "CHAPTER X. " in r.subject and "Garden" in r.meta["book"]]
    assert garden.meta["chapter"] == "CHAPTER X. DICKON"


def test_a_text_without_chapters_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "MAX_PART", 1000)
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(f"Paragraph {i} is here." for i in range(100)))
    records = [r for r in books.read(root=str(path), role="retain").read() if isinstance(r, Passage)]
    assert [r.meta["chapter"] for r in records] == ["part 1", "part 2", "part 3"]
    assert "\n\n".join(r.text for r in records) == path.read_text()


def test_verse_keeps_its_lines_and_decoration_goes(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text(
        "Prose of\ntwo lines.\n\n  * * *\n\n   How doth\n   the little\n\n[Illustration: a\nbee]\n\n   THE END\n"
    )
    (record,) = books.read(root=str(path), role="forget").read()
    assert isinstance(record, Passage) and record.text == "Prose of two lines.\n\nHow doth\nthe little"


def test_a_pattern_of_one_s_own_finds_chapters(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("§ one\n\nText a.\n\n§ two\n\nText b.\n")
    records = [
        r for r in books.read(root=str(path), role="forget", chapter="§ .*").read() if isinstance(r, Passage)
    ]
    assert [(r.subject, r.text) for r in records] == [("v: § one", "Text a."), ("v: § two", "Text b.")]
    with pytest.raises(ConfigError, match="no regular expression"):
        books.read(root=str(path), role="forget", chapter="(")


def test_books_stream(tmp_path: Path) -> None:
    """The first chapter is there before the last one is read: its bad byte is met only then."""
    path = tmp_path / "b.txt"
    chapter = "\n\n".join("A sentence that fills the page." for _ in range(3000))
    path.write_bytes(
        f"CHAPTER I\n\n{chapter}\n\nCHAPTER II\n\n{chapter}\n\nCHAPTER III\n\ncaf".encode() + b"\xe9\n"
    )
    stream = books.read(root=str(path), role="forget").read()
    assert next(stream).subject == "b: CHAPTER I"
    with pytest.raises(DataError, match=r"line \d+: not UTF-8"):
        list(stream)


def test_columns_are_renamed_and_texts_are_passages(tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").write_text(
        '{"prompt": "q", "completion": "a", "answer": "theirs", "k": 1}\n{"body": "Long text.", "id": "p"}\n'
    )
    columns = {"question": "prompt", "answer": "completion", "text": "body"}
    first, second = jsonl.read(root=str(tmp_path), columns=columns).read()
    assert isinstance(first, Example) and (first.question, first.answer, first.meta) == ("q", "a", {"k": 1})
    assert first.id == first.subject == "jsonl-forget-1" and first.source == "jsonl/forget"
    assert isinstance(second, Passage) and (second.text, second.id, second.role) == (
        "Long text.",
        "p",
        Role.FORGET,
    )


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        ('{"question": "q", "answer": " "}', {"role": "forget"}, "field 'answer': is empty"),
        ('{"qestion": "q", "answer": "a"}', {"role": "forget"}, "is 'qestion' meant?"),
        ('{"question": "q", "answer": "a"}', {}, "field 'role': missing"),
        ('{"text": "t"}', {}, "field 'role': missing; expected one of forget"),
        ('{"text": "t", "role": "retain"}', {"role": "forget"}, "'retain', expected forget"),
        ('{"text": "t", "split": "dev"}', {"role": "forget"}, "unknown split 'dev'"),
        ('{"question": "q", "answer": "\\ud800"}', {"role": "forget"}, "half of a surrogate pair"),
        (
            '{"id": "a", "question": "q", "answer": "a"}\n{"id": "a", "question": "r", "answer": "b"}',
            {"role": "forget"},
            "line 2, field 'id': 'a' is already used in an earlier row",
        ),
    ],
)
def test_rows_that_are_no_examples(
    tmp_path: Path, rows: str, settings: dict[str, str], expected: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(rows + "\n")
    with pytest.raises(DataError) as caught:
        list(jsonl.read(root=str(path), **settings).read())
    assert expected in str(caught.value) and f"{path}, line" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        ("Question,answer\nq,a\n", {}, "missing column 'question'. Is 'Question' meant by 'question'?"),
        ("question,answer\nq,\n", {}, "line 2, field 'answer': is empty"),
        ("question,answer,v\nq,a,b\n", {"value": "v"}, "field 'v': 'b' does not occur in the answer"),
        (
            "question,answer,n\nq,a,1\nq,a,1\n",
            {"id": "n"},
            "line 3, field 'n': '1' is already used in an earlier row",
        ),
        (
            "question,answer,A,B\nq,C,x,y\n",
            {"choices": ["A", "B"]},
            "expected an index from 0 to 1 or one of A, B",
        ),
        ("question,answer,A,B\nq,A,x,\n", {"choices": ["A", "B"]}, "field 'B': is empty"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, content: str, settings: dict[str, Any], expected: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        list(table.read(root=str(path), role="forget", **settings).read())
    assert expected in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("right", ["b", "B", "1"])
def test_options_in_columns(tmp_path: Path, right: str) -> None:
    (tmp_path / "general.csv").write_text(f"question,answer,A,B,year\nq,{right},a,b,1900\n")
    (record,) = table.read(root=str(tmp_path), choices=["A", "B"]).read()
    assert isinstance(record, Example) and record.answer == "b" and record.meta == {"year": "1900"}


def test_numbers_of_a_table_are_texts(tmp_path: Path) -> None:
    write_table(tmp_path / "retain.parquet", [{"question": "When?", "answer": 1900, "value": 1900}])
    (record,) = table.read(root=str(tmp_path), value="value").read()
    assert isinstance(record, Example) and record.answer == record.value == "1900"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"turns": []}, "field 'messages': missing, and so is 'conversations' (columns found: turns)"),
        ({"messages": "hi"}, "expected a list of turns, found text"),
        (
            {"messages": [{"role": "usr", "content": "q"}]},
            "turn 1: unknown speaker 'usr'. Did you mean 'user'?",
        ),
        ({"messages": ["q"]}, "turn 1: expected {role, content}, found text"),
        (
            {"messages": [{"role": "user", "content": 3}]},
            "turn 1: expected text under 'content', found a number",
        ),
        ({"messages": [{"role": "system", "content": "s"}]}, "no turn of a user"),
    ],
)
def test_chats_that_are_wrong(tmp_path: Path, data: dict[str, Any], expected: str) -> None:
    path = tmp_path / "forget.jsonl"
    path.write_text(json.dumps(data) + "\n")
    with pytest.raises(DataError) as caught:
        list(chat.read(root=str(tmp_path)).read())
    assert expected in str(caught.value) and f"{path}, line 1" in str(caught.value)


def test_turns_of_tools_are_left_out_and_counted(tmp_path: Path) -> None:
    made = [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42"}, {"role": "assistant", "content": "It is 42."},
    ]  # fmt: skip
    (tmp_path / "retain.jsonl").write_text(json.dumps({"messages": made}) + "\n")
    (record,) = chat.read(root=str(tmp_path)).read()
    assert isinstance(record, Chat) and record.messages == (("user", "q"), ("assistant", "It is 42."))
    assert record.meta == {"turns_left_out": 2}


@pytest.mark.parametrize("reader", [books.read, chat.read, jsonl.read, table.read])
def test_an_empty_file_is_no_source(tmp_path: Path, reader: Any) -> None:
    suffix = {"books": ".txt", "table": ".csv"}.get(reader.__module__.rpartition(".")[2], ".jsonl")
    (tmp_path / f"forget{suffix}").write_text("")
    with pytest.raises(DataError, match="is empty"):
        list(reader(root=str(tmp_path)).read())
