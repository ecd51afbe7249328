"""Terms that read weights in the training step: once per step, with everything that other terms have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from harmonize.config.compose import compose_config
from harmonize.errors import ConfigError, ModelError
from harmonize.models.lora import adapted_layers, apply_peft, linear_names
from harmonize.objectives.adapters import group_sparsity
from harmonize.objectives.likelihood import cross_entropy, gradient_ascent
from harmonize.unlearning.adapters import trained_adapters, weights_for
from harmonize.unlearning.combiners import MGDA, NormalizedDifference, PCGrad
from harmonize.unlearning.controllers import DualAscent, Scheduled
from harmonize.unlearning.grouping import NO_ROLE, group_of, group_problems, trained
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.steps import micro_batches
from harmonize.unlearning.terms import Term, build_terms, denominators, weight_losses
from tests.models.tiny import ARCHITECTURES, tiny
from tests.unlearning.test_fit import go
from tests.unlearning.test_run import harmonize, shelf
from tests.unlearning.toy import make_module, make_rows, tiny_llama

__all__ = ["harmonize", "shelf"]  # fixtures
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["up_proj", "down_proj"]}
SPARSITY = {"_target_": "harmonize.objectives.adapters.group_sparsity", "weight": 0.02}
ON_THE_LINE = (
    "+method.objectives.sparsity={_target_: harmonize.objectives.adapters.group_sparsity, weight: 1e-4}"
)


def with_sparsity(**changes: Any) -> UnlearningModule:
    torch.manual_seed(1)
    model = apply_peft(tiny_llama(), LORA)
    terms = [
        Term("ascent", gradient_ascent, 0.3, {"forget": 1.0}),
        Term("ce", cross_entropy, 1.0, {"retain": 1.0}),
        Term("sparsity", group_sparsity, 0.02, {}),
    ]
    chosen = changes.pop("terms", terms)
    return make_module(model, terms=chosen, weights=weights_for(model, chosen), **changes)


def trained_weights(module: UnlearningModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.trainable])


COMBINERS: dict[str, dict[str, Callable[[], Any]]] = {
    "sum": {},
    "pcgrad": {"combiner": lambda: PCGrad(groups="pairs")},
    "mgda": {"combiner": MGDA},
    "ngdiff": {"combiner": lambda: NormalizedDifference(auto_lr=True, every=2)},
}


@pytest.mark.parametrize("name", COMBINERS)
def test_accumulation_equals_a_big_batch(name: str) -> None:
    ends, values = [], []
    for parts in (1, 4):
        seen: list[float] = []
        module = with_sparsity(
            accumulate=parts,
            log=lambda m, _, seen=seen: seen.extend(v for k, v in m.items() if k == "term/sparsity"),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            **{key: make() for key, make in COMBINERS[name].items()},
        )
        expected = group_sparsity(trained_adapters(module.student)).item()
        go(module, steps=3)
        assert seen[0] == pytest.approx(expected, rel=1e-6)
        ends.append(trained_weights(module))
        values.append(seen)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert torch.allclose(ends[0], ends[1], atol=3e-5)


def test_the_step_adds_its_weighted_gradient_once() -> None:
    found = []
    for weight in (0.0, 0.5):
        terms = [
            Term("ce", cross_entropy, 1.0, {"retain": 1.0}),
            Term("sparsity", group_sparsity, weight, {}),
        ]
        module = with_sparsity(
            terms=terms, accumulate=3, clip=None, optimizer=lambda p: torch.optim.SGD(p, lr=1.0)
        )
        before = trained_weights(module)
        own = torch.autograd.grad(group_sparsity(trained_adapters(module.student)), module.trainable)
        go(module, steps=1)
        found.append(before - trained_weights(module))
    assert torch.allclose(found[1] - found[0], 0.5 * torch.cat([g.flatten() for g in own]), atol=1e-5)


def test_ranks_share_the_value() -> None:
    module = with_sparsity()
    value = group_sparsity(trained_adapters(module.student)).item()
    batches = micro_batches(make_rows(8), 2, 0)
    module._trainer = SimpleNamespace(world_size=4)  # type: ignore[assignment]
    parts = list(module._losses(batches, denominators(module.terms, batches)))
    assert [("sparsity", NO_ROLE) in found for found in parts] == [True, False]
    loss = parts[0]["sparsity", NO_ROLE]
    assert loss.item() == pytest.approx(value / 4)
    # gradients are averaged over ranks, so what is differentiated on each is the whole weighted value
    weighted = module._weighted({("sparsity", NO_ROLE): loss}, {"sparsity": 0.02})
    assert weighted["sparsity", NO_ROLE].item() == pytest.approx(0.02 * value)


def test_it_is_logged_with_its_figures_and_its_cosines() -> None:
    seen: dict[str, float] = {}
    module = with_sparsity(log=lambda m, _: seen.update(m), cosines_every=1)
    go(module, steps=1)
    assert {"term/sparsity", "term_weighted/sparsity", "weight/sparsity"} <= seen.keys()
    assert seen["term_figure/sparsity/groups"] == seen["term_figure/sparsity/nonzero_groups"] == 2.0
    assert {"cosine/ascent/forget|sparsity", "cosine/ce/retain|sparsity"} <= seen.keys()
    assert seen["term_weighted/sparsity"] == pytest.approx(0.02 * seen["term/sparsity"])


def test_controllers_move_its_weight() -> None:
    for controller, expected in (
        (Scheduled({"sparsity": {0: 0.0, 2: 1.0}}), [0.0, 0.01, 0.02]),
        (DualAscent(constraints={"sparsity": {"limit": 0.0, "rate": 1.0, "start": 0.5}}), None),
    ):
        seen: list[dict[str, float]] = []
        go(with_sparsity(controller=controller, log=lambda m, _, s=seen: s.append(m)), steps=3)
        found = [m["weight/sparsity"] for m in seen]
        if expected is None:
            expected = [0.5, 0.5 + seen[0]["term/sparsity"]]
            expected.append(expected[1] + seen[1]["term/sparsity"])
        assert found == pytest.approx(expected)


def test_resume_is_bitwise(tmp_path: Path) -> None:
    whole = with_sparsity()
    go(whole, 6)
    go(with_sparsity(), 3, checkpoints=tmp_path)
    second = with_sparsity()
    assert go(second, 6, checkpoints=tmp_path, resume=True) == 6
    assert torch.equal(trained_weights(whole), trained_weights(second))


def test_it_stands_with_the_retain_side_unless_it_is_named() -> None:
    for rule, expected in (("sides", "retain"), ("terms", "s"), ("roles", "retain"), ("pairs", "s")):
        assert group_of(rule, "s", NO_ROLE) == expected
    losses = [("up", "forget"), ("ce", "retain"), ("s", NO_ROLE)]
    assert group_of({"forget": ["forget"], "hold": ["retain"]}, "s", NO_ROLE) == "hold"
    named = {"forget": ["forget", "s"], "retain": ["retain"]}
    assert group_of(named, "s", NO_ROLE) == "forget" and group_problems(named, losses, True) == []
    assert group_problems("sides", [("up", "forget"), ("s", NO_ROLE)], True) == []
    (told,) = group_problems({"forget": ["forget"], "hold": ["ce"]}, losses, False)
    assert "gradient.groups.forget=[s]" in told
    cfg = compose_config("unlearn", ["method=gs_lora"])
    assert ("sparsity", NO_ROLE) in trained(cfg)
    compose_config("unlearn", ["method=gs_lora", "gradient=mgda", "gradient.groups=pairs"])


def test_terms_on_weights_have_no_roles_and_need_adapters() -> None:
    (term,) = build_terms({"sparsity": SPARSITY})
    assert term.reads_weights and dict(term.roles) == {} and not term.needs_teacher
    with pytest.raises(ConfigError, match=r"~method\.objectives\.sparsity\.roles"):
        build_terms({"sparsity": {**SPARSITY, "roles": ["forget"]}})
    with pytest.raises(ConfigError, match="Use peft=lora"):
        weights_for(tiny_llama(), [term])
    with pytest.raises(ConfigError, match="Use peft=lora"):
        weight_losses([term], None)
    assert weights_for(tiny_llama(), [Term("ce", cross_entropy, 1.0, {"retain": 1.0})]) is None


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["method=gs_lora", "peft=none"], "Use peft=lora"),
        (["method=npo", ON_THE_LINE], "Use peft=lora"),
        (
            ["method=gs_lora", "+method.objectives.sparsity.roles=[forget]"],
            "~method.objectives.sparsity.roles",
        ),
        (["method=gs_lora", "+method.objectives.sparsity.group=block"], "Did you mean 'groups'"),
        (["method=gs_lora", "method.objectives.sparsity.weight=much"], "finite number"),
    ],
)
def test_mistakes_are_told_before_a_model_loads(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config("unlearn", overrides)
    (problem,) = caught.value.problems
    assert told in problem


def test_any_method_takes_the_term() -> None:
    cfg = compose_config("unlearn", ["method=npo", "peft=lora", ON_THE_LINE])
    assert [t.reads_weights for t in build_terms(cfg.method.objectives)] == [False, False, True]
    diagnosed = compose_config("diagnose", ["method=gs_lora", "loss=method"])
    assert diagnosed.method.name == "gs_lora"


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_feed_forward_option_finds_those_layers_and_no_other(name: str) -> None:
    chosen = compose_config("unlearn", ["peft=lora_ffn"]).peft
    model = tiny(name)
    named = adapted_layers(model, chosen)
    adapted = trained_adapters(apply_peft(model, chosen))
    assert list(adapted) == named
    linear = set(linear_names(model.base_model))
    expected = {n for n, m in model.named_modules() if ".mlp." in n and n.rsplit(".", 1)[-1] in linear}
    expected = {n.removesuffix(".base_layer") for n in expected if ".lora_" not in n}
    assert adapted.keys() == expected and len(expected) >= 4
    assert all(a.a.shape[0] == a.b.shape[1] == 8 and a.scaling == 2.0 for a in adapted.values())


def test_targets_that_match_nothing() -> None:
    for targets in (["c_fc"], r".*\.ffn\..*"):
        with pytest.raises(ModelError, match=r"not found.*peft.target_modules=\[down_proj,gate_proj\]"):
            adapted_layers(tiny_llama(), {**LORA, "target_modules": targets})


def test_a_whole_run(harmonize: Any) -> None:
    from harmonize.tracking.loggers import read_metrics
    from harmonize.tracking.results import read_run

    status, folder, output = harmonize("method=gs_lora", job="gs")
    assert status == 0, output
    found = read_run(folder).results.extra["terms"]
    assert found == {"sparsity": {"groups": 5.0, "nonzero_groups": 5.0, "zero_below": 0.001}}
    names = {name for _, name, _ in read_metrics(folder / "metrics.csv")}
    assert {"term/sparsity", "term_figure/sparsity/nonzero_groups", "term/forget/forget"} <= names
    status, folder, output = harmonize("method=gs_lora", "peft.target_modules=[c_fc]", job="none")
    assert (
        status != 0
        and "not found" in output
        and "down_proj,gate_proj" in output
        and "Traceback" not in output
    )
