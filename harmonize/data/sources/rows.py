"""Rows of JSON Lines, JSON arrays, CSV and Parquet, one at a time: memory stays flat however large the file."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from harmonize.data.jsonl import kind_of, missing_file
from harmonize.errors import DataError, nearest

# The longest line, array item or CSV field that is read; beyond it a file is not what its name says. Our choice.
MAX_LINE = 64 << 20
CHUNK = 1 << 16
PARQUET_BATCH = 256
# A literal, number or escape cut off by the end of a chunk is at most this long; an error further from the end is real.
_CUT_OFF = 16
_WIDE_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        number: Counts the rows from 1; empty lines are no rows.
        place: Where it stands, for messages: `line 3`, `item 2 (line 7)`, `row 5`.
        data: Columns by name.
    """

    number: int
    place: str
    data: dict[str, Any]


def rows(file: Path, required: Sequence[str] = (), texts: bool = False) -> Iterator[Row]:
    """Rows of a file, by its suffix: .jsonl and .json (lines or an array alike), .csv, .tsv, .parquet.

    Args:
        file: The file.
        required: Columns that CSV and Parquet must have; checked before the first row.
        texts: Whether bare texts are rows as well, as `{"text": ...}`.

    Raises:
        DataError: Missing, empty, of another encoding or format; file, line and what to type are named.
    """
    try:
        reader = READERS[file.suffix.lower()]
    except KeyError:
        raise DataError(
            f"{file}: rows are read from {', '.join(sorted(READERS))} files, not from '{file.suffix or 'no suffix'}'."
        ) from None
    empty = True
    for row in reader(file, required, texts):
        empty = False
        yield row
    if empty:
        raise DataError(f"{file} is empty: it has no rows. Expected at least one.")


def open_bytes(file: Path) -> BinaryIO:
    """The file, open for reading, once it is known to be no UTF-16 or UTF-32.

    Raises:
        DataError: It does not exist, is a folder, cannot be read, or is of another encoding.
    """
    try:
        stream = file.open("rb")
    except FileNotFoundError:
        raise DataError(missing_file(file)) from None
    except IsADirectoryError:
        raise DataError(f"{file} is a folder; expected a file.") from None
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error.strerror or error}.") from error
    start = stream.read(4)
    stream.seek(0)
    wide = _WIDE_MARKS.get(start[:2])
    if wide is None and b"\0" in start:  # without a mark, every second byte of plain text is zero
        wide = "UTF-16"
    if wide and start in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        wide = "UTF-32"
    if wide:
        stream.close()
        name = wide.lower()
        raise DataError(
            f"{file}, line 1: not UTF-8 but {wide} (byte 1 is 0x{start[0]:02X}). "
            f"Convert it: iconv -f {name} -t utf-8 {file.name} > utf8_{file.name}"
        )
    return stream


def text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file with their numbers from 1, without their ends; a byte order mark is skipped.

    Raises:
        DataError: As `open_bytes`, or a line that is not UTF-8 or longer than `MAX_LINE`.
    """
    with open_bytes(file) as stream:
        number = 0
        while raw := stream.readline(MAX_LINE + 1):
            number += 1
            if len(raw) > MAX_LINE:
                raise DataError(_too_long(file, f"line {number}"))
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(_not_utf8(file, number, error.start, raw[error.start])) from None


def json_rows(file: Path, required: Sequence[str] = (), texts: bool = False) -> Iterator[Row]:
    """Objects of a JSON Lines file or of a JSON array, whichever the file holds; columns may differ by row.

    An array is decoded item by item from a buffer that never holds much more than one item.
    """
    with open_bytes(file) as stream:
        start = stream.read(3)
        first = b"" if start == codecs.BOM_UTF8 else start.lstrip()[:1]
        while not first and (chunk := stream.read(CHUNK)):
            first = chunk.lstrip()[:1]
    items = _array_items if first == b"[" else _line_values
    for number, (place, value) in enumerate(items(file), 1):
        if texts and isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            raise DataError(f"{file}, {place}: expected a JSON object, found {kind_of(value)}")
        yield Row(number, place, value)


def csv_records(file: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Records of a CSV file with the line each ends on; empty lines are skipped.

    Raises:
        DataError: Not UTF-8, or a quote that is never closed.
    """
    csv.field_size_limit(MAX_LINE)
    with open_bytes(file):
        pass
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            for record in reader:
                if record:
                    yield reader.line_num, record
        except UnicodeDecodeError:
            raise DataError(_find_not_utf8(file)) from None
        except csv.Error as error:
            raise DataError(
                f"{file}, line {reader.line_num}: not valid CSV ({error}). A field that holds quotes or line ends "
                'stands in quotes, with inner quotes doubled: "say ""hello"""'
            ) from None


def csv_rows(file: Path, required: Sequence[str] = (), texts: bool = False) -> Iterator[Row]:
    """Rows of a CSV (or, with suffix .tsv, tab-separated) file whose first line names the columns."""
    records = csv_records(file, "\t" if file.suffix.lower() == ".tsv" else ",")
    header: list[str] = []
    for number, (line, record) in enumerate(records):
        if not header:
            header = [name.strip() for name in record]
            check_columns(file, header, required)
            if len(set(header)) < len(header):
                double = next(name for name in header if header.count(name) > 1)
                raise DataError(f"{file}, line {line}: column '{double}' is named twice.")
            continue
        if len(record) != len(header):
            raise DataError(
                f"{file}, line {line}: {len(record)} fields, but the header names {len(header)} columns "
                f"({', '.join(header)}). A field that holds a comma stands in quotes."
            )
        yield Row(number, f"line {line}", dict(zip(header, record, strict=True)))


