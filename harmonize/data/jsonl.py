"""JSON Lines in and out: one example per line, with errors that name file, line and field."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from harmonize.data.example import ROLES, Example, Role, Split
from harmonize.errors import DataError, did_you_mean, nearest

SHOWN_PROBLEMS = 5
_FIELDS = tuple(f.name for f in fields(Example))
_ALWAYS_WRITTEN = ("id", "role", "question", "answer", "subject")
_TEXTS = (
    "question", "answer", "subject", "source", "split", "anchor_of", "request_id", "value", "fact",
)  # fmt: skip
_TEXT_LISTS = ("choices", "aliases", "paraphrases")


def read_rows(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """Objects of a JSON Lines file with their line numbers (from 1); empty lines are skipped.

    Raises:
        DataError: The file is missing, empty, not UTF-8, or has lines that are not JSON objects.
    """
    file = Path(path).expanduser()
    problems: list[str] = []
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in _lines(file, problems):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"line {number}: not valid JSON ({error.msg} at column {error.colno})")
            continue
        except RecursionError:
            problems.append(f"line {number}: not readable JSON (nested too deeply)")
            continue
        if isinstance(value, list) and number == 1:
            raise DataError(
                f"{file}: line 1 is a JSON array; JSON Lines have one object per line. "
                f"Convert it: jq -c '.[]' {file} > {file.with_suffix('.jsonl').name}"
            )
        if not isinstance(value, dict):
            problems.append(f"line {number}: expected a JSON object, found {kind_of(value)}")
            continue
        rows.append((number, value))
    _raise_problems(file, problems)
    if not rows:
        raise DataError(
            f'{file} is empty. Put one JSON object per line: {{"question": "...", "answer": "..."}}'
        )
    return rows


def read_examples(path: str | Path, role: Role | str | None = None) -> list[Example]:
    """Examples of a JSON Lines file. Columns that `Example` does not know are kept in `meta`.

    Only `question` and `answer` are required, and `role` unless it is given here. An id defaults to
    `<file stem>-<line>`, a subject to the id.

    Args:
        path: The file, UTF-8 with or without byte order mark.
        role: Role of every example of the file; a line that says otherwise is an error.

    Raises:
        DataError: Naming file, line and field; several problems of one file are reported together.
    """
    file = Path(path).expanduser()
    problems: list[str] = []
    examples: list[Example] = []
    first_line: dict[str, int] = {}
    for number, row in read_rows(file):
        found: list[str] = []
        example = example_of_row(row, f"{file.stem}-{number}", role, found)
        if example is not None and example.id in first_line:
            found.append(f"field 'id': '{example.id}' is already used on line {first_line[example.id]}")
        problems.extend(f"line {number}, {p}" for p in found)
        if example is not None:
            first_line.setdefault(example.id, number)
            examples.append(example)
    _raise_problems(file, problems)
    return examples


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Writes examples as JSON Lines (UTF-8, mode 0600), replacing the file in one step.

    Fields at their default are left out; entries of `meta` become columns of their own again, so
    reading the file gives equal examples back.

    Raises:
        DataError: The folder cannot be written, or `meta` holds something that JSON cannot.
    """
    file = Path(path).expanduser()
    write_text(file, "".join(line_of(example, file) for example in examples))


