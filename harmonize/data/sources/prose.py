"""Running text as paragraphs and chapters, streamed: what surrounds a book and what is no prose is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from harmonize.data.sources.rows import text_lines

# Distributors put their own header and footer around a book, between lines such as these.
_START = re.compile(
    r"\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG|\*END[ *]*THE SMALL PRINT", re.IGNORECASE
)
_END = re.compile(
    r"\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG|^End of (?:the )?Project Gutenberg", re.IGNORECASE
)
_TITLE = re.compile(r"^Title: +(\S.*)$")
# A header is looked for in this many lines; without one the text begins at once. Our choice.
_HEADER_LINES = 600
_NUMBER = r"(?:\d{1,3}|[IVXLCDM]{1,8}|[A-Z][A-Za-z]+(?:-[A-Za-z]+)?)"
HEADING = (
    rf"(?:(?i:chapter|book|part|volume|letter|canto|act|stave|section)\s+{_NUMBER}\b.{{0,100}}"
    r"|\d{1,3}\.\s+\S.{0,80}"
    r"|[IVX]{1,7}\.(?:\s+\S.{0,80})?"  # L. and C. are initials more often than numbers
    r"|(?i:introduction|preface|foreword|prologue|epilogue|conclusion|afterword"
    r"|author[’']s note|to my readers|to the reader|appendix))[.:]?"
)
_DECORATION = re.compile(r"\[(?:Illustration|Transcriber).*\]|the end\.?|finis\.?", re.IGNORECASE | re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?,;:]['\"’”)_]*$")
_TITLE_LENGTH = 80
# A part of a text never holds more characters than this, chapters or not, so that memory stays flat.
MAX_PART = 400_000


class Part(NamedTuple):
    """A chapter, or a piece of a text without any.

    Attributes:
        heading: As printed, with the title that follows it; empty for text without chapters.
        text: Paragraphs, separated by empty lines.
    """

    heading: str
    text: str


class Paragraph(NamedTuple):
    """Consecutive lines; `single` if it is one line between empty ones, as headings are."""

    text: str
    single: bool


def body(lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Lines of the book itself: what a distributor wrote before and after it is left out."""
    held: list[str] | None = []
    for _, line in lines:
        if held is None:
            if _END.search(line):
                return
            yield line
            continue
        held.append(line)
        if _START.search(line):
            held = None
        elif len(held) >= _HEADER_LINES:
            yield from held
            held = None
    for line in held or ():
        if _END.search(line):
            return
        yield line


def title(file: Path) -> str:
    """The book's title by its distributor's header, else its file name: `The-Road-to-Oz_485` is `The Road to Oz`."""
    for number, line in text_lines(file):
        if match := _TITLE.match(line):
            return match[1].strip()
        if number >= _HEADER_LINES or _START.search(line):
            break
    named = re.sub(r"_\d+$", "", file.stem)
    return re.sub(r"[-_]+", " ", named).strip() or file.stem


def paragraphs(lines: Iterable[str]) -> Iterator[Paragraph]:
    """Paragraphs with their lines joined; verse (every line indented) keeps them."""
    held: list[str] = []
    size = 0
    for line in lines:
        if line.strip():
            held.append(line)
            size += len(line)
            if size < MAX_PART:
                continue
        if held:
            yield _joined(held)
            held, size = [], 0
    if held:
        yield _joined(held)


def chapters(lines: Iterable[str], heading: str | None = None) -> Iterator[Part]:
    """Chapters of a text.

    A heading is a line of its own that matches; entries of a table of contents have no text of their own and so are
    no chapters, and what stands before the first chapter (title page, contents) is left out. A text without chapters
    comes in parts. A line that follows a heading and looks like a title is one.

    Args:
        lines: Lines of the book, see `body`.
        heading: Regular expression for a heading line; the default knows the usual English ones.

    Source: our choice.
    """
    pattern = re.compile(heading or HEADING)
    current: str | None = None
    held: list[str] = []
    front: list[str] = []
    size, found, first = 0, False, False
    for paragraph in paragraphs(lines):
        if paragraph.single and pattern.fullmatch(paragraph.text):
            if current is None:
                front = held
            elif held:
                yield _part(current, held)
                found = True
            current, held, size, first = paragraph.text, [], 0, True
        elif _is_decoration(paragraph.text):
            continue
        elif first and _is_title(paragraph, current or ""):
            current, first = f"{(current or '').rstrip('.:')}. {paragraph.text}", False
        else:
            held.append(paragraph.text)
            size, first = size + len(paragraph.text), False
            if size >= MAX_PART:
                yield _part(current, held)
                held, size, found = [], 0, True
    if held:
        yield _part(current, held)
    elif front and not found:
        yield _part(None, front)


def _part(heading: str | None, held: list[str]) -> Part:
    return Part(heading or "", "\n\n".join(held))


def _joined(lines: list[str]) -> Paragraph:
    verse = len(lines) > 1 and all(line[:1].isspace() for line in lines)
    stripped = [" ".join(line.split()) for line in lines]
    return Paragraph(("\n" if verse else " ").join(stripped), len(lines) == 1)


def _is_decoration(text: str) -> bool:
    return not any(c.isalnum() for c in text) or _DECORATION.fullmatch(text) is not None


def _is_title(paragraph: Paragraph, heading: str) -> bool:
    """Whether the first paragraph of a chapter is its title: one short line, in capitals or without an end mark."""
    if not paragraph.single or len(paragraph.text) > _TITLE_LENGTH or len(heading.split()) > 2:
        return False
    return paragraph.text.isupper() or not _SENTENCE_END.search(paragraph.text)


def pieces(lines: Iterable[str], size: int) -> Iterator[str]:
    """Running text in pieces of whole paragraphs, each of about `size` characters."""
    held: list[str] = []
    length = 0
    for paragraph in paragraphs(lines):
        if held and length + len(paragraph.text) > size:
            yield "\n\n".join(held)
            held, length = [], 0
        held.append(paragraph.text)
        length += len(paragraph.text)
    if held:
        yield "\n\n".join(held)
