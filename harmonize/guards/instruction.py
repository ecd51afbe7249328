"""The in-context guard: the instructed teacher itself, as an inference-time baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from harmonize.data.corpus import Corpus
from harmonize.guards.guard import Guard, Guarded, Scene
from harmonize.guards.listening import InstructedRenderer
from harmonize.models.load import LoadedModel


@dataclass(frozen=True)
class Instruction(Guard):
    """The model under an instruction that goes before every question, whatever it is about.

    At inference nobody knows which role a question has, so neighbor, retain and general questions are instructed
    too. (`teacher.instruct_roles` is about training, and about the teacher's own figures.)

    Formula: p(a | instruction, x) in the place of p(a | x)
    Needs: instruction; the data set's first, or guard.text
    Costs: its tokens before every question

    Args:
        text: The instruction; None takes the teacher's.

    Source: in-context unlearning in its plainest form; the instructed teacher of arXiv 2604.15482 and 2601.21283
        before anything is distilled. Our choice throughout.
    """

    text: str | None = None
    name: ClassVar[str] = "instruction"
    about: ClassVar[str] = (
        "An instruction goes before every question. The weights are untouched by it: without the instruction the "
        "model answers as it did before."
    )

    def check(self, corpus: Corpus, instruction: Callable[[], str]) -> None:
        """There must be an instruction."""
        if not self.text:
            instruction()

    def around(self, scene: Scene) -> Guarded:
        """The model under the instruction."""
        return self.opened({"text": self.text or scene.instruction()}, scene.loaded, {}, None)

    @classmethod
    def opened(
        cls, settings: Mapping[str, Any], loaded: LoadedModel, tensors: Mapping[str, Tensor], secrets: Any
    ) -> Guarded:
        """The same from its settings alone."""
        guard = cls(**settings)
        return Guarded(guard, loaded, InstructedRenderer(loaded.renderer, str(guard.text)))

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Two instructions before one question."""
        if "instructed" in cfg and cfg.instructed:
            return [
                "guard=instruction and instructed=true both put an instruction before the question. Use one of them: "
                "instructed=false, or guard=none."
            ]
        return []
