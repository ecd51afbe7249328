"""Adapters that start on measured directions, through training, resuming and whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from harmonize.config.compose import compose_config
from harmonize.errors import ConfigError
from harmonize.models.body import answer_hidden
from harmonize.models.head import Head
from harmonize.models.lora import OFFSET, adapter_layers, adapters_off
from harmonize.objectives.adapters import representation_orthogonality
from harmonize.objectives.divergence import inverted_hinge, kl_to_original
from harmonize.objectives.likelihood import cross_entropy
from harmonize.statistics.subspaces import rila, top_directions
from harmonize.tracking.results import read_run
from harmonize.unlearning.adapters import adapt, trained_adapters
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.terms import Term
from tests.unlearning import toy_methods
from tests.unlearning.test_fit import go
from tests.unlearning.test_run import harmonize, losses, shelf
from tests.unlearning.toy import make_module, make_rows, tiny_llama
from tests.unlearning.toy_methods import measure_on

__all__ = ["harmonize", "shelf"]  # fixtures
INIT = {"_target_": "harmonize.statistics.subspaces.rila", "beta": 0.6}
LORA = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "init": INIT}
RESPONSE = dict.fromkeys(("forget", "neighbor", "retain"), "reference")


def terms() -> list[Term]:
    return [
        Term("hinge", inverted_hinge, 1.0, {"forget": 1.0}),
        Term("ce", cross_entropy, 1.0, {"retain": 1.0}),
        Term("rol", representation_orthogonality, 0.5, {}, {"rank": 4}),
    ]


def started(seed: int = 0, **changes: Any) -> UnlearningModule:
    model = tiny_llama()
    model, weights = adapt(model, LORA, terms(), measure_on(model, RESPONSE), seed)
    return make_module(model, terms=terms(), weights=weights, lr=3e-3, **changes)


def hidden(model: Any) -> Tensor:
    from harmonize.data.batch import collate

    with torch.no_grad():
        return Head.of(model).logits(answer_hidden(model, collate(make_rows(6), 0)))


def everything(module: UnlearningModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.student.parameters()])


def test_each_layer_starts_where_its_own_measurements_say() -> None:
    plain = tiny_llama()
    layers = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    forget, retain = (measure_on(plain, RESPONSE)(side, layers) for side in ("forget", "retain"))
    module = started()
    adapters = trained_adapters(module.student)
    assert len(adapters) == 4 and all(a.scaling == 2.0 for a in adapters.values())
    for name in layers:
        weight = plain.get_submodule(name).weight.detach()
        a, b = rila(weight, forget[name], retain[name], 3, beta=0.6)
        torch.testing.assert_close(adapters[name].a.detach(), a.float())
        torch.testing.assert_close(adapters[name].b.detach(), b.float())
    weights = module._parts.weights
    found = weights.get("retain_subspace", {"rank": 4})
    assert found.keys() == adapters.keys()
    torch.testing.assert_close(found[layers[0]], top_directions(retain[layers[0]], 4).float())


def test_the_seed_moves_no_measured_start_and_nothing_is_measured_unasked() -> None:
    assert torch.equal(everything(started(0)), everything(started(1)))
    plain, asked = tiny_llama(), []

    def measure(side: str, layers: Any) -> Any:
        asked.append(side)
        return measure_on(plain, RESPONSE)(side, layers)

    ordinary = {k: v for k, v in LORA.items() if k != "init"}
    kept = [t for t in terms() if not t.reads_weights]
    adapt(tiny_llama(), {"peft_type": "none"}, kept, measure, 0)
    adapt(tiny_llama(), ordinary, kept, measure, 0)
    assert asked == []
    adapt(tiny_llama(), ordinary, terms(), measure, 0)
    assert asked == ["retain"]


def test_the_function_is_the_start_models_at_first_and_the_base_is_for_ever() -> None:
    before = hidden(tiny_llama())
    module = started()
    torch.testing.assert_close(hidden(module.student), before, rtol=1e-4, atol=1e-5)
    go(module, 4)
    assert not torch.allclose(hidden(module.student), before, atol=1e-3)
    with adapters_off(module.student):
        assert torch.equal(hidden(module.student), before)


def test_training_moves_the_trained_adapter_alone() -> None:
    module = started()
    before = {n: p.detach().clone() for n, p in module.student.named_parameters()}
    go(module, 3)
    moved = {n for n, p in module.student.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(".lora_" in n and OFFSET not in n for n in moved)
    assert len(moved) == len(module.trainable) == 8


def test_resume_is_bitwise_and_brings_the_second_adapter_along(tmp_path: Path) -> None:
    whole = started()
    go(whole, 6)
    go(started(), 3, checkpoints=tmp_path)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert sum(OFFSET in n for n in kept) == 8 and all(".lora_" in n for n in kept)
    second = started()
    with torch.no_grad():  # as if the measurements had come out otherwise this time
        for _, layer in adapter_layers(second.student):
            layer.lora_A[OFFSET].weight.mul_(1.01)
    assert go(second, 6, checkpoints=tmp_path, resume=True) == 6
    assert torch.equal(everything(whole), everything(second))


@pytest.mark.parametrize("name", ["grad_diff_kl", "bidirectional"])
def test_live_and_kept_frozen_models_are_the_start_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_methods, "LORA", {**LORA, "r": 2})
    kept = toy_methods.train(name, tmp_path, 3, lora=True)
    live = toy_methods.train(name, tmp_path, 3, lora=True, mode="none")
    assert live.losses == pytest.approx(kept.losses, rel=2e-3, abs=1e-4)
    full = toy_methods.train(name, tmp_path / "full", 1)
    assert kept.losses[0] == pytest.approx(full.losses[0], rel=1e-3, abs=1e-4)
    assert (live.frozen, kept.frozen) == (3, 0)


def test_the_term_pulls_what_is_written_off_the_retain_directions() -> None:
    values: list[float] = []
    module = started(log=lambda m, _: values.append(m["term/rol"]))
    go(module, 12)
    assert values[-1] < values[0]
    assert Term("kl", kl_to_original, 1.0, {"retain": 1.0}).reads_weights is False


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["method=reglu", "peft.merge=false"], "Use peft.merge=true"),
        (
            ["method=reglu", "peft=lora", "+peft.init_lora_weights=olora", "peft.merge=false"],
            "Use peft.merge=true",
        ),
        (["method=reglu", "+peft.init_lora_weights=pissa"], "Keep one: ~peft.init"),
        (["method=reglu", "+peft.use_dora=true"], "Use peft.use_dora=false"),
        (["method=reglu", "+peft.init.shrink=0.1"], "peft.init.shrink is no parameter"),
        (["method=reglu", "peft.init._target_=harmonize.statistics.subspaces.rlia"], "Did you mean 'rila'"),
        (["method=npo", "peft=lora", "+peft.init=reglu"], "Use peft=reglu"),
        (
            ["method=npo", "+peft.init._target_=harmonize.statistics.subspaces.rila"],
            "peft.init has no effect",
        ),
        (["method=grad_ascent", "peft=reglu"], "peft.init reads retain_covariance"),
        (
            [
                "method=grad_ascent",
                "peft=lora",
                "+method.objectives.o._target_=harmonize.objectives.adapters.representation_orthogonality",
            ],
            "+method.response.retain=reference",
        ),
    ],
)
def test_mistakes_are_told_before_a_model_loads(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config("unlearn", overrides)
    assert any(told in problem for problem in caught.value.problems), caught.value.problems


def test_finetuning_has_no_sides_to_measure() -> None:
    with pytest.raises(ConfigError, match="which harmonize finetune has not"):
        compose_config("finetune", ["from_scratch=false", "model=hf", "model.name_or_path=.", "peft=reglu"])


def test_whole_runs(harmonize: Any, shelf: Path, shared: Path) -> None:
    small = ("method=reglu", "peft.target_modules=[v_proj,down_proj]", "peft.r=4", "suite=quick")
    folders = shelf / "cache" / "statistics"
    status, folder, output = harmonize(*small, job="first")
    assert status == 0, output
    kept = {p.name for p in folders.iterdir() if p.is_dir()}
    assert len(kept) == 2 and "statistics" in output  # sensitive, and listed
    status, _, output = harmonize(*small, "seed=1", job="second")
    assert status == 0, output
    assert {p.name for p in folders.iterdir() if p.is_dir()} == kept
    # the export is one plain model, near the start one and not the same
    start = load_file(shared / "models" / "stories260k" / "model.safetensors")
    end = load_file(folder / "model" / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    assert end.keys() == start.keys()
    assert 0 < (end[name] - start[name].float()).abs().max() < 0.1
    assert torch.equal(
        end["model.layers.0.mlp.up_proj.weight"], start["model.layers.0.mlp.up_proj.weight"].float()
    )
    # stopped after four of six steps and resumed: the same figures to the last digit
    status, again, output = harmonize(*small, "trainer.max_steps=4", job="resumed")
    config = again / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 4", "max_steps: 6"))
    state = json.loads((again / "status.json").read_text())
    (again / "status.json").write_text(json.dumps({**state, "state": "interrupted"}))
    status, again, output = harmonize(*small, "resume=true", job="resumed")
    assert status == 0, output
    assert losses(again)[-2:] == losses(folder)[-2:]
    figures = [read_run(f).results.metrics["forget_accuracy"].value for f in (folder, again)]
    assert figures[0] == figures[1]
    resumed = load_file(again / "model" / "model.safetensors")
    assert all(torch.equal(value, resumed[key]) for key, value in end.items())
    status, _, output = harmonize("method=reglu", "peft.r=40", job="rank")
    assert status != 0 and "Use peft.r=32 or less" in output and "Traceback" not in output
