"""Would a benign question give away what is to be forgotten, or ask for it? Checked in both directions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from harmonize.data.example import Example

# Why a benign example may not stand beside a forget example, in the order in which it is looked for.
REASONS: dict[str, str] = {
    "same_subject": "is about the forget example's subject",
    "subject_named": "names the forget example's subject",
    "value_stated": "states the forget example's answer in its question or answer",
    "answers_forget": "its answer also answers the forget question",
    "near_duplicate": "asks nearly the same and says nearly the same",
    "states_forget_fact": "states the subject and the value of another forget fact",
}
NEAR_QUESTION = 0.8
NEAR_ANSWER = 0.8
_WORD = re.compile(r"\w+")
_ARTICLES = ("the ", "a ", "an ")


@dataclass(frozen=True, slots=True)
class Said:
    """What an example says, as words between single spaces, with a space at either end."""

    question: str
    answer: str
    values: tuple[str, ...]
    subject: str
    scored: bool

    @classmethod
    def of(cls, example: Example) -> Said:
        """Normalised texts of an example; without a value the whole answer is one."""
        values = (example.value or example.answer, *example.aliases)
        return cls(
            normalise(example.question),
            normalise(example.answer),
            tuple(dict.fromkeys(v for v in map(_bare, values) if v.strip())),
            normalise(example.subject),
            bool(example.value),
        )


def leak(forget: Said, benign: Said) -> str | None:
    """The first of `REASONS` for which this pair is refused, or None.

    Matching is by whole words, without case, punctuation and leading articles. Source: our choice.
    """
    if forget.subject == benign.subject:
        return "same_subject"
    if _inside(forget.subject, benign):
        return "subject_named"
    if any(_inside(value, benign) for value in forget.values):
        return "value_stated"
    if any(value in forget.answer or value in forget.values for value in benign.values):
        return "answers_forget"
    # Where both say which part is the answer, equal parts have been found already.
    unmarked = not (forget.scored and benign.scored)
    alike = unmarked and overlap(forget.answer, benign.answer) >= NEAR_ANSWER
    if alike and overlap(forget.question, benign.question) >= NEAR_QUESTION:
        return "near_duplicate"
    return None


class ForgetFacts:
    """Every forget fact, to be looked for in texts that are about something else.

    Args:
        said: What the forget examples say.
    """

    def __init__(self, said: Iterable[Said]) -> None:
        self._values: dict[str, set[str]] = {}
        for one in said:
            if one.subject.strip():
                self._values.setdefault(one.subject, set()).update(one.values)
        self._longest = max((subject.count(" ") - 1 for subject in self._values), default=0)

    def stated_by(self, benign: Said) -> bool:
        """Whether a forget subject occurs together with one of its values."""
        words = f"{benign.question}{benign.answer}".split()
        for size in range(1, min(self._longest, len(words)) + 1):
            for start in range(len(words) - size + 1):
                values = self._values.get(f" {' '.join(words[start : start + size])} ")
                if values and any(_inside(value, benign) for value in values):
                    return True
        return False


def normalise(text: str) -> str:
    """Words without case and punctuation, between single spaces, with a space at either end."""
    return f" {' '.join(_WORD.findall(unicodedata.normalize('NFKC', text).casefold()))} "


def overlap(one: str, other: str) -> float:
    """Shared words over all words (Jaccard index) of two normalised texts; 0 if both are empty."""
    a, b = set(one.split()), set(other.split())
    return len(a & b) / len(a | b) if a | b else 0.0


def _bare(text: str) -> str:
    words = normalise(text)[1:]
    return " " + next((words[len(a) :] for a in _ARTICLES if words.startswith(a) and words != a), words)


def _inside(words: str, benign: Said) -> bool:
    return bool(words.strip()) and (words in benign.question or words in benign.answer)
