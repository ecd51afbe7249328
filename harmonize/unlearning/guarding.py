"""The guard of a run: which model is trained, and what stands around the one that is measured and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harmonize.config.edit_checks import acts
from harmonize.config.instantiate import call
from harmonize.console import say
from harmonize.data.corpus import Corpus
from harmonize.guards.assistant import Assistant
from harmonize.guards.guard import Guard, Guarded, Scene
from harmonize.guards.saved import open_guard, saved_guard
from harmonize.models.load import LoadedModel
from harmonize.unlearning.teaching import instruction_of


class Guarding:
    """The configured guard and assistant of a command.

    Args:
        cfg: Its configuration.
        corpus: The data set.

    Raises:
        HarmonizeError: The data do not have what the guard needs; no model is loaded yet.
    """

    def __init__(self, cfg: Any, corpus: Corpus) -> None:
        self._cfg, self._corpus = cfg, corpus
        self._assistant: Assistant | None = None
        self.guard: Guard | None = None
        if acts(cfg, "guard"):
            self.guard = call(cfg.guard, allow=cfg.allow)
            self.guard.check(corpus, self._instruction)

    def student(self, loaded: LoadedModel) -> LoadedModel:
        """The model that is trained: an assistant that starts from the seed, or the loaded one itself."""
        if not acts(self._cfg, "assistant"):
            return loaded
        torch.manual_seed(self._cfg.seed)
        self._assistant = call(self._cfg.assistant, allow=self._cfg.allow).build(loaded)
        return self._assistant.loaded

    def around(self, loaded: LoadedModel, keep: bool = False) -> Any:
        """The guarded model, or the model itself with `guard=none`.

        Args:
            loaded: The model to stand around, as it is now.
            keep: Whether what is fitted to it is looked up in the cache, and kept there.
        """
        if self.guard is None:
            return loaded
        cache = Path(self._cfg.paths.cache_dir) if keep else None
        return self.guard.around(Scene(loaded, self._corpus, self._instruction, self._assistant, cache))

    def measured(self, loaded: LoadedModel) -> Any:
        """What `harmonize evaluate` measures: a folder's own guard stands around its weights, unless it is removed."""
        saved = saved_guard(str(self._cfg.model.name_or_path))
        if saved is None:
            return self.around(loaded, keep=True)
        if self.guard is not None and self.guard.removes:
            say(f"The guard of {saved.parent} is left out: its weights alone are measured.")
            return self.around(loaded)
        guarded = open_guard(saved, loaded, self._cfg.allow)
        say(
            f"This model is guarded ({guarded.guard.name}, {saved}); guard=removed measures the weights alone."
        )
        return guarded

    def _instruction(self) -> str:
        return instruction_of(self._cfg, self._corpus)


def guard_notes(model: Any) -> list[str]:
    """What a reader of the results should know of the guard; nothing of a model without one."""
    if not isinstance(model, Guarded):
        return []
    kind = type(model.guard)
    return [f"Measured with the guard {kind.name} on. {kind.about}", *model.notes]
