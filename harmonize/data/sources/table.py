"""Tables of questions and answers, CSV or Parquet, with whatever names their columns have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harmonize.data.example import Example, Role
from harmonize.data.records import Record
from harmonize.data.sources.fields import choice, fail, index_of, letters, optional, text, texts
from harmonize.data.sources.files import Paths, role_files, unique_stems
from harmonize.data.sources.rows import Row, rows
from harmonize.data.sources.source import Source

SUFFIXES = (".csv", ".tsv", ".parquet")


def read(
    *,
    name: str = "table",
    root: str | None = None,
    role: str | None = None,
    forget: str | Sequence[str] | None = None,
    neighbor: str | Sequence[str] | None = None,
    retain: str | Sequence[str] | None = None,
    general: str | Sequence[str] | None = None,
    question: str = "question",
    answer: str = "answer",
    subject: str | None = None,
    id: str | None = None,
    value: str | None = None,
    choices: str | Sequence[str] | None = None,
    licence: str = "",
    origin: str = "",
) -> Source:
    """Reads CSV (with a header line), tab-separated and Parquet tables; columns not named here go to `meta`.

    Args:
        name: Of the source.
        root: A folder or file, or hf:owner/name. Alone, files and sub-folders named after roles are read.
        role: Role of everything that no role's own path names.
        forget, neighbor, retain, general: Tables of that role: files, folders, patterns or lists of these.
        question: Column of the question.
        answer: Column of the answer. With `choices`: the right option as its text, its letter, or its index from 0.
        subject: Column of whom or what it is about; null makes every row a subject.
        id: Column of the id; null numbers the rows.
        value: Column of the scored part of the answer.
        choices: For multiple choice: the columns of the options, or the one (Parquet) column that lists them.
        licence: Licence of the data.
        origin: Where it is published.

    Raises:
        ConfigError: Nothing to read, or an unknown role.
        DataError: A missing column (the nearest is named), or a field that is empty; file and line are named.
    """
    named: dict[str, Paths] = {"forget": forget, "neighbor": neighbor, "retain": retain, "general": general}
    found = role_files(name, root, role, named, SUFFIXES)
    stems = unique_stems(file for file, _ in found)
    options = [choices] if isinstance(choices, str) else list(choices or ())
    used = [question, answer, *options, *(c for c in (subject, id, value) if c)]

    def stream() -> Iterator[Record]:
        seen: set[int] = set()  # 64 bits of each id, not the ids themselves
        for file, own in found:
            assert own is not None
            for row in rows(file, required=used):
                identity = optional(file, row, id, f"{name}-{stems[file]}-{row.number}")
                if id and hash(identity) in seen:
                    fail(file, row, id, f"'{identity}' is already used in an earlier row")
                if id:
                    seen.add(hash(identity))
                yield example(file, row, identity, own)

    def example(file: Path, row: Row, identity: str, own: Role) -> Example:
        fields: dict[str, Any] = {
            "subject": optional(file, row, subject, identity),
            "source": f"{name}/{stems[file]}",
            "meta": {k: v for k, v in row.data.items() if k not in used},
        }
        asked = text(file, row, question, scalars=True)
        if options:
            offered = (
                texts(file, row, options[0], 2)
                if len(options) == 1
                else tuple(text(file, row, column, scalars=True) for column in options)
            )
            return choice(identity, own, asked, offered, _right(file, row, answer, offered), **fields)
        said = text(file, row, answer, scalars=True)
        scored = optional(file, row, value)
        if scored and scored not in said:
            fail(file, row, str(value), f"'{scored}' does not occur in the answer")
        return Example(id=identity, role=own, question=asked, answer=said, value=scored, **fields)

    return Source(name, stream, tuple(stems), licence, origin)


def _right(file: Path, row: Row, column: str, options: Sequence[str]) -> int:
    """The right option: by its text, else by letter or index."""
    given = row.data.get(column)
    if isinstance(given, str) and given in options:
        return list(options).index(given)
    return index_of(file, row, column, letters(options))
