"""vLLM itself, where it is installed: greedy ids against ours on a small random model."""

from __future__ import annotations

import pytest

from harmonize.evaluation.surface import ModelSurface
from harmonize.evaluation.vllm_surface import served
from harmonize.models.load import LoadedModel
from tests.evaluation import worlds

pytest.importorskip("vllm")


def test_greedy_ids_are_those_of_torch(gpu) -> None:
    data = worlds.corpus()
    made = worlds.llama(data, hidden_size=256)  # vLLM's kernels want heads of 64
    loaded = LoadedModel(made.model.to(gpu), made.renderer.tokenizer, made.renderer, "tiny")
    prompts = [made.renderer.prompt_ids(e.question) for e in data.examples][:16]
    with served(loaded, loaded, 0.3) as surface:
        found = surface.generate(prompts, 12, 16, None)
        draws = surface.sample(prompts[:2], ["a", "b"], 2, 1.0, 4, 16, None)
        assert surface.sample(prompts[:2], ["a", "b"], 2, 1.0, 4, 16, None) == draws
    expected = ModelSurface(loaded).generate(prompts, 12, 16, None)
    assert found == expected
