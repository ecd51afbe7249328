"""Records -> tasks: a passage is cut on paragraph borders into parts, anything else is one task."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from harmonize.data.example import Example
from harmonize.data.records import Chat, Passage, Record, form_of
from harmonize.data.unify.task import Task

DEFAULT_WORDS = 300
# A last part below this share of the size joins the one before it: too little to ask about by itself. Our choice.
SMALLEST_SHARE = 0.25
# A paragraph up to this many times the size stays whole.
LONGEST_SHARE = 1.5

_PARAGRAPH = re.compile(r"(?:[^\S\n]*\n){2,}")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+")
_WORD = re.compile(r"\S+\s*")


def tasks_of(record: Record, words: int = DEFAULT_WORDS) -> Iterator[Task]:
    """The tasks of one record, in order.

    Args:
        record: An example, a passage or a conversation.
        words: Size of the parts of a passage; see `parts`.

    Returns:
        Of a passage one task per part (none if it is empty), of anything else one.
    """
    if isinstance(record, Passage):
        return (Task("passage", text=part, subject=record.subject) for part in parts(record.text, words))
    return iter((_SINGLE[form_of(record)](record),))


def parts(text: str, words: int = DEFAULT_WORDS) -> Iterator[str]:
    """Cuts running text on paragraph borders into parts of about `words` words, in order and without loss of words.

    A part is as many whole paragraphs as fit into `words`. A paragraph of more than one and a half times that is cut
    after sentences, and a sentence as long as that between words. A last part of less than a quarter joins the one
    before it. Sizes are our choice.

    Args:
        text: Paragraphs separated by empty lines.
        words: At least 1.
    """
    held = ""
    for part in _filled(_pieces(text, words), words):
        if held and len(part.split()) < SMALLEST_SHARE * words:
            # Only the last part can be this small, or one before a paragraph that fills a part by itself.
            held = f"{held}\n\n{part}"
            continue
        if held:
            yield held
        held = part
    if held:
        yield held


def _filled(pieces: Iterable[tuple[str, str]], words: int) -> Iterator[str]:
    """Joins (separator, piece) greedily up to `words`."""
    part, size = "", 0
    for separator, piece in pieces:
        length = len(piece.split())
        if part and size + length > words:
            yield part
            part, size = "", 0
        part = f"{part}{separator}{piece}" if part else piece
        size += length
    if part:
        yield part


def _pieces(text: str, words: int) -> Iterator[tuple[str, str]]:
    """Paragraphs, or the sentences or word runs of too long ones, each with what separates it from the one before."""
    for paragraph in _cut(text, _PARAGRAPH):
        if len(paragraph.split()) <= LONGEST_SHARE * words:
            yield "\n\n", paragraph
            continue
        separator = "\n\n"
        for sentence in _cut(paragraph, _SENTENCE_END):
            if len(sentence.split()) <= LONGEST_SHARE * words:
                yield separator, sentence
                separator = " "
                continue
            for run in _runs(sentence, words):
                yield separator, run
                separator = " "


def _cut(text: str, border: re.Pattern[str]) -> Iterator[str]:
    """Stripped, non-empty stretches of `text` that end with a match of `border`."""
    start = 0
    for found in border.finditer(text):
        if piece := text[start : found.end()].strip():
            yield piece
        start = found.end()
    if piece := text[start:].strip():
        yield piece


def _runs(text: str, words: int) -> Iterator[str]:
    run: list[str] = []
    for found in _WORD.finditer(text):
        run.append(found.group())
        if len(run) == words:
            yield "".join(run).strip()
            run = []
    if run:
        yield "".join(run).strip()


def _asked(record: Record) -> Task:
    assert isinstance(record, Example)
    return Task(form_of(record), question=record.question, answer=record.answer, subject=record.subject)


def _choice(record: Record) -> Task:
    assert isinstance(record, Example)
    # The right option's text: a reader may have put a letter into `answer`.
    index = record.answer_index
    answer = record.answer if index is None else record.choices[index]
    return Task("choice", "", record.question, answer, record.choices, subject=record.subject)


def _chat(record: Record) -> Task:
    assert isinstance(record, Chat)
    return Task("chat", messages=record.messages, subject=record.subject)


_SINGLE: dict[str, Callable[[Record], Task]] = {
    "qa": _asked,
    "cloze": _asked,
    "choice": _choice,
    "chat": _chat,
}
