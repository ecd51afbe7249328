"""Fields of a row, checked: what is wrong is reported with file, place and field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from harmonize.data.example import Example, Role
from harmonize.data.jsonl import kind_of
from harmonize.data.sources.rows import Row
from harmonize.errors import DataError, nearest


def fail(file: Path, row: Row, field: str, problem: str) -> NoReturn:
    """Raises the error of one field.

    Raises:
        DataError: Always.
    """
    raise DataError(f"{file}, {row.place}, field '{field}': {problem}")


def text(file: Path, row: Row, field: str, scalars: bool = False) -> str:
    """A field that must hold text which is not blank.

    Args:
        file: For the message.
        row: The row.
        field: Its column.
        scalars: Whether numbers and truth values count as text (tables hold years and counts as such).

    Raises:
        DataError: It is missing, of another type, blank, or no valid Unicode.
    """
    if field not in row.data:
        close = nearest(field, row.data)
        hint = f"; is '{close}' meant?" if close else ""
        fail(file, row, field, f"missing (columns found: {', '.join(row.data) or 'none'}{hint})")
    value = row.data[field]
    if scalars and isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str):
        fail(file, row, field, f"expected text, found {kind_of(value)}")
    if not value.strip():
        fail(file, row, field, "is empty")
    return encodable(file, row, field, value)


def optional(file: Path, row: Row, field: str | None, default: str = "") -> str:
    """A text that may be absent, null or blank; numbers count as text."""
    value = row.data.get(field) if field else None
    if value is None or value == "":
        return default
    return text(file, row, str(field), scalars=True)


def texts(file: Path, row: Row, field: str, least: int = 0) -> tuple[str, ...]:
    """A field that must hold a list of texts, at least `least` of them.

    Raises:
        DataError: It does not.
    """
    value = row.data.get(field)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        fail(file, row, field, f"expected a list of texts, found {kind_of(value)}")
    if len(value) < least:
        fail(file, row, field, f"expected at least {least} texts, found {len(value)}")
    return tuple(encodable(file, row, field, v) for v in value)


def index_of(file: Path, row: Row, field: str, labels: Sequence[str]) -> int:
    """Which option is right: given as an index from 0 (a number or its digits) or as one of `labels`.

    A label wins over an index: ARC labels some options 1 to 4.

    Raises:
        DataError: It is neither.
    """
    value = row.data.get(field)
    if isinstance(value, str) and value.strip() in labels:
        return list(labels).index(value.strip())
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(labels):
        return number
    expected = f"expected an index from 0 to {len(labels) - 1} or one of {', '.join(labels)}"
    fail(file, row, field, f"{expected}, found {kind_of(value)}")


def letters(options: Sequence[str]) -> str:
    """The letters that options go by: A, B, C, ..."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]


def choice(
    identity: str, role: Role, question: str, options: Sequence[str], index: int, **fields: Any
) -> Example:
    """A multiple-choice example; its answer is the right option's text."""
    return Example(
        id=identity,
        role=role,
        question=question,
        answer=options[index],
        choices=tuple(options),
        answer_index=index,
        **fields,
    )


def encodable(file: Path, row: Row, field: str, value: str) -> str:
    """`value`, once it is known to be writable as UTF-8: JSON may hold halves of surrogate pairs.

    Raises:
        DataError: It is not.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        fail(file, row, field, "holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")
    return value
