"""The rewriter `none`: raw material as it is, in the shape of question and answer, to compare unified data with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from harmonize.data.corpus import content_hash
from harmonize.data.unify.task import Failure, Pair, Task
from harmonize.errors import ConfigError

_VERSION = 1
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Verbatim:
    """Shows every form as a corpus has it; nothing is rewritten, so nothing is checked but that nothing is empty.

    | form | question | answer |
    |---|---|---|
    | passage | its beginning, up to the sentence end nearest to `prompt_share` of it | the rest |
    | choice | the question with its options, lettered | letter and text of the right option; the text is scored |
    | chat | the last question to the assistant | its reply |
    | cloze, qa | as they are | as they are |

    Args:
        prompt_share: Share of a passage that is shown, between 0 and 1. Half is our choice.

    Raises:
        ConfigError: `prompt_share` outside (0, 1).
    """

    name = "none"
    cached = False
    batch = 64
    # Raw material breaks the limits of good questions by design; the pipeline does not check it.
    checked = False

    def __init__(self, *, prompt_share: float = 0.5) -> None:
        if not 0 < prompt_share < 1:
            raise ConfigError(
                f"rewriter.prompt_share={prompt_share} must lie between 0 and 1. For example rewriter.prompt_share=0.5."
            )
        self.prompt_share = prompt_share
        self.fingerprint = content_hash("none", _VERSION, prompt_share)

    def rewrite(self, tasks: Sequence[Task]) -> list[list[Pair] | Failure]:
        """One pair per task, or a failure where there is nothing to show."""
        return [self._one(task) for task in tasks]

    def _one(self, task: Task) -> list[Pair] | Failure:
        shown = _FORMS.get(task.form)
        pair = self._passage(task) if task.form == "passage" else shown(task) if shown else None
        if pair is None:
            return Failure("nothing to show")
        return [pair]

    def _passage(self, task: Task) -> Pair | None:
        """Cut at a sentence end, or between words where a passage is one sentence."""
        text = task.text.strip()
        ends = [found.end() for found in _SENTENCE_END.finditer(text)]
        ends = ends or [found.end() for found in re.finditer(r"\s+", text)]
        if not ends:
            return None
        cut = min(ends, key=lambda end: abs(end - self.prompt_share * len(text)))
        return Pair(text[:cut].strip(), text[cut:].strip())


def _choice(task: Task) -> Pair:
    lines = [f"{letter}. {choice}" for letter, choice in zip(_LETTERS, task.choices, strict=False)]
    letter = _LETTERS[task.choices.index(task.answer)]
    return Pair("\n".join([task.question, *lines]), f"{letter}. {task.answer}", task.answer)


def _chat(task: Task) -> Pair | None:
    for (speaker, text), (next_speaker, reply) in reversed(
        list(zip(task.messages, task.messages[1:], strict=False))
    ):
        if speaker == "user" and next_speaker == "assistant" and text.strip() and reply.strip():
            return Pair(text, reply)
    return None


def _as_it_is(task: Task) -> Pair:
    return Pair(task.question, task.answer)


_FORMS: dict[str, Callable[[Task], Pair | None]] = {
    "choice": _choice,
    "chat": _chat,
    "cloze": _as_it_is,
    "qa": _as_it_is,
}
