"""JSON Lines or a JSON array of one's own: examples, or passages where a row has a text and no question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harmonize.data.example import Role, Split
from harmonize.data.jsonl import example_of_row
from harmonize.data.records import Passage, Record
from harmonize.data.sources.fields import encodable, fail, optional, text
from harmonize.data.sources.files import Paths, role_files, unique_stems
from harmonize.data.sources.rows import Row, rows
from harmonize.data.sources.source import Source
from harmonize.errors import DataError

SUFFIXES = (".jsonl", ".json", ".parquet")
_PASSAGE_COLUMNS = ("id", "role", "text", "subject", "split", "request_id")


def read(
    *,
    name: str = "jsonl",
    root: str | None = None,
    examples: str | Sequence[str] | None = None,
    role: str | None = None,
    forget: str | Sequence[str] | None = None,
    neighbor: str | Sequence[str] | None = None,
    retain: str | Sequence[str] | None = None,
    general: str | Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    licence: str = "",
    origin: str = "",
) -> Source:
    """Reads the examples of docs/data.md from JSON Lines, a JSON array or Parquet, whatever their columns are called.

    A row without a question and with a column `text` is a `Passage`. Columns that are not ours go to `meta`. An id
    defaults to `<name>-<file>-<row>`, a subject to the id.

    Args:
        name: Of the source.
        root: A folder or file, or hf:owner/name. Alone, files and sub-folders named after roles and examples.jsonl
            are read; a single file is read as `examples`.
        examples: Files whose rows carry their role.
        role: Role of every row of `examples`, or of all of `root`; a row that says otherwise is an error.
        forget, neighbor, retain, general: Files of that role: files, folders, patterns or lists of these.
        columns: Our column -> the files' column, such as {question: prompt, answer: completion}.
        licence: Licence of the data.
        origin: Where it is published.

    Raises:
        ConfigError: Nothing to read, or an unknown role.
        DataError: Naming file, line and field.
    """
    named: dict[str, Paths] = {
        "examples": examples, "forget": forget, "neighbor": neighbor, "retain": retain, "general": general,
    }  # fmt: skip
    found = role_files(name, root, role, named, SUFFIXES, mixed="examples")
    stems = unique_stems(file for file, _ in found)
    renamed = {theirs: ours for ours, theirs in (columns or {}).items()}

    def stream() -> Iterator[Record]:
        seen: set[int] = set()  # 64 bits of each id, not the ids themselves
        for file, own in found:
            for row in rows(file, required=tuple(renamed) if file.suffix == ".parquet" else ()):
                record = _record(name, file, stems[file], _rename(row, renamed), own)
                given = "id" in row.data or "id" in (columns or {})
                if given and hash(record.id) in seen:
                    fail(file, row, "id", f"'{record.id}' is already used in an earlier row")
                if given:
                    seen.add(hash(record.id))
                yield record

    return Source(name, stream, tuple(stems), licence, origin)


def _rename(row: Row, renamed: Mapping[str, str]) -> Row:
    if not renamed:
        return row
    ours = {renamed[k]: v for k, v in row.data.items() if k in renamed}
    # A column of theirs that happens to bear one of our names is not ours once another one is named for it.
    return row._replace(
        data={**{k: v for k, v in row.data.items() if k not in renamed and k not in ours}, **ours}
    )


def _record(name: str, file: Path, stem: str, row: Row, role: Role | None) -> Record:
    default = f"{name}-{stem}-{row.number}"
    if "question" not in row.data and "text" in row.data:
        return _passage(file, row, default, role, f"{name}/{stem}")
    problems: list[str] = []
    for key in ("question", "answer"):
        if isinstance(value := row.data.get(key), str):
            encodable(file, row, key, value)
    example = example_of_row({"source": f"{name}/{stem}", **row.data}, default, role, problems)
    if example is None or problems:
        raise DataError(f"{file}, {row.place}, " + "; ".join(problems))
    return example


def _passage(file: Path, row: Row, default: str, role: Role | None, source: str) -> Passage:
    given = optional(file, row, "role") or (str(role) if role else "")
    if given not in tuple(Role) or (role and given != role):
        expected = str(role) if role else f"one of {', '.join(Role)}"
        fail(
            file, row, "role", f"'{given}', expected {expected}" if given else f"missing; expected {expected}"
        )
    split = optional(file, row, "split")
    if split and split not in tuple(Split):
        fail(file, row, "split", f"unknown split '{split}', expected one of {', '.join(Split)}")
    identity = optional(file, row, "id", default)
    return Passage(
        id=identity,
        role=Role(given),
        text=text(file, row, "text"),
        subject=optional(file, row, "subject", identity),
        source=source,
        split=split,
        request_id=optional(file, row, "request_id", "request-0"),
        meta={k: v for k, v in row.data.items() if k not in _PASSAGE_COLUMNS},
    )
