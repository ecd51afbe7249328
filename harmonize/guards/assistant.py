"""Assistants: small models that are trained in the place of the target, whose weights stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harmonize.config.edit_checks import acts
from harmonize.config.rules import at_least, present, share
from harmonize.models.body import blocks_of
from harmonize.models.load import LoadedModel
from harmonize.models.lora import apply_peft, wants_adapters
from harmonize.models.truncate import layers_kept, truncated_view


@dataclass(frozen=True)
class Assistant:
    """A model that is trained in the place of the target, and how it was built."""

    loaded: LoadedModel
    spec: Truncated


@dataclass(frozen=True)
class Truncated:
    """The target's first blocks with adapters of their own, under the target's embedding, norm and head.

    It shares every tensor but the adapters with the target, so it costs the memory of the adapters alone.

    Args:
        layers: How many blocks; None takes 8, or half (rounded up) of fewer than 16 (our choice for small models).
        r, lora_alpha, lora_dropout, target_modules: Of the adapters, under peft's names; no bias is trained.

    Source: ULD, arXiv 2406.08607, and its code: 8 of 32 blocks, r=16, alpha=32, dropout 0.05, all linear layers but the
        head.
    """

    layers: int | None = None
    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    target_modules: Any = "all-linear"

    def build(self, loaded: LoadedModel) -> Assistant:
        """The assistant of a model, whose weights are frozen from here on.

        Call `torch.manual_seed` before: adapters start at random.

        Raises:
            ModelError: The model has fewer blocks, or layers that adapters cannot be put on.
        """
        loaded.model.requires_grad_(False)
        view = truncated_view(loaded.model, layers_kept(len(blocks_of(loaded.model)), self.layers))
        model = apply_peft(
            view,
            {
                "peft_type": "LORA",
                "r": self.r,
                "lora_alpha": self.lora_alpha,
                "lora_dropout": self.lora_dropout,
                "target_modules": self.target_modules,
            },
        )
        own = LoadedModel(model, loaded.tokenizer, loaded.renderer, f"{loaded.name} (assistant)")
        return Assistant(own, self)

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Ranges, and a guard that reads it."""
        node = present(cfg.assistant)
        problems = at_least("assistant.r", node.get("r", 16), 1)
        if node.get("layers") is not None:
            problems += at_least("assistant.layers", node["layers"], 1)
        problems += share("assistant.lora_dropout", node.get("lora_dropout", 0.05))
        if wants_adapters(cfg.peft):
            problems.append(
                "peft puts adapters on the target, and with assistant=truncated only the assistant is trained, with "
                "adapters of its own (assistant.r, ...). Use peft=none."
            )
        problems += [
            f"{group} changes weights that the assistant shares with the target. Use {group}=none, or assistant=none."
            for group in ("edit", "repair")
            if acts(cfg, group)
        ]
        if not cfg.method.objectives:
            problems.append(
                "assistant=truncated is trained by the method's objectives, and there are none. Use method=uld, or "
                "assistant=none."
            )
        return problems
