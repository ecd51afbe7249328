"""The default rewriter: deterministic, offline, fast, without any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harmonize.data.corpus import content_hash
from harmonize.data.unify.rules import forms
from harmonize.data.unify.rules.passages import Settings, from_passage
from harmonize.data.unify.rules.wording import ANCHORS
from harmonize.data.unify.task import Failure, Pair, Task
from harmonize.errors import ConfigError, did_you_mean

# Of the rules themselves: any change to what they produce raises it, since it is part of the fingerprint.
VERSION = 1


class Rules:
    """Question-answer pairs by closed word lists and the shapes of English sentences; all of it is our choice.

    A question is made only where subject, verb and what is asked for are certain from the passage itself. The same
    task gives the same pairs wherever and in whatever order it is rewritten.

    Args:
        max_per_passage: Most pairs of one passage, wh-questions before clozes; 0 for all.
        max_per_sentence: Most pairs of one sentence of narration.
        paraphrases: Most further phrasings of a question (for evaluation only), where they are safe: 0, 1 or 2.
        clozes: Whether to leave words out of sentences where no wh-question is safe.
        anchor: Whether questions name the task's subject as the text they are about: auto (where it reads like a
            title that does not occur in the passage), always or never.

    Raises:
        ConfigError: A setting out of range.
    """

    name = "rules"
    cached = False
    batch = 16

    def __init__(
        self,
        *,
        max_per_passage: int = 0,
        max_per_sentence: int = 3,
        paraphrases: int = 2,
        clozes: bool = True,
        anchor: str = "auto",
    ) -> None:
        if max_per_passage < 0 or max_per_sentence < 1:
            raise ConfigError(
                f"rewriter.max_per_passage={max_per_passage} and rewriter.max_per_sentence={max_per_sentence}: "
                "expected at least 0 and 1, for example rewriter.max_per_passage=0 (all)."
            )
        if paraphrases not in (0, 1, 2):
            raise ConfigError(f"rewriter.paraphrases={paraphrases}: expected 0, 1 or 2.")
        if anchor not in ANCHORS:
            raise ConfigError(f"rewriter.anchor={anchor!r} is unknown; {did_you_mean(anchor, ANCHORS)}")
        self._settings = Settings(max_per_passage, max_per_sentence, paraphrases, clozes, anchor)
        self.fingerprint = content_hash(
            ["rules", VERSION, max_per_passage, max_per_sentence, paraphrases, clozes, anchor]
        )
        self._unifiers: dict[str, Callable[[Task], list[Pair] | Failure]] = {
            "passage": lambda task: from_passage(task, self._settings),
            "choice": forms.from_choice,
            "cloze": forms.from_cloze,
            "chat": forms.from_chat,
            "qa": forms.from_qa,
        }

    def rewrite(self, tasks: Sequence[Task]) -> list[list[Pair] | Failure]:
        """Pairs of each task in order, or why it has none."""
        return [self._one(task) for task in tasks]

    def _one(self, task: Task) -> list[Pair] | Failure:
        unify = self._unifiers.get(task.form)
        if unify is None:
            return Failure(
                "unsupported_form",
                f"the rules cannot write '{task.form}'; use rewriter=local or rewriter=server",
            )
        return unify(task)
