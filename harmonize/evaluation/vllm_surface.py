"""Generation by vLLM (extra `vllm`): answers of a model whose probabilities are still read with torch.

Written after vLLM's public interface (code of its `LLM`, `SamplingParams` and outputs); not run yet, as no GPU was at
hand. Its kernels round otherwise than ours, so a greedy answer may differ where two tokens are nearly tied.
"""

from __future__ import annotations

import gc
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harmonize.errors import ConfigError, ModelError
from harmonize.evaluation.surface import ModelSurface, Progress, as_surface
from harmonize.models.load import LoadedModel
from harmonize.models.save import export

MISSING = "backend=vllm needs vLLM and a GPU. pip install 'harmonize[vllm]', or use backend=torch."


@contextmanager
def served(loaded: LoadedModel, model: Any, memory: float) -> Iterator[ModelSurface]:
    """A model whose answers vLLM gives, from a merged copy of its weights that is removed at the end.

    Args:
        loaded: The model; adapters are merged into the copy.
        model: What is measured: the same. memory: Share of the GPU's memory that vLLM may take.

    Raises:
        ConfigError: A guarded model, or vLLM is not installed.
        ModelError: vLLM cannot serve the model.
    """
    surface = as_surface(model)
    if type(surface) is not ModelSurface and not getattr(getattr(surface, "guard", None), "removes", False):
        raise ConfigError(
            "backend=vllm answers for weights alone, and this model is guarded. Use backend=torch."
        )
    with tempfile.TemporaryDirectory(prefix="harmonize-vllm-") as folder:
        export(loaded, folder, "Merged weights, served for an evaluation.\n")
        answering = VllmSurface(loaded, _engine(folder, loaded.model.dtype, memory))
        try:
            yield answering
        finally:
            answering.engine = None
            gc.collect()  # the engine's process ends with it


def _engine(folder: str | Path, dtype: torch.dtype, memory: float) -> Any:
    try:
        from vllm import LLM
    except ImportError as error:
        raise ConfigError(MISSING) from error
    try:
        return LLM(
            model=str(folder),
            skip_tokenizer_init=True,  # ids go in and come out
            dtype=str(dtype).removeprefix("torch."),
            seed=0,
            gpu_memory_utilization=memory,
            enable_prefix_caching=True,  # what prompts begin with is read once
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            f"vLLM cannot serve this model ({str(error).splitlines()[0] if str(error) else type(error).__name__}). "
            "Give it more of the memory (backend_memory), or use backend=torch."
        ) from error


class VllmSurface(ModelSurface):
    """A loaded model that vLLM answers for.

    While an attack changes the weights (`attacked`), torch generates: vLLM's copy is not changed with them.

    Args:
        loaded: The model. engine: A `vllm.LLM` of the same weights.
    """

    def __init__(self, loaded: Any, engine: Any) -> None:
        super().__init__(loaded)
        self.engine = engine
        self._apart = False

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """Inside, the model is another one than vLLM's."""
        before, self._apart = self._apart, True
        try:
            yield
        finally:
            self._apart = before

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        batch_size: int,
        progress: Progress | None,
    ) -> list[list[int]]:
        """Greedy continuations; vLLM forms its own batches. Raises as `ModelSurface.generate`."""
        if self._apart:
            return super().generate(prompts, max_new_tokens, batch_size, progress)
        self.check_room(prompts, max_new_tokens)
        unique = list(dict.fromkeys(map(tuple, prompts)))
        said = dict(
            zip(unique, self._said(unique, [{"temperature": 0.0}] * len(unique), max_new_tokens), strict=True)
        )
        if progress is not None:
            progress(len(unique), len(unique))
        return [list(said[tuple(p)]) for p in prompts]

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
        """Sampled continuations; a draw has a seed made of its key and number. Raises as `ModelSurface.sample`."""
        if self._apart:
            return super().sample(prompts, keys, draws, temperature, max_new_tokens, batch_size, progress)
        self.check_room(prompts, max_new_tokens)
        asked = [tuple(p) for p in prompts for _ in range(draws)]
        how = [
            {"temperature": temperature, "seed": seed_of(key, draw)} for key in keys for draw in range(draws)
        ]
        said = self._said(asked, how, max_new_tokens)
        if progress is not None:
            progress(len(asked), len(asked))
        return [said[n * draws : (n + 1) * draws] for n in range(len(prompts))]

    def _said(
        self, prompts: Sequence[tuple[int, ...]], how: Sequence[dict[str, Any]], limit: int
    ) -> list[list[int]]:
        from vllm import SamplingParams

        if not prompts:
            return []
        stops = sorted(int(i) for i in self.renderer.stop_ids)
        common = {
            "max_tokens": limit,
            "stop_token_ids": stops,
            "ignore_eos": True,  # the stops are those of every other way to generate, no more and no fewer
            "detokenize": False,
        }
        params = [SamplingParams(**common, **own) for own in how]
        found = self.engine.generate([{"prompt_token_ids": list(p)} for p in prompts], params, use_tqdm=False)
        ended = frozenset(stops)
        answers = []
        for request in found:
            ids = [int(i) for i in request.outputs[0].token_ids]
            answers.append(ids[: next((n for n, i in enumerate(ids) if i in ended), len(ids))])
        return answers


def seed_of(key: str, draw: int) -> int:
    """The seed of a draw; a function of both."""
    return int.from_bytes(hashlib.blake2b(f"{key}\x1f{draw}".encode(), digest_size=4).digest(), "big")
