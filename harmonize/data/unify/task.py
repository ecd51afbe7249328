"""The contract between unifiers and rewriters: a task goes in, pairs or a counted failure come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from harmonize.data.corpus import content_hash


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of raw material to be rewritten as question-answer pairs.

    Attributes:
        form: passage, choice, cloze, chat, qa, or anchor (write a benign question of the same shape).
        text: The passage or the part of it; for `anchor` the text that the anchor may be about, if any.
        question: Of choice, cloze (with its gap), qa and anchor.
        answer: The true answer of choice (the option's text), cloze, qa and anchor.
        choices: The options of choice.
        messages: (speaker, text) turns of chat.
        subject: Whom or what it is about.
    """

    form: str
    text: str = ""
    question: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    subject: str = ""

    @property
    def key(self) -> str:
        """Content hash; with the rewriter's fingerprint the key of the rewrite cache."""
        return content_hash(asdict(self))


@dataclass(frozen=True, slots=True)
class Pair:
    """One question-answer pair, as a rewriter returns it.

    Attributes:
        question: Answerable without the passage at hand.
        answer: A full response.
        value: The scored part of `answer`; empty means all of it.
        evidence: The sentence of the passage that states it, where the rewriter knows.
        paraphrases: Other phrasings of the question, for evaluation only.
    """

    question: str
    answer: str
    value: str = ""
    evidence: str = ""
    paraphrases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that a rewriter could not do: counted under `reason`, never cached, tried again by the next run."""

    reason: str
    detail: str = ""


# Called with a task, its pairs, and the tokens (prompt, reply) they took, as soon as they are there.
Keep = Callable[[Task, list[Pair], tuple[int, int]], None]


class Rewriter(Protocol):
    """Rewrites tasks. Built from its configuration by keyword-only settings.

    Attributes:
        name: rules, local, server, none.
        fingerprint: Hash of everything that decides its output (version of the rules; model and prompts).
        cached: Whether results are worth keeping (not for rules, which are faster than a cache).
        batch: How many tasks `rewrite` likes at once.
    """

    name: str
    fingerprint: str
    cached: bool
    batch: int

    def rewrite(self, tasks: Sequence[Task]) -> list[list[Pair] | Failure]:
        """One list of pairs (possibly empty) or a failure per task, in order."""
        ...


class SlowRewriter(Rewriter, Protocol):
    """A rewriter with `cached=True`: hands over every result at once, so that none is lost when it is stopped."""

    def rewrite(self, tasks: Sequence[Task], keep: Keep | None = None) -> list[list[Pair] | Failure]:
        """As in `Rewriter`; `keep` hears of every task that succeeded, in any order, never of a failure."""
        ...
