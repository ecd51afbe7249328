"""What readers yield before unification: examples, passages and conversations, each with a role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harmonize.data.example import Example, Role

# A gap in a cloze, as RWKU writes it.
BLANK = "___"


@dataclass(frozen=True, slots=True)
class Passage:
    """Running text.

    Attributes:
        id: Unique within its source.
        role: What its facts are for.
        text: The text itself, paragraphs separated by empty lines.
        subject: Whom or what it is about, or the chapter or document; splits never cut through a subject.
        source: Where it came from (file, benchmark).
        split: train, val or test where the source says so; empty until assigned.
        request_id: Which deletion request it belongs to.
        meta: Anything else; copied to every example made from it.
    """

    id: str
    role: Role
    text: str
    subject: str
    source: str = ""
    split: str = ""
    request_id: str = "request-0"
    meta: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation of (speaker, text) turns; speakers are system, user and assistant.

    The other fields are those of `Passage`.
    """

    id: str
    role: Role
    messages: tuple[tuple[str, str], ...]
    subject: str
    source: str = ""
    split: str = ""
    request_id: str = "request-0"
    meta: dict[str, Any] = field(default_factory=dict, hash=False)


Record = Example | Passage | Chat
FORMS: tuple[str, ...] = ("qa", "choice", "cloze", "passage", "chat")


def form_of(record: Record) -> str:
    """The surface form of a record, one of `FORMS`: read off its content, so no reader has to declare it."""
    if isinstance(record, Passage):
        return "passage"
    if isinstance(record, Chat):
        return "chat"
    if record.choices:
        return "choice"
    return "cloze" if BLANK in record.question else "qa"
