"""What is asked and what came back: questions, queries (a question under an attack, or none) and judged records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harmonize.data.example import Example

NO_ATTACK = "none"
VERDICTS: tuple[str, ...] = ("correct", "refused", "wrong", "degenerate")


@dataclass(frozen=True, slots=True)
class Question:
    """One phrasing of one fact, as it will be asked.

    Attributes:
        example: The fact.
        text: The phrasing.
        prompt: Rendered ids, ending where the answer begins.
        trained: The fact is used in unlearning (split train).
        instruction: What the model reads before the question, if anything.
    """

    example: Example
    text: str
    prompt: tuple[int, ...]
    trained: bool
    instruction: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes two queries ask the same thing."""
        return (self.example.fact_id, self.text)


@dataclass(frozen=True, slots=True)
class Query:
    """One generation: a question, what the attack puts before the answer, and what counts as the answer.

    Attributes:
        attack: Name of the attack, `none` for the plain question.
        view: plain, opener or prefix, as in training.
        prefill: Ids that open the answer; supplied by the attack, so never judged.
        prefill_text: The same as text. opener: The opener, if that is what it is. depth: Share of an answer prefix.
        reference: What is left to be said after the prefill.
        reference_tokens: Its length in tokens, end of turn included.
        prefix_trained: This fact's own prefixes may be trained on.
        variant: Which of an attack's ways this is: a template, a number of steps, a width in bits.
        asked: What the user's turn says, where an attack changed it; prompt: its rendered ids.
        accepts: What states the answer, where another than the fact's value is asked for.
        draw: Number of a sampled answer, at `temperature`; None for the greedy one.
    """

    question: Question
    reference: str
    reference_tokens: int
    attack: str = NO_ATTACK
    view: str = "plain"
    prefill: tuple[int, ...] = ()
    prefill_text: str = ""
    opener: str | None = None
    depth: float | None = None
    prefix_trained: bool = True
    variant: str = ""
    asked: str = ""
    prompt: tuple[int, ...] | None = None
    accepts: tuple[str, ...] = ()
    draw: int | None = None
    temperature: float = 0.0

    @property
    def ids(self) -> tuple[int, ...]:
        """What the model reads."""
        return (*(self.question.prompt if self.prompt is None else self.prompt), *self.prefill)


@dataclass(frozen=True, slots=True)
class Record:
    """A judged answer.

    Attributes:
        output: The continuation alone.
        verdict: One of `VERDICTS`.
        score: What accuracy averages: 1 or 0, or ROUGE-L recall, by the data set's scoring.
        said: The answer stands in the output, refusal or not.
        fits: The reference is no longer than the generation limit.
        details: Further figures, written to the samples.
    """

    query: Query
    output: str
    verdict: str
    score: float
    said: bool = False
    fits: bool = True
    details: dict[str, Any] = field(default_factory=dict, hash=False)

    def as_sample(self) -> dict[str, Any]:
        """One line of `samples.jsonl`."""
        q, e = self.query, self.query.question.example
        return {
            "example_id": e.id,
            "fact": e.fact_id,
            "role": str(e.role),
            "split": str(e.split),
            "subject": e.subject,
            "trained": q.question.trained,
            "attack": q.attack,
            "view": q.view,
            "opener": q.opener,
            "depth": q.depth,
            "variant": q.variant,
            "draw": q.draw,
            "prefix_trained": q.prefix_trained,
            "instruction": q.question.instruction,
            "question": q.question.text,
            "asked": q.asked or q.question.text,
            "prefill": q.prefill_text,
            "reference": q.reference,
            "output": self.output,
            "verdict": self.verdict,
            "score": self.score,
            "said": self.said,
            "fits": self.fits,
            **self.details,
        }
