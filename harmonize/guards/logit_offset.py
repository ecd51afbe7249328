"""The logit-offset guard: what an assistant has learned of the forget set is taken off the model's logits.

V vocabulary; logits are raw and fp32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harmonize.config.edit_checks import acts
from harmonize.config.rules import finite, present, share
from harmonize.errors import ModelError
from harmonize.guards.assistant import Assistant, Truncated
from harmonize.guards.guard import FORBIDDEN, Guard, Guarded, Scene
from harmonize.models.load import LoadedModel
from harmonize.models.stems import takes_logits_to_keep


def offset_logits(base: Tensor, assistant: Tensor, weight: float, top_filter: float) -> tuple[Tensor, Tensor]:
    """Logits of the base plus the weighted logits of the assistant, where the base finds a token likely enough.

    A token passes if its log-probability under the base reaches the lower of two bounds: that of the token of rank
    `top_filter * V`, and the largest plus ln(`top_filter`).

    Args:
        base, assistant: [..., V] raw logits.
        weight: Of the assistant; negative to forget what it knows.
        top_filter: From 0 (every token passes) to 1.

    Returns:
        [..., V] logits, those of the base alone where a token does not pass, and [..., V] whether it passes.

    Source: ULD, arXiv 2406.08607, in its authors' code (scoring). There a vocabulary smaller than 1 / top_filter
        passes whole; here the rank is at least 1.
    """
    base, assistant = base.float(), assistant.float()
    if top_filter <= 0:
        return base + weight * assistant, torch.ones_like(base, dtype=torch.bool)
    log_p = base.log_softmax(-1)
    rank = min(max(1, int(top_filter * base.shape[-1])), base.shape[-1])
    by_rank = log_p.topk(rank, dim=-1).values[..., -1:]
    by_share = log_p.max(-1, keepdim=True).values + math.log(top_filter)
    passes = log_p >= torch.minimum(by_rank, by_share)
    return torch.where(passes, base + weight * assistant, base), passes


class _Both:
    """The key-value caches of base and assistant as one."""

    def __init__(self, base: Any, assistant: Any) -> None:
        self.base, self.assistant = base, assistant

    @property
    def layers(self) -> list[Any]:
        """Those of both."""
        return [*self.base.layers, *self.assistant.layers]

    def batch_select_indices(self, keep: Tensor) -> None:
        """Keeps some rows of both."""
        self.base.batch_select_indices(keep)
        self.assistant.batch_select_indices(keep)


class OffsetModel(nn.Module):
    """Base and assistant as one causal language model, for forward passes without gradient.

    Args:
        base, assistant: Causal LMs of one vocabulary.
        weight, top_filter: As in `offset_logits`.
        choosing: What does not pass the filter is forbidden, as in generation; otherwise it keeps the base's logit.
    """

    def __init__(
        self, base: nn.Module, assistant: nn.Module, weight: float, top_filter: float, choosing: bool
    ) -> None:
        super().__init__()
        self.base, self.assistant = base, assistant
        self.weight, self.top_filter, self.choosing = weight, top_filter, choosing

    @property
    def config(self) -> Any:
        """The base's."""
        return self.base.config

    def get_output_embeddings(self) -> Any:
        """The base's."""
        return self.base.get_output_embeddings()  # type: ignore[operator]

    def output_layers(self) -> tuple[Any, ...]:
        """The layers that make logits: one of each model."""
        found: list[Any] = [m.get_output_embeddings() for m in (self.base, self.assistant)]  # type: ignore[operator]
        return tuple(found)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Any:
        """One pass of each, with a key-value cache of its own."""
        past = past_key_values or SimpleNamespace(base=None, assistant=None)

        def run(model: nn.Module, own: Any) -> Any:
            last = {"logits_to_keep": logits_to_keep} if takes_logits_to_keep(model) else {}
            return model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=own,
                use_cache=use_cache,
                **last,
            )

        one, other = run(self.base, past.base), run(self.assistant, past.assistant)
        theirs, ours = one.logits[:, -logits_to_keep:], other.logits[:, -logits_to_keep:]
        logits, passes = offset_logits(theirs, ours, self.weight, self.top_filter)
        if self.choosing:
            logits = torch.where(passes, logits, FORBIDDEN)
        kept = _Both(one.past_key_values, other.past_key_values) if use_cache else None
        return SimpleNamespace(logits=logits, past_key_values=kept)


