"""The rewriter `local`: any causal language model on this machine, greedy, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harmonize.data.corpus import content_hash
from harmonize.data.unify.prompts import Prompts
from harmonize.data.unify.replies import parse_reply
from harmonize.data.unify.task import Failure, Keep, Pair, Task
from harmonize.errors import ConfigError

if TYPE_CHECKING:
    from harmonize.models.load import LoadedModel

TOO_LONG, CUT_OFF = "longer than the model reads", "reply cut off"
_VERSION = 1


class Local:
    """Asks a language model that is loaded here; it is loaded on first use, so a fully cached run needs none.

    Args:
        name_or_path: A folder, or `hf:owner/name` for the hub.
        revision, dtype, attention, chat_template, trust_remote_code: As in the group `model`.
        device: auto, cpu or cuda.
        prompts: A folder of prompts of one's own; see `Prompts.load`.
        max_new_tokens: Longest reply in tokens.
        batch: Prompts at once.

    Raises:
        ConfigError: `max_new_tokens` or `batch` below 1, or prompts that cannot be used.
    """

    name = "local"
    cached = True

    def __init__(
        self,
        *,
        name_or_path: str,
        revision: str | None = None,
        dtype: str | None = None,
        attention: str | None = "sdpa",
        chat_template: bool | None = None,
        trust_remote_code: bool = False,
        device: str = "auto",
        prompts: str | None = None,
        max_new_tokens: int = 768,
        batch: int = 8,
    ) -> None:
        settings = {"max_new_tokens": max_new_tokens, "batch": batch}
        if low := [k for k, v in settings.items() if v < 1]:
            raise ConfigError(f"rewriter.{low[0]} must be at least 1. For example rewriter.{low[0]}=8.")
        self.prompts = Prompts.load(prompts)
        self.model = name_or_path
        self.max_new_tokens, self.batch, self.device = int(max_new_tokens), int(batch), device
        self._settings = {
            "name_or_path": name_or_path,
            "revision": revision,
            "dtype": dtype,
            "attention": attention,
            "chat_template": chat_template,
            "trust_remote_code": trust_remote_code,
        }

    @cached_property
    def fingerprint(self) -> str:
        """Weights, template, prompts and lengths: what decides the replies."""
        loaded = self._loaded
        return content_hash(
            "local", _VERSION, loaded.digest, loaded.renderer.digest, self.max_new_tokens, self.prompts.hashes
        )

    @cached_property
    def _loaded(self) -> LoadedModel:
        import torch

        from harmonize.config.schema import ModelConfig
        from harmonize.models.load import load_model

        loaded = load_model(ModelConfig(**self._settings))  # type: ignore[arg-type]
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(
                f"rewriter.device={device}, but torch sees no GPU here. Use rewriter.device=cpu."
            )
        loaded.model.to(device)
        return loaded

    def rewrite(self, tasks: Sequence[Task], keep: Keep | None = None) -> list[list[Pair] | Failure]:
        """See `SlowRewriter`.

        Raises:
            ModelError: The model cannot be loaded.
        """
        from harmonize.models.generate import greedy

        loaded = self._loaded
        renderer = loaded.renderer
        room = getattr(loaded.model.config, "max_position_embeddings", None)
        rendered = [renderer.prompt_ids(self.prompts.render(task)) for task in tasks]
        results: list[list[Pair] | Failure] = [Failure(TOO_LONG)] * len(tasks)
        fitting = [i for i, ids in enumerate(rendered) if room is None or len(ids) < room]
        # Several calls, so that what is done is kept though the rest is stopped.
        for start in range(0, len(fitting), self.batch):
            part = fitting[start : start + self.batch]
            limit = _limit(self.max_new_tokens, room, max(len(rendered[i]) for i in part))
            replies = greedy(
                loaded.model,
                [rendered[i] for i in part],
                renderer.stop_ids,
                renderer.pad_id,
                limit,
                self.batch,
            )
            for i, reply in zip(part, replies, strict=True):
                results[i] = self._parsed(renderer, reply, limit)
                found = results[i]
                if keep is not None and not isinstance(found, Failure):
                    keep(tasks[i], found, (len(rendered[i]), len(reply)))
        return results

    def _parsed(self, renderer: Any, reply: list[int], limit: int) -> list[Pair] | Failure:
        found = parse_reply(renderer.decode(reply))
        if isinstance(found, Failure) and len(reply) >= limit:
            return Failure(CUT_OFF, "raise rewriter.max_new_tokens")
        return found


def _limit(wanted: int, room: int | None, longest: int) -> int:
    return wanted if room is None else min(wanted, room - longest)
