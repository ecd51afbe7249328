"""What every guard is: settings that stand around a model, and the guarded model as a surface."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from harmonize.data.corpus import Corpus
from harmonize.data.render import Renderer
from harmonize.evaluation.surface import ModelSurface
from harmonize.guards.assistant import Assistant
from harmonize.models.load import LoadedModel

FORBIDDEN = -1e4  # a logit that is never chosen; finite, so that sums of log-probabilities are


@dataclass(frozen=True)
class Scene:
    """What a guard may look at when it is set up.

    Attributes:
        loaded: The model to stand around.
        corpus: The data set; only what unlearning may see of it is read (and val, to choose a threshold).
        instruction: Gives the teacher's instruction, or raises where there is none.
        assistant: The trained assistant, or None.
        cache: Folder for what is fitted to the model, by content, or None to fit anew.
    """

    loaded: LoadedModel
    corpus: Corpus
    instruction: Callable[[], str]
    assistant: Assistant | None = None
    cache: Path | None = None


class Guarded(ModelSurface):
    """A guarded model. `model` is the one under the guard: attacks that train act on it, with the guard on.

    Attributes:
        guard: The settings that made it.
        notes: What was found while it was set up, for the results.
    """

    def __init__(self, guard: Guard, loaded: LoadedModel, renderer: Renderer | None = None) -> None:
        super().__init__(loaded)
        self.renderer = renderer or loaded.renderer
        self.guard = guard
        self.notes: tuple[str, ...] = ()

    def attacked(self) -> AbstractContextManager[None]:
        """Inside, changing the weights of `model` changes nothing else of the guard."""
        return contextlib.nullcontext()

    def settings(self) -> dict[str, Any]:
        """What `Guard.opened` makes it again from, as JSON."""
        return asdict(self.guard)

    def tensors(self) -> dict[str, Tensor]:
        """What an export keeps beside the settings."""
        return {}

    def secrets(self) -> Any:
        """What an export keeps that tells of forgotten things, as JSON; None if nothing does."""
        return None


@dataclass(frozen=True)
class Guard:
    """Settings of a guard: one option of the group `guard`. Fields are its keys.

    A guard may also have a static `problems(cfg)`, as combiners may.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # what it does and what is left without it, for model cards
    removes: ClassVar[bool] = False  # whether it is the absence of a guard that the model brings

    def check(self, corpus: Corpus, instruction: Callable[[], str]) -> None:
        """Refuses data that the guard cannot be set up with, before any model is loaded.

        Raises:
            HarmonizeError: What is missing, and what to do.
        """

    def around(self, scene: Scene) -> Guarded:
        """The guarded model.

        Raises:
            HarmonizeError: The model or the data do not have what the guard needs.
        """
        raise NotImplementedError

    @classmethod
    def opened(
        cls, settings: Mapping[str, Any], loaded: LoadedModel, tensors: Mapping[str, Tensor], secrets: Any
    ) -> Guarded:
        """The guarded model again, from what an export kept.

        Raises:
            ModelError: What was kept does not fit the model.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Removed(Guard):
    """No guard, also for a model that brings one: what is left when somebody takes it off."""

    name: ClassVar[str] = "removed"
    about: ClassVar[str] = "The weights alone, without the guard that stood around them."
    removes: ClassVar[bool] = True

    def around(self, scene: Scene) -> Guarded:
        """The model as it is."""
        return Guarded(self, scene.loaded)

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """It measures and guards nothing."""
        if "method" in cfg:
            return ["guard=removed is for harmonize evaluate, where a model brings a guard. Use guard=none."]
        return []
