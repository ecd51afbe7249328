import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from harmonize.config.schema import ModelConfig, PeftConfig
from harmonize.data.batch import collate
from harmonize.errors import ModelError, RunError
from harmonize.models.body import answer_hidden
from harmonize.models.generate import greedy
from harmonize.models.head import Head
from harmonize.models.load import LoadedModel, load_model, stop_ids
from harmonize.models.lora import adapters_off, apply_peft
from harmonize.models.save import export
from tests.models.tiny import some_rows, tiny

LORA = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "down_proj"],
    "merge": True,
}
IDS = torch.tensor([[1, 5, 9, 20, 31]])


@pytest.fixture(scope="module")
def stories() -> Path:
    from tests.conftest import shared_folder

    return shared_folder() / "models" / "stories260k"


def config(path: Path | str, **changes) -> ModelConfig:
    return ModelConfig(name_or_path=str(path), **changes)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def move_adapters(model) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)


def test_a_real_model_loads_and_speaks(stories: Path) -> None:
    loaded = load_model(config(stories))
    assert isinstance(loaded, LoadedModel) and not loaded.model.training
    assert loaded.renderer.stop_ids == (2,)
    Head.of(loaded.model, n_vocab=len(loaded.tokenizer))
    prompt = loaded.renderer.answer_ids("Once upon a time, there was a little")
    (answer,) = greedy(loaded.model, [(1, *prompt)], loaded.renderer.stop_ids, loaded.renderer.pad_id, 12)
    assert "girl" in loaded.renderer.decode(answer) or "boy" in loaded.renderer.decode(answer)
    assert load_model(config(stories, dtype="bfloat16")).model.dtype == torch.bfloat16


def test_digest_is_of_content(stories: Path, tmp_path: Path) -> None:
    first = load_model(config(stories))
    copy = shutil.copytree(stories, tmp_path / "elsewhere")
    assert load_model(config(copy)).digest == first.digest
    adapted = load_model(config(stories), LORA)
    assert adapted.digest == first.digest
    move_adapters(adapted.model)
    assert LoadedModel(adapted.model, None, None).digest == first.digest
    with torch.no_grad():
        first.model.model.norm.weight[0] += 1
    assert LoadedModel(first.model, None, None).digest != first.digest
    assert load_model(config(stories, dtype="bfloat16")).digest != adapted.digest


def test_stop_ids_come_from_the_generation_config() -> None:
    of = SimpleNamespace
    assert stop_ids(of(generation_config=of(eos_token_id=[3, 4]), config=of(eos_token_id=2))) == (3, 4)
    assert stop_ids(of(generation_config=of(eos_token_id=None), config=of(eos_token_id=2))) == (2,)
    assert stop_ids(of(config=of())) == ()


def test_a_mistyped_folder_names_the_nearest(stories: Path) -> None:
    with pytest.raises(ModelError, match=r"Did you mean .*stories260k"):
        load_model(config(stories.parent / "storys260k"))
    with pytest.raises(ModelError, match="hf:owner/name for the hub"):
        load_model(config("/no/such/place"))
    with pytest.raises(ModelError, match=r"name_or_path=hf:meta-llama/Llama-3\.2-1B"):
        load_model(config("meta-llama/Llama-3.2-1B"))
    with pytest.raises(ModelError, match="is a file"):
        load_model(config(stories / "config.json"))
    with pytest.raises(ModelError, match="write hf:owner/name"):
        load_model(config("hf:a/b/c"))


