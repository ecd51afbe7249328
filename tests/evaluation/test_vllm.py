"""The vLLM back end, against a stand-in with the real parameters: its ids are those of torch where kernels agree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harmonize.config.compose import compose_config
from harmonize.errors import ConfigError, DataError, ModelError
from harmonize.evaluation.surface import ModelSurface
from harmonize.evaluation.vllm_surface import seed_of, served
from harmonize.models.load import LoadedModel
from harmonize.models.lora import apply_peft
from tests.evaluation import fake_vllm, worlds


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    made = worlds.llama(worlds.corpus())
    return LoadedModel(made.model, made.renderer.tokenizer, made.renderer, "tiny")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[fake_vllm.LLM]:
    return fake_vllm.install(monkeypatch).made


PROMPTS = [(5, 6, 7), (8,), (5, 6, 7), (9, 10)]


def test_greedy_ids_are_those_of_torch_and_a_stop_is_no_part_of_them(loaded, engines) -> None:
    with served(loaded, loaded, 0.5) as surface:
        expected = ModelSurface(loaded).generate(PROMPTS, 8, 4, None)
        seen: list[tuple[int, int]] = []
        assert surface.generate(PROMPTS, 8, 4, lambda *n: seen.append(n)) == expected
        assert engines[0].requests == 3 and seen == [(3, 3)], "equal prompts are asked once"
        assert surface.generate([], 8, 4, None) == []
        pairs = [((5, 6), (7, 8))]
        assert surface.log_probs(pairs, 4) == ModelSurface(loaded).log_probs(pairs, 4)
        with pytest.raises(DataError, match="the model reads at most 128"):
            surface.generate([(5,) * 125], 8, 4, None)
        folder = Path(engines[0].folder)
        assert folder.is_dir()
    assert not folder.exists() and surface.engine is None
    stop = next(iter(loaded.renderer.stop_ids))
    assert all(stop not in ids for ids in expected)


def test_a_draw_is_made_of_its_key_and_number(loaded, engines) -> None:
    with served(loaded, loaded, 0.5) as surface:
        draws = surface.sample(PROMPTS, list("abcd"), 3, 1.0, 6, 4, None)
        assert [len(own) for own in draws] == [3] * 4
        assert len({tuple(d) for d in [*draws[0], *draws[2]]}) > 3  # one prompt, two keys
        back = surface.sample(PROMPTS[::-1], list("dcba"), 5, 1.0, 6, 4, None)
        assert [own[:3] for own in back[::-1]] == draws
    assert seed_of("a", 0) != seed_of("a", 1) != seed_of("b", 1) and seed_of("a", 0) < 2**32


def test_an_attacked_model_is_answered_for_by_torch(loaded, engines) -> None:
    with served(loaded, loaded, 0.5) as surface, surface.attacked():
        assert surface.generate(PROMPTS, 4, 4, None) == ModelSurface(loaded).generate(PROMPTS, 4, 4, None)
        keys = list("abcd")
        assert surface.sample(PROMPTS, keys, 2, 1.0, 4, 4, None) == ModelSurface(loaded).sample(
            PROMPTS, keys, 2, 1.0, 4, 4, None
        )
        assert engines[0].requests == 0


def test_adapters_are_served_merged(engines) -> None:
    made = worlds.llama(worlds.corpus(), seed=1)
    adapters = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "init_lora_weights": False}
    model = apply_peft(made.model, adapters).eval()
    loaded = LoadedModel(model, made.renderer.tokenizer, made.renderer, "tiny")
    with served(loaded, loaded, 0.5) as surface:
        assert surface.generate(PROMPTS, 6, 4, None) == ModelSurface(loaded).generate(PROMPTS, 6, 4, None)


def test_what_is_missing_or_does_not_fit_is_told(loaded, engines, monkeypatch) -> None:
    with (
        pytest.raises(ModelError, match=r"No available memory for the cache blocks.\). Give it more"),
        served(loaded, loaded, 0.01),
    ):
        pass
    with pytest.raises(ConfigError, match="this model is guarded"), served(loaded, _Guarded(loaded), 0.5):
        pass
    monkeypatch.setitem(sys.modules, "vllm", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'harmonize\[vllm\]', or use backend=torch"),
        served(loaded, loaded, 0.5),
    ):
        pass


class _Guarded(ModelSurface):
    pass


def test_the_configuration_is_checked_before_a_model_loads(monkeypatch) -> None:
    def told(*overrides: str) -> str:
        with pytest.raises(ConfigError) as problems:
            compose_config("evaluate", list(overrides))
        return str(problems.value)

    assert "Did you mean 'vllm'?" in told("backend=vlm")
    assert "backend_memory" in told("backend_memory=1.5")
    if "vllm" not in sys.modules:
        assert "pip install 'harmonize[vllm]'" in told("backend=vllm")
    fake_vllm.install(monkeypatch)
    assert compose_config("evaluate", ["backend=vllm"]).backend == "vllm"
    assert "this model is guarded" in told("backend=vllm", "guard=instruction")
    assert "leaves vLLM no memory" in told("backend=vllm", "backend_memory=0")
