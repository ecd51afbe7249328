"""What the evaluator needs of a model, so that anything that behaves like one can be measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from harmonize.data.render import Renderer
from harmonize.errors import DataError
from harmonize.evaluation.likelihood import Pair
from harmonize.evaluation.one_pass import pair_log_probs
from harmonize.models.generate import Adjust, greedy, sampled

Progress = Callable[[int, int], None]


@runtime_checkable
class Surface(Protocol):
    """A causal language model seen from outside (a model, a guarded model, a script).

    `generate` continues prompts greedily and returns ids without the stop id, in order, at most
    `max_new_tokens` each. `log_probs` sums the log-probabilities of given continuations. An attack that trains
    also needs an attribute `model` (a `torch.nn.Module`); without it such attacks are reported as not measured. Where
    more than that model would change with its weights, `attacked()` gives a context in which it does not. What is
    measured on sampled answers also needs `sample`, as `ModelSurface` has it.
    """

    renderer: Renderer

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        batch_size: int,
        progress: Progress | None,
    ) -> list[list[int]]:
        """Greedy continuations."""

    def log_probs(self, pairs: Sequence[Pair], batch_size: int) -> list[float]:
        """Log-probability of each target given its prompt."""


class ModelSurface:
    """A loaded model as a surface."""

    def __init__(self, loaded: Any) -> None:
        self.model, self.renderer = loaded.model, loaded.renderer

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        batch_size: int,
        progress: Progress | None,
    ) -> list[list[int]]:
        """Greedy continuations in length-sorted batches with a key-value cache.

        Raises:
            DataError: A prompt and its continuation do not fit the model's context.
        """
        self.check_room(prompts, max_new_tokens)
        model, adjust = self.speaking(prompts)
        stops, pad = self.renderer.stop_ids, self.renderer.pad_id
        return greedy(model, prompts, stops, pad, max_new_tokens, batch_size, progress, adjust)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        draws: int,
        temperature: float,
        max_new_tokens: int,
        batch_size: int,
        progress: Progress | None,
    ) -> list[list[list[int]]]:
        """Sampled continuations, `draws` of each prompt; `keys` (one per prompt) are what their randomness is made of.

        Raises:
            DataError: A prompt and its continuation do not fit the model's context.
        """
        self.check_room(prompts, max_new_tokens)
        model, adjust = self.speaking(prompts)
        stops, pad = self.renderer.stop_ids, self.renderer.pad_id
        return sampled(
            model, prompts, keys, stops, pad, max_new_tokens, draws, temperature, batch_size, progress, adjust
        )

    def speaking(self, prompts: Sequence[Sequence[int]], scored: bool = False) -> tuple[Any, Adjust | None]:
        """The model whose logits are this surface's, and what changes them after these prompts.

        Args:
            scored: Given texts are scored, nothing is generated.
        """
        return self.model, None

    def log_probs(self, pairs: Sequence[Pair], batch_size: int) -> list[float]:
        """Log-probability of each target given its prompt."""
        model, adjust = self.speaking([prompt for prompt, _ in pairs], scored=True)
        return pair_log_probs(model, pairs, self.renderer.pad_id, batch_size, adjust)

    def room(self, max_new_tokens: int) -> int | None:
        """Tokens that a prompt may have before so long an answer; None where the model states no limit."""
        context = context_length(self.model)
        return None if context is None else context - max_new_tokens

    def check_room(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        """Refuses what the model cannot read.

        Raises:
            DataError: A prompt and its continuation do not fit the model's context.
        """
        longest, room = max(map(len, prompts), default=0), self.room(max_new_tokens)
        if room is not None and longest > room:
            context = room + max_new_tokens
            raise DataError(
                f"The longest prompt has {longest} tokens and answers may have {max_new_tokens}, but the model reads "
                f"at most {context}. "
                + (
                    f"Use suite.max_new_tokens={context - longest} or less."
                    if longest < context
                    else "Leave out that question or shorten the instruction."
                )
            )


def context_length(model: Any) -> int | None:
    """Tokens that a model can read; None where it states no limit."""
    found = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def as_surface(loaded: Any) -> Surface:
    """A surface as it is, a loaded model (`.model`, `.renderer`) wrapped."""
    return loaded if isinstance(loaded, Surface) else ModelSurface(loaded)