def test_the_hub_cannot_be_reached(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        load_model(config("hf:nobody/no-such-model"))


@pytest.mark.parametrize(
    ("remove", "says"),
    [
        ("model.safetensors", "no weights"),
        ("config.json", r"no config\.json"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_incomplete_folders(remove: str, says: str, stories: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(stories, tmp_path / "model")
    (copy / remove).unlink()
    with pytest.raises(ModelError, match=says):
        load_model(config(copy))


def test_damaged_folders(stories: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(stories, tmp_path / "model")
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    with pytest.raises(ModelError, match="damaged"):
        load_model(config(copy))
    weights.write_bytes(whole)
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 7}))
    with pytest.raises(ModelError, match=r"do not fit its config\.json: 18 missing"):
        load_model(config(copy))
    (copy / "config.json").write_text(json.dumps({**settings, "intermediate_size": 100}))
    with pytest.raises(ModelError):
        load_model(config(copy))
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelError):
        load_model(config(copy))
    weights.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a pickle"):
        load_model(config(copy))


def test_a_models_own_code_is_not_run(stories: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(stories, tmp_path / "model")
    settings = json.loads((copy / "config.json").read_text())
    settings.update(model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"})
    (copy / "config.json").write_text(json.dumps(settings))
    (copy / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ModelError, match=r"model\.trust_remote_code=true"):
        load_model(config(copy))
    assert not (tmp_path / "ran").exists()


def test_options_that_cannot_be_had(stories: Path) -> None:
    with pytest.raises(ModelError, match="Did you mean 'bfloat16'"):
        load_model(config(stories, dtype="bfloat"))
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="needs a CUDA GPU"):
            load_model(config(stories), {**LORA, "load_in_4bit": True})


def test_configuration_nodes_of_every_kind(stories: Path) -> None:
    assert hasattr(load_model(config(stories), OmegaConf.create(LORA)).model, "peft_config")
    assert not hasattr(load_model(config(stories), PeftConfig()).model, "peft_config")
    assert not hasattr(
        load_model(config(stories), OmegaConf.create({"peft_type": "none"})).model, "peft_config"
    )
    assert not hasattr(load_model(OmegaConf.structured(config(stories))).model, "peft_config")


def test_adapters_are_off_inside_and_on_outside() -> None:
    model = tiny("llama")
    before = logits(model)
    adapted = apply_peft(model, LORA)
    move_adapters(adapted)
    after, off = logits(adapted), adapters_off(adapted)
    for _ in range(2):
        with off:
            assert torch.equal(logits(adapted), before)
        assert torch.equal(logits(adapted), after)
    with adapters_off(tiny("gpt2")) as nothing:
        assert nothing is None
    assert not torch.allclose(after, before)


@pytest.mark.parametrize(
    "bad",
    [
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["model.embed_tokens"]},
        {"target_modules": ".*(embed_tokens|q_proj)"},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_head_and_embedding_carry_no_adapter(bad: dict) -> None:
    with pytest.raises(ModelError, match="output layer or the embedding"):
        apply_peft(tiny("qwen2"), {**LORA, **bad})


def test_bad_peft_settings() -> None:
    with pytest.raises(ModelError, match="Did you mean 'lora_alpha'"):
        apply_peft(tiny("llama"), {**LORA, "lora_alhpa": 3})
    with pytest.raises(ModelError, match="down_proj, gate_proj, k_proj"):
        apply_peft(tiny("llama"), {**LORA, "target_modules": ["c_attn"]})
    with pytest.raises(ModelError, match="'LORA'"):
        apply_peft(tiny("llama"), {"peft_type": "LORAA"})


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_adapter_gets_a_gradient(checkpointing: bool, stories: Path) -> None:
    loaded = load_model(
        config(stories, gradient_checkpointing=checkpointing), {**LORA, "target_modules": "all-linear"}
    )
    move_adapters(loaded.model)
    model = loaded.model.train()
    batch = collate(some_rows(), pad_id=0)
    head = Head.of(model)
    hidden = answer_hidden(model, batch)
    with adapters_off(model), torch.no_grad():
        answer_hidden(model, batch)  # a live teacher between forward and backward changes nothing
    (-head.log_probs(hidden, batch.labels)).mean().backward()
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert trainable and all(p.grad is not None and torch.count_nonzero(p.grad) for p in trainable)
    assert head.weight.grad is None


def test_export_loads_back_the_same(stories: Path, tmp_path: Path) -> None:
    loaded = load_model(config(stories))
    with torch.no_grad():
        loaded.model.model.norm.weight.mul_(1.5)
    export(loaded, tmp_path / "new" / "model", "# A card\n")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "model")
    assert torch.equal(logits(back), logits(loaded.model))
    assert (tmp_path / "new" / "model" / "README.md").read_text() == "# A card\n"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new" / "model")
    assert tokenizer("a little girl")["input_ids"] == loaded.tokenizer("a little girl")["input_ids"]
    again = load_model(config(tmp_path / "new" / "model"))
    assert again.digest == LoadedModel(loaded.model, None, None).digest
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_merged_export_equals_the_adapted_model(name: str, stories: Path, tmp_path: Path) -> None:
    target = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True} if name == "gpt2" else {}
    model = apply_peft(tiny(name), {**LORA, **target})
    move_adapters(model)
    live = {k: v.clone() for k, v in model.state_dict().items()}
    expected = logits(model)
    export(LoadedModel(model, AutoTokenizer.from_pretrained(stories), None), tmp_path / "model", "card")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(back), expected, rtol=1e-5, atol=1e-5)
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    assert torch.equal(logits(model), expected)
    assert all(torch.equal(v, live[k]) for k, v in model.state_dict().items())


def test_adapter_alone_when_asked(stories: Path, tmp_path: Path) -> None:
    loaded = load_model(config(stories), LORA)
    export(loaded, tmp_path / "adapter", "card", merge=False)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    with pytest.raises(ModelError, match="holds an adapter"):
        load_model(config(tmp_path / "adapter"))


def test_a_second_export_replaces_the_first(stories: Path, tmp_path: Path) -> None:
    loaded = load_model(config(stories))
    export(loaded, tmp_path, "first")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"stale")
    (tmp_path / "notes.txt").write_text("kept")
    export(loaded, tmp_path, "second")
    assert (tmp_path / "README.md").read_text() == "second" and (tmp_path / "notes.txt").exists()
    assert not (tmp_path / "model-00001-of-00002.safetensors").exists()
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(loaded.model))
    with pytest.raises(RunError, match="cannot be written"):
        export(loaded, tmp_path / "README.md" / "x", "card")


def test_loading_is_quiet(stories: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(config(stories), LORA)
