"""How questions are worded: the anchor that says which text is meant, and quoting that never breaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harmonize.data.records import BLANK as GAP
from harmonize.data.unify.task import Pair

ANCHORS = ("auto", "always", "never")
_MARKS = str.maketrans({"“": "'", "”": "'", '"': "'"})


@dataclass(frozen=True, slots=True)
class Anchor:
    """Names the text that a question is about, so that it makes sense without its passage.

    Attributes:
        title: The title, or empty.
    """

    title: str = ""

    def ask(self, question: str) -> str:
        """`Who ran?` becomes `In "Title", who ran?`."""
        if not self.title:
            return question[:1].upper() + question[1:]
        return f'In "{self.title}", {question[:1].lower()}{question[1:]}'

    @property
    def origin(self) -> str:
        """` from "Title"`, or nothing."""
        return f' from "{self.title}"' if self.title else ""


def anchor_for(subject: str, text: str, mode: str) -> Anchor:
    """The anchor of a task.

    With `auto` (our choice) a subject is used as a title if it reads like one (a capital, no path or identifier, at
    most twelve words) and does not occur in the text itself, nor, if it could be the name of a person, any of its
    words: whom a passage is about stands in it, its book's or chapter's title does not. Of "Book: chapter" the book is
    enough.

    Args:
        subject: The task's subject.
        text: Its passage.
        mode: auto, always or never.
    """
    title = " ".join(subject.split()).translate(_MARKS).strip(" .'")
    if mode == "never" or not title:
        return Anchor()
    if mode == "always":
        return Anchor(title)
    title = title.split(": ")[0]
    held = " ".join(text.lower().split())
    parts = title.split()
    personal = len(parts) <= 4 and all(p[0].isupper() and p.lower() != "the" for p in parts)
    if personal and any(len(p) > 2 and p.lower().strip(".,") in held for p in parts):
        return Anchor()
    readable = title[0].isupper() and len(title.split()) <= 12 and not re.search(r"[_/\\#]|\w-\d", title)
    return Anchor(title if readable and title.lower() not in held else "")


def quote(text: str) -> str:
    """In double quotation marks, inner ones turned single, without a comma, colon or dash left at the end."""
    inner = re.sub(r"(?:[\s,;:]|--+|—)+$", "", text.strip().translate(_MARKS))
    return f'"{inner}"'


def closed(lead: str, text: str) -> str:
    """`lead "text"?`: a full stop before the closing mark is dropped, and a question mark there is not doubled."""
    quoted = quote(text)
    if quoted.endswith('?"'):
        return f"{lead} {quoted}"
    if quoted.endswith('."') and not quoted.endswith('.."'):
        quoted = quoted[:-2] + '"'
    return f"{lead} {quoted}?"


def blank(text: str, value: str, start: int) -> str:
    """`text` with the occurrence of `value` at `start` replaced by a gap."""
    return text[:start] + GAP + text[start + len(value) :]


def sentence(text: str) -> str:
    """With a capital first and an end mark last."""
    text = re.sub(r"(?:[\s,;:]|--+|—)+$", "", text.strip())
    if not re.search(r"[.!?]['\"”’)]*$", text):
        text += "."
    return text[:1].upper() + text[1:]


def pair(question: str, answer: str, value: str, evidence: str, paraphrases: Sequence[str] = ()) -> Pair:
    """A pair with its whitespace normalised."""
    return Pair(
        question=" ".join(question.split()),
        answer=" ".join(answer.split()),
        value=" ".join(value.split()),
        evidence=" ".join(evidence.split()),
        paraphrases=tuple(" ".join(p.split()) for p in paraphrases),
    )