def line_of(example: Example, file: str | Path) -> str:
    """The line that `write_examples` writes for an example, with its end.

    Raises:
        DataError: `meta` holds something that JSON cannot; `file` is named.
    """
    try:
        return json.dumps(_row(example), ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: example '{example.id}' cannot be written as JSON: {error}") from error


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 file of mode 0600 through a temporary file beside it, so no reader sees half of it.

    Raises:
        DataError: The folder cannot be written.
    """
    file = Path(path)
    temporary = ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        os.replace(temporary, file)
    except (OSError, UnicodeEncodeError) as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"Cannot write {file}: {reason}. Choose a folder that you may write to.") from error


def _lines(file: Path, problems: list[str]) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(_bytes(file).split(b"\n"), 1):
        try:
            # Strict UTF-8; the byte order mark that some editors write is no part of the data.
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            problems.append(
                f"line {number}: not UTF-8 (byte {error.start + 1} of the line). "
                f"Convert the file: iconv -f latin1 -t utf-8 {file.name}"
            )
            continue
        if line:
            yield number, line


def _bytes(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise DataError(missing_file(file)) from None
    except IsADirectoryError:
        raise DataError(f"{file} is a folder; expected a JSON Lines file.") from None
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error.strerror or error}.") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{file} is UTF-16. Convert it: iconv -f utf-16 -t utf-8 {file.name}")
    return content


def missing_file(file: Path) -> str:
    """The message for a file that does not exist: the nearest name and what the folder holds."""
    if not file.parent.is_dir():
        return f"{file} does not exist: there is no folder {file.parent}."
    names = [p.name for p in file.parent.iterdir() if p.is_file() and not p.name.startswith(".")]
    close = nearest(file.name, names)
    hint = f" Did you mean '{close}'?" if close else ""
    listed = ", ".join(sorted(names)[:8]) or "nothing"
    return f"{file} does not exist.{hint} The folder holds: {listed}."


def _raise_problems(file: Path, problems: list[str]) -> None:
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(f"{file}, {problems[0]}")
    more = len(problems) - SHOWN_PROBLEMS
    shown = "\n".join(f"  {p}" for p in problems[:SHOWN_PROBLEMS])
    rest = f"\n  ... and {more} more" if more > 0 else ""
    raise DataError(f"{file}: {len(problems)} problems:\n{shown}{rest}")


def example_of_row(
    row: dict[str, Any], default_id: str, role: Role | str | None, problems: list[str]
) -> Example | None:
    """The example of one row, or None with the reasons appended to `problems`.

    Args:
        row: Columns by name; unknown ones go to `meta`.
        default_id: Id (and subject) of a row that has none.
        role: Role of every row; a row that says otherwise is a problem.
        problems: Receives one sentence per problem.
    """
    before = len(problems)
    known = {k: v for k, v in row.items() if k in _FIELDS and v is not None}
    meta = {k: v for k, v in row.items() if k not in _FIELDS}
    nested = known.pop("meta", {})
    if isinstance(nested, dict):
        meta = {**nested, **meta}
    else:
        problems.append(f"field 'meta': expected an object, found {kind_of(nested)}")
    for name in _TEXTS:
        if name in known and not isinstance(known[name], str):
            problems.append(f"field '{name}': expected text, found {kind_of(known.pop(name))}")
            known[name] = "?"
    for name in _TEXT_LISTS:
        if name in known:
            known[name] = _texts(name, known[name], problems)
    identity = known.get("id", default_id)
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity:
        problems.append(f"field 'id': expected text, found {kind_of(identity)}")
        identity = default_id
    for name in ("question", "answer"):
        if name not in known:
            close = nearest(name, meta)
            hint = f"; is '{close}' meant?" if close else ""
            problems.append(f"field '{name}': missing (columns found: {', '.join(row) or 'none'}{hint})")
        elif not known[name].strip():
            problems.append(f"field '{name}': is empty")
    known["role"] = _role(known.get("role"), role, problems)
    if (split := known.get("split")) and split not in tuple(Split):
        problems.append(f"field 'split': unknown split '{split}'. {did_you_mean(split, list(Split))}")
    _check_choice(known, problems)
    value = known.get("value")
    if value and isinstance(known.get("answer"), str) and value not in known["answer"]:
        problems.append(f"field 'value': '{value}' does not occur in the answer")
    if len(problems) > before:
        return None
    known["subject"] = known.get("subject") or identity
    return Example(**{**known, "id": identity, "meta": meta})


def _role(given: Any, expected: Role | str | None, problems: list[str]) -> Role:
    wanted = None if expected is None else Role(expected)
    if given is None:
        if wanted is None:
            problems.append(f"field 'role': missing; expected one of {', '.join(ROLES)}")
        return wanted or Role.FORGET
    if not isinstance(given, str):
        problems.append(f"field 'role': expected text, found {kind_of(given)}")
    elif given not in tuple(ROLES):
        problems.append(f"field 'role': unknown role '{given}'. {did_you_mean(given, list(ROLES))}")
    elif wanted is not None and given != wanted:
        problems.append(f"field 'role': '{given}' in a file of role '{wanted}'. Correct it or leave it out")
    else:
        return Role(given)
    return wanted or Role.FORGET


def _texts(name: str, value: Any, problems: list[str]) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    found = (
        f"a list with {kind_of(next(v for v in value if not isinstance(v, str)))}"
        if isinstance(value, list)
        else kind_of(value)
    )
    problems.append(f"field '{name}': expected a list of texts, found {found}")
    return ()


def _check_choice(known: dict[str, Any], problems: list[str]) -> None:
    choices, index = known.get("choices", ()), known.get("answer_index")
    if index is None:
        if choices and known.get("answer") in choices:
            known["answer_index"] = choices.index(known["answer"])
        elif choices:
            problems.append("field 'answer_index': missing, and the answer is none of the choices")
        return
    if isinstance(index, bool) or not isinstance(index, int):
        problems.append(f"field 'answer_index': expected a whole number, found {kind_of(index)}")
    elif not 0 <= index < len(choices):
        problems.append(
            f"field 'answer_index': {index} is out of range; there are {len(choices)} choices (from 0)"
        )


def _row(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {}
    nested = {k: v for k, v in example.meta.items() if k in _FIELDS}
    for f in fields(Example):
        value = getattr(example, f.name)
        if f.name == "meta":
            continue
        if f.name in _ALWAYS_WRITTEN or f.default is MISSING or value != f.default:
            row[f.name] = (
                str(value) if f.name == "role" else list(value) if isinstance(value, tuple) else value
            )
    row.update({k: v for k, v in example.meta.items() if k not in _FIELDS})
    if nested:
        row["meta"] = nested
    return row


def kind_of(value: Any) -> str:
    """A JSON value in words, such as `a list ([1, 2])`."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", type(None): "null"}
    shown = json.dumps(value, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return f"{names.get(type(value), 'a number')} ({shown})"
