"""Plain-text books: every chapter is a passage, and a subject."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harmonize.data.example import Role
from harmonize.data.records import Passage, Record
from harmonize.data.sources.files import Paths, role_files, unique_stems
from harmonize.data.sources.prose import body, chapters, title
from harmonize.data.sources.rows import text_lines
from harmonize.data.sources.source import Source
from harmonize.errors import ConfigError, DataError

SUFFIXES = (".txt",)


def read(
    *,
    name: str = "books",
    root: str | None = None,
    role: str | None = None,
    forget: str | Sequence[str] | None = None,
    neighbor: str | Sequence[str] | None = None,
    retain: str | Sequence[str] | None = None,
    general: str | Sequence[str] | None = None,
    chapter: str | None = None,
    licence: str = "",
    origin: str = "",
) -> Source:
    """Reads plain-text books (UTF-8) as one `Passage` a chapter.

    What a distributor wrote around the book (Project Gutenberg's header and footer), title page, table of contents
    and decoration are left out; lines of a paragraph are joined, verse keeps its lines. A book without chapters
    comes in parts of at most 400,000 characters. The book's title is the header's, else the file's name.

    Args:
        name: Of the source.
        root: A folder or file, or hf:owner/name. Alone, files and sub-folders named after roles are read (forget.txt,
            retain/*.txt).
        role: Role of everything that no role's own path names.
        forget, neighbor, retain, general: Books of that role: files, folders, patterns (`Oz*.txt`) or lists of these,
            below `root` if there is one.
        chapter: Regular expression that a heading line matches as a whole; null knows the usual English ones.
        licence: Licence of the books.
        origin: Where they are published.

    Raises:
        ConfigError: Nothing to read, an unknown role, or a `chapter` that is no regular expression.
        DataError: A missing file, an empty one or one that is not UTF-8.

    Source: the rules for headings, titles and verse are our choice.
    """
    try:
        re.compile(chapter or "")
    except re.error as error:
        raise ConfigError(
            f"{name}: chapter={chapter} is no regular expression ({error}). For example 'CHAPTER .*'"
        ) from None
    named: dict[str, Paths] = {"forget": forget, "neighbor": neighbor, "retain": retain, "general": general}
    found = role_files(name, root, role, named, SUFFIXES)
    stems = unique_stems(file for file, _ in found)

    def stream() -> Iterator[Record]:
        for file, own in found:
            assert own is not None
            yield from _book(name, file, own, stems[file], chapter)

    return Source(name, stream, tuple(stems), licence, origin)


def _book(name: str, file: Path, role: Role, stem: str, chapter: str | None) -> Iterator[Passage]:
    book = title(file)
    seen: dict[str, int] = {}
    last = ""
    number = 0
    for number, part in enumerate(chapters(body(text_lines(file)), chapter), 1):
        if part.heading != last or not part.heading:  # a long chapter comes in several parts
            seen[part.heading] = seen.get(part.heading, 0) + 1
        last = part.heading
        again = f" ({seen[part.heading]})" if part.heading and seen[part.heading] > 1 else ""
        heading = f"{part.heading}{again}" or f"part {number}"
        yield Passage(
            id=f"{name}-{stem}-{number:03d}",
            role=role,
            text=part.text,
            subject=f"{book}: {heading}",
            source=f"{name}/{stem}",
            meta={"book": book, "chapter": heading, "number": number},
        )
    if not number:
        raise DataError(f"{file} is empty: it has no text. Expected a book in plain text.")