def parquet_rows(file: Path, required: Sequence[str] = (), texts: bool = False) -> Iterator[Row]:
    """Rows of a Parquet file, in batches within its row groups."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{file}: reading Parquet needs pyarrow. Type: pip install 'harmonize[parquet]'"
        ) from None
    with open_bytes(file):
        pass
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            check_columns(file, table.schema_arrow.names, required)
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH):
                for data in batch.to_pylist():
                    number += 1
                    yield Row(number, f"row {number}", data)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: not readable as Parquet ({str(error).splitlines()[0]})") from None


def check_columns(file: Path, found: Sequence[str], required: Sequence[str]) -> None:
    """Refuses a table without the columns that are needed, naming the nearest ones.

    Raises:
        DataError: Naming what is missing and what there is.
    """
    missing = [name for name in required if name not in found]
    if missing:
        hints = " ".join(
            f"Is '{close}' meant by '{name}'?" for name in missing if (close := nearest(name, found))
        )
        raise DataError(
            f"{file}: missing column{'s' * (len(missing) > 1)} {', '.join(repr(m) for m in missing)}. "
            f"{hints + ' ' if hints else ''}The file has: {', '.join(found) or 'none'}. "
            "Name the columns in the settings of the source, for example source.question=<column>."
        )


def _line_values(file: Path) -> Iterator[tuple[str, Any]]:
    for number, line in text_lines(file):
        if not (line := line.strip()):
            continue
        try:
            yield f"line {number}", json.loads(line)
        except json.JSONDecodeError as error:
            hint = " One object per line; jq -c . makes it so." if line == "{" else ""
            raise DataError(
                f"{file}, line {number}: not valid JSON ({error.msg} at column {error.colno}).{hint}"
            ) from None
        except RecursionError:
            raise DataError(f"{file}, line {number}: not readable JSON (nested too deeply)") from None


def _array_items(file: Path) -> Iterator[tuple[str, Any]]:
    """Items of a JSON array with their places."""
    with closing(_Window(file)) as text:
        text.skip("[")
        number = 0
        while text.peek() != "]":
            number += 1
            place = f"item {number} (line {text.line})"
            yield place, text.value(place)
            if text.peek() == ",":
                text.skip(",")
                if text.peek() == "]":
                    raise DataError(
                        f"{file}, line {text.line}: not valid JSON (a comma before the end of the array)"
                    )
            elif text.peek() != "]":
                found = text.peek()
                problem = f"found {found!r}" if found else "found the end of the file: it was cut off"
                raise DataError(
                    f"{file}, line {text.line}: not valid JSON (expected ',' or ']' after item {number}, {problem})"
                )
        text.skip("]")
        if text.peek():
            raise DataError(f"{file}, line {text.line}: there is more after the end of the JSON array.")


class _Window:
    """A moving window over a UTF-8 file: what is decoded is dropped, what is missing is read."""

    def __init__(self, file: Path) -> None:
        self.file, self.line = file, 1
        self._stream = open_bytes(file)
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False
        self._json = json.JSONDecoder()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def peek(self) -> str:
        """The next character that is no white space, or nothing at the end."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self.line += self._text[self._at] == "\n"
                self._at += 1
            if not self._more(CHUNK):
                return ""

    def skip(self, character: str) -> None:
        """Moves past `character`, which `peek` has found."""
        assert self.peek() == character
        self._at += 1

    def value(self, place: str) -> Any:
        """Decodes the value that begins here."""
        self.peek()
        size = CHUNK
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                unfinished = "Unterminated string" in error.msg or error.pos >= len(self._text) - _CUT_OFF
                # Twice as much each time: a long item is decoded a few times, not once per chunk.
                if unfinished and self._more(size):
                    size *= 2
                    if len(self._text) > MAX_LINE:
                        raise DataError(_too_long(self.file, place)) from None
                    continue
                line = self.line + self._text.count("\n", self._at, error.pos)
                raise DataError(
                    f"{self.file}, line {line}: not valid JSON ({error.msg}, in {place})"
                ) from None
            except RecursionError:
                raise DataError(f"{self.file}, {place}: not readable JSON (nested too deeply)") from None
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return value

    def _more(self, size: int) -> bool:
        if self._ended:
            return False
        raw = self._stream.read(size)
        try:
            fresh = self._decode.decode(raw, final=not raw)
        except UnicodeDecodeError:
            raise DataError(_find_not_utf8(self.file)) from None
        self._text, self._at = self._text[self._at :] + fresh, 0
        self._ended = not raw
        return bool(raw)


def _find_not_utf8(file: Path) -> str:
    """The message for a file that failed to decode: its first line that is not UTF-8, found by a second look."""
    try:
        for _ in text_lines(file):
            pass
    except DataError as error:
        return str(error)
    return f"{file}: not UTF-8"


def _not_utf8(file: Path, line: int, offset: int, byte: int) -> str:
    return (
        f"{file}, line {line}: not UTF-8 (byte {offset + 1} of the line is 0x{byte:02X}). "
        f"Convert it: iconv -f latin1 -t utf-8 {file.name} > utf8_{file.name}"
    )


def _too_long(file: Path, place: str) -> str:
    return f"{file}, {place}: longer than {MAX_LINE >> 20} MiB, which no example is. Is the file what its name says?"


READERS: dict[str, Callable[[Path, Sequence[str], bool], Iterator[Row]]] = {
    ".jsonl": json_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
}
