"""The unified representation: one question-answer example with a role, a subject and a split."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Role(enum.StrEnum):
    """What an example is for. `general` is never trained on; it measures utility."""

    FORGET = "forget"
    NEIGHBOR = "neighbor"
    RETAIN = "retain"
    GENERAL = "general"


class Split(enum.StrEnum):
    """Train is used in unlearning, val for choosing, test for reporting. Split by subject."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


ROLES: tuple[Role, ...] = tuple(Role)


@dataclass(frozen=True, slots=True)
class Example:
    """One question and its answer, as every reader yields it and JSON Lines store it.

    Attributes:
        id: Unique within the data set.
        role: forget, neighbor, retain or general.
        question: The phrasing used in unlearning.
        answer: The true answer as a full response.
        subject: Whom or what it is about; splits never cut through a subject.
        source: Where it came from (file, benchmark, generator).
        split: train, val or test; empty until assigned.
        anchor_of: Id of the forget example that this one contrasts with.
        choices: Options of a multiple-choice item (utility).
        answer_index: Index of the right option in `choices`.
        aliases: Other accepted forms of `value`.
        request_id: Which deletion request it belongs to.
        value: The scored part of `answer`; empty means that all of it is scored. A prefill never
            contains a token of it.
        paraphrases: Phrasings for evaluation only. The last are for test; with two or more, the first is for val.
        fact: Examples that state the same fact in other phrasings share this; defaults to `id`.
        meta: Anything else; kept and written back. The core reads `alternates` alone (other plausible answers).
    """

    id: str
    role: Role
    question: str
    answer: str
    subject: str
    source: str = ""
    split: str = ""
    anchor_of: str | None = None
    choices: tuple[str, ...] = ()
    answer_index: int | None = None
    aliases: tuple[str, ...] = ()
    request_id: str = "request-0"
    value: str = ""
    paraphrases: tuple[str, ...] = ()
    fact: str = ""
    meta: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def fact_id(self) -> str:
        """The fact that this example states."""
        return self.fact or self.id

    def phrasings(self, split: str) -> tuple[str, ...]:
        """Questions to evaluate this fact with in `split`, never the one used in unlearning if avoidable.

        With two or more paraphrases the first serves val and the others test; with one it serves
        test and val falls back to the unlearning phrasing; with none both fall back to it.
        """
        if split == Split.VAL:
            return (self.paraphrases[0],) if len(self.paraphrases) > 1 else (self.question,)
        if len(self.paraphrases) > 1:
            return self.paraphrases[1:]
        return self.paraphrases or (self.question,)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One training text of `harmonize finetune`: plain supervised learning on the response tokens.

    Attributes:
        question: The user turn; empty for running text (then `response` is learned without a template).
        response: What the model learns to say; its tokens and the end of turn carry the loss.
        instruction: System turn, if any.
        weight: Relative frequency in an epoch (1 = once).
    """

    question: str
    response: str
    instruction: str | None = None
    weight: int = 1
