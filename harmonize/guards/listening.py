"""Renderers that belong to a guard: it meets a question where the question becomes a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from harmonize.data.corpus import content_hash
from harmonize.data.render import Renderer


class InstructedRenderer(Renderer):
    """A renderer that puts an instruction before every question."""

    def __init__(self, renderer: Renderer, instruction: str) -> None:
        super().__init__(renderer.tokenizer, renderer.stop_ids, renderer.plain, renderer.chat)
        self.instruction = instruction

    def prompt_ids(self, question: str, instruction: str | None = None) -> tuple[int, ...]:
        """As of the renderer; an instruction given here follows the guard's own."""
        return super().prompt_ids(question, " ".join(filter(None, (self.instruction, instruction))))

    def opened_ids(self, text: str) -> tuple[int, ...]:
        """As of the renderer, with the instruction at its head."""
        return super().opened_ids(self.plain.instruction.format(instruction=self.instruction) + text)

    @property
    def digest(self) -> str:
        """Content key, instruction included."""
        return content_hash(super().digest, self.instruction)


class ListeningRenderer(Renderer):
    """A renderer that knows again what it has rendered, so that an opened answer is not taken for the question."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__(renderer.tokenizer, renderer.stop_ids, renderer.plain, renderer.chat)
        self._heard: dict[tuple[int, ...], str] = {}
        self._sizes: set[int] = set()

    def prompt_ids(self, question: str, instruction: str | None = None) -> tuple[int, ...]:
        """As of the renderer."""
        ids = super().prompt_ids(question, instruction)
        self._heard[ids] = question
        self._sizes.add(len(ids))
        return ids

    def split(self, ids: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(prompt of the question alone, what opens the answer) of ids that begin with a rendered prompt.

        Of ids that were not rendered here all is taken for the question.
        """
        whole = tuple(ids)
        for size in sorted((n for n in self._sizes if n <= len(whole)), reverse=True):
            if (question := self._heard.get(whole[:size])) is not None:
                return super().prompt_ids(question), whole[size:]
        return whole, ()
