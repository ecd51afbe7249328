"""From running text to paragraphs, and from a paragraph to narration sentences and speeches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harmonize.data.unify.rules.lexicon import ABBREVIATIONS

_HEADING = re.compile(
    r"(?i)(chapter|part|book|section|volume|act|scene)\s+([ivxlcdm]+|\d+|[a-z]+)\b[.:]?.{0,60}$"
)
_NUMBERED = re.compile(r"([IVXLCDM]+|\d+)[.)]\s*\S?.{0,60}$")
_ILLUSTRATION = re.compile(r"\[[^\]]*\]|\{[^}]*\}|_{2,}|\*\s*\*[\s*]*")
_EMPHASIS = re.compile(r"(?<![\w_])_([^_\n]+)_(?![\w_])")
# "... in 2012.Moore has ...": a full stop without its space, as scraped text has it.
_GLUED = re.compile(r"((?<=[a-z\d)][a-z\d)])\.)(?=[A-Z][a-z]{2})")
_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")
# A token: an abbreviation with its stop, an initial, a number, a word with inner hyphens and apostrophes, or one mark.
_TOKEN = re.compile(
    r"(?:Mr|Mrs|Ms|Dr|St|Prof|Capt|Jr|Sr|Rev|Lt|Col|Gen)\."
    r"|[A-Z]\.(?=\s?[A-Z])"
    r"|\d[\d,.]*\d(?:st|nd|rd|th|s)?|\d(?:st|nd|rd|th)?"
    r"|[^\W\d_]+(?:(?<!-)(?:[’'.]|-(?!-))[^\W\d_]+)*|--+|_+|\S"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word or mark with its place in the text.

    Attributes:
        text: As written.
        lower: In small letters.
        start: Offset of its first character.
        end: Offset after its last.
    """

    text: str
    lower: str
    start: int
    end: int

    @property
    def word(self) -> bool:
        """Whether it holds a letter or digit."""
        return self.text[0].isalnum()

    @property
    def capital(self) -> bool:
        """Whether it starts with a capital and is no shouted word."""
        return self.text[0].isupper() and (
            len(self.text) == 1 or not self.text.isupper() or self.text[-1] == "."
        )


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a paragraph: words that someone says, or narration.

    Attributes:
        speech: Whether it stands in quotation marks (which are left out of `text`).
        text: The words.
        start: Offset in the paragraph, with its opening mark.
        end: Offset after it, with its closing mark.
    """

    speech: bool
    text: str
    start: int = 0
    end: int = 0


def paragraphs(text: str) -> list[str]:
    """Paragraphs with whitespace normalised; headings, verse, lists of contents and illustration marks left out.

    A paragraph is taken for verse or a list (and dropped) if it has three lines or more, most of them indented or
    short.
    """
    found = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        if _is_layout(block):
            continue
        block = _GLUED.sub(r"\1 ", block)
        line = " ".join(_ILLUSTRATION.sub(" ", _EMPHASIS.sub(r"\1", block)).split())
        if line and not is_heading(line):
            found.append(line)
    return found


def is_heading(line: str) -> bool:
    """Whether a whole paragraph is a title: `CHAPTER IV`, `3. The Road`, `XII. Home`, `THE END`, or has no end mark."""
    bare = line.strip(" *_-=#")
    if not re.search(r"[^\W\d_]{2}", bare):
        return True
    letters = [c for c in bare if c.isalpha()]
    if len(bare) < 120 and sum(c.isupper() for c in letters) > 0.8 * len(letters):
        return True
    if re.search(r"[.!?:;,\"”’'—-]\)?$", bare) and not _NUMBERED.fullmatch(bare):
        return False
    if _HEADING.fullmatch(bare) or _NUMBERED.fullmatch(bare):
        return True
    return len(bare.split()) <= 12 and not re.search(r"[\"“”‘]", bare)


def _is_layout(block: str) -> bool:
    lines = [line for line in block.split("\n") if line.strip()]
    if len(lines) < 3:
        return False
    indented = sum(bool(re.match(r"\s{3,}|\t", line)) for line in lines)
    short = sum(len(line.strip()) < 45 for line in lines[:-1])
    capital = sum(line.strip()[:1].isupper() or not line.strip()[0].isalpha() for line in lines)
    return indented > 0.6 * len(lines) or (short > 0.8 * (len(lines) - 1) and capital > 0.7 * len(lines))


def spans(paragraph: str) -> list[Span]:
    """The paragraph as narration and speech in turn, by double quotation marks or, where it has none, single ones."""
    if re.search(r"[\"“”]", paragraph) and not paragraph.startswith("‘"):
        return list(_split_quotes(paragraph, _double_marks(paragraph)))
    if "‘" in paragraph:
        return list(_split_quotes(paragraph, _single_marks(paragraph)))
    return [Span(False, paragraph, 0, len(paragraph))] if paragraph else []


def _double_marks(text: str) -> list[int]:
    return [m.start() for m in re.finditer(r"[\"“”]", text)]


def _single_marks(text: str) -> list[int]:
    """Opening ‘ and closing ’; an apostrophe is a ’ inside a word, or after a letter where no quotation can end."""
    marks, opened = [], False
    for i, c in enumerate(text):
        after = text[i + 1 : i + 2]
        if c == "‘" and not opened:
            marks.append(i)
            opened = True
        elif c == "’" and opened and not after.isalnum():
            before = text[i - 1 : i]
            if (
                before in '.,!?;:—-)…”"'
                or (before.isalpha() and not re.match(r" [a-z]", text[i + 1 : i + 3]))
                or (
                    before.isalpha()
                    and "’" not in text[i + 1 : (text.find("‘", i) if text.find("‘", i) > 0 else None)]
                )
            ):
                marks.append(i)
                opened = False
    return marks


def _split_quotes(text: str, marks: list[int]) -> Iterator[Span]:
    start, speech = 0, False
    for mark in marks:
        piece = text[start:mark].strip()
        if piece:
            yield Span(speech, piece, start - speech, mark + speech)
        start, speech = mark + 1, not speech
    piece = text[start:].strip()
    if piece:
        yield Span(speech, piece, start - speech, len(text))


def sentences(text: str) -> list[str]:
    """Splits narration or speech into sentences.

    An end mark ends a sentence if what follows starts with a capital, a digit or a quotation mark, unless it belongs
    to a known abbreviation, an initial (`J. K.`), a number (`3.5`) or an ellipsis before a small letter.
    """
    found, start = [], 0
    for match in _END.finditer(text):
        rest = text[match.end() :].lstrip()
        if rest and not re.match(r"[\"'“‘(\[]*[A-Z\dÀ-Þ]", rest):
            continue
        word = re.search(r"[\w.'’-]*$", text[: match.start()])
        before = (word.group().lower() if word else "").strip(".'’")
        if match.group().startswith(".") and rest and _not_an_end(before, rest, match.group()):
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    tail = text[start:].strip()
    return [s for s in [*found, tail] if s]


def _not_an_end(before: str, rest: str, mark: str) -> bool:
    if mark != ".":
        return False
    if before in ABBREVIATIONS:
        return True
    return len(before) == 1 and before.isalpha() and before != "i" and rest[:1].isupper()


def is_whole(sentence: str) -> bool:
    """Whether it starts like a sentence and ends like one, with its brackets and quotation marks balanced."""
    if not re.match(r"[A-ZÀ-Þ\d]", sentence) or not re.search(r"[.!?]$", sentence):
        return False
    if re.search(r"[\"“”‘\[\]_*|<>{}]", sentence):
        return False
    return sentence.count("(") == sentence.count(")")


def tokens(text: str) -> list[Token]:
    """Words and marks in order."""
    return [Token(m.group(), m.group().lower(), m.start(), m.end()) for m in _TOKEN.finditer(text)]