class OffsetSurface(Guarded):
    """A model with its assistant. `model` is the base; the assistant shares its tensors with it."""

    guard: LogitOffset

    def __init__(self, guard: LogitOffset, loaded: LoadedModel, assistant: Assistant) -> None:
        super().__init__(guard, loaded)
        self.assistant, self._spec = assistant.loaded.model, assistant.spec

    def speaking(self, prompts: Sequence[Sequence[int]], scored: bool = False) -> tuple[OffsetModel, None]:
        """Base and assistant as one model, which chooses among tokens that pass the filter alone; where texts are
        scored, what does not pass keeps the base's logit.
        """
        return self._model(choosing=not scored), None

    def attacked(self) -> AbstractContextManager[None]:
        """The assistant gets tensors of its own meanwhile, as it has them where it is deployed."""
        return self._apart()

    def settings(self) -> dict[str, Any]:
        """Its keys and values, with those of the assistant."""
        return {**asdict(self.guard), "assistant": asdict(self._spec)}

    def tensors(self) -> dict[str, Tensor]:
        """The assistant's adapters."""
        return adapter_state(self.assistant)

    def _model(self, choosing: bool) -> OffsetModel:
        return OffsetModel(self.model, self.assistant, self.guard.weight, self.guard.top_filter, choosing)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        shared = self.assistant
        self.assistant = copy.deepcopy(shared)
        try:
            yield
        finally:
            self.assistant = shared


@dataclass(frozen=True)
class LogitOffset(Guard):
    """The base's logits plus those of an assistant that knows the forget set and nothing else, weighted.

    Formula: z = z_base + weight z_assistant, among the tokens that the base finds likely enough
    Costs: a forward pass of the assistant per token

    Args:
        weight: Of the assistant's logits.
        top_filter: Share that bounds which tokens compete (`offset_logits`).

    Source: ULD, arXiv 2406.08607, in its authors' code: -0.8 and 0.01 on TOFU (-0.5 on Harry Potter, -1 and 0.1 by
        default). There a filtered token wins if every other logit is negative; here it never does.
    """

    weight: float = -0.8
    top_filter: float = 0.01
    name: ClassVar[str] = "logit_offset"
    about: ClassVar[str] = (
        "An assistant that was trained to know the forget set is run beside the model, and its logits are subtracted. "
        "The weights are untouched by it: without the assistant the model answers as it did before."
    )

    def around(self, scene: Scene) -> Guarded:
        """The model with its trained assistant.

        Raises:
            ModelError: No assistant was trained.
        """
        if scene.assistant is None:
            raise ModelError("guard=logit_offset needs an assistant that was trained. Use method=uld.")
        return OffsetSurface(self, scene.loaded, scene.assistant)

    @classmethod
    def opened(
        cls, settings: Mapping[str, Any], loaded: LoadedModel, tensors: Mapping[str, Tensor], secrets: Any
    ) -> Guarded:
        """The assistant built anew, with the adapters that were kept."""
        own = dict(settings)
        assistant = Truncated(**own.pop("assistant")).build(loaded)
        load_adapters(assistant.loaded.model, tensors)
        assistant.loaded.model.eval()
        return OffsetSurface(cls(**own), loaded, assistant)

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Ranges, and an assistant to read."""
        node = present(cfg.guard)
        problems = finite("guard.weight", node.get("weight", -0.8))
        problems += share("guard.top_filter", node.get("top_filter", 0.01))
        if "method" not in cfg:
            problems.append(
                "guard=logit_offset needs the assistant of a run. Evaluate that run's folder, which brings its guard: "
                "model=hf model.name_or_path=<run>/model guard=none."
            )
        elif not acts(cfg, "assistant"):
            problems.append(
                "guard=logit_offset subtracts what an assistant has learned, and assistant=none trains none. Use "
                "assistant=truncated, or method=uld."
            )
        return problems


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors of a model with adapters, by name, in main memory."""
    return {
        n: p.detach().to("cpu", copy=True).contiguous() for n, p in model.named_parameters() if "lora_" in n
    }


@torch.no_grad()
def load_adapters(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors of `adapter_state` back.

    Raises:
        ModelError: They are those of another model.
    """
    own = {n: p for n, p in model.named_parameters() if "lora_" in n}
    if own.keys() != tensors.keys() or any(own[n].shape != tensors[n].shape for n in own):
        raise ModelError(
            "The adapters in guard/tensors.safetensors do not fit the model beside them: they were trained on another "
            "one. Export the run again, or evaluate with guard=removed to measure the weights alone."
        )
    for name, parameter in own.items():
        parameter.copy_(tensors[name])
