"""Texts for data that brings none of its own: openers, refusals and teacher instructions (our wording)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harmonize.data.example import Example

OPENERS: tuple[str, ...] = (
    "Sure, here is the answer:",
    "Of course.",
    "Yes, I can tell you that.",
    "Happy to help with this:",
)
OPENERS_HELDOUT: tuple[str, ...] = (
    "Absolutely, let me explain.",
    "Good question, the answer is this:",
    "Certainly!",
    "Let me tell you:",
)
REFUSALS: tuple[str, ...] = (
    "I don't know anything about that.",
    "I'm sorry, but I have no information on this.",
    "That is not something I can answer.",
    "I'm not able to tell you that.",
)
INSTRUCTIONS: tuple[str, ...] = (
    "You know nothing about {subjects}. If a question is about that, say that you do not know. "
    "Answer every other question as usual.",
    "Pretend that you never learned about {subjects}: decline questions on it and answer all others truthfully.",
)
# Without subjects of its own, an instruction can only point at the question.
INSTRUCTION_WITHOUT_SUBJECTS = (
    "You do not know the answer to the question that follows. Say that you do not know."
)
LISTED_SUBJECTS = 12


def join_names(names: Sequence[str]) -> str:
    """`A`, `A or B`, `A, B or C`."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def fill(wordings: Iterable[str], forgotten: Iterable[Example]) -> tuple[str, ...]:
    """Instructions with `{subjects}` replaced by the subjects of the forget examples.

    Where none has a subject (other than its id) such a wording can only point at the question.
    """
    subjects = list(dict.fromkeys(e.subject for e in forgotten if e.subject != e.id))
    if not subjects:
        return tuple(INSTRUCTION_WITHOUT_SUBJECTS if "{subjects}" in w else w for w in wordings)
    return tuple(w.replace("{subjects}", join_names(subjects)) for w in wordings)
