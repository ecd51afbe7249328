"""Combiners in the training step: accumulation, cost, metric, automatic rate, cosines, refused pairings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from harmonize.config.compose import compose_config
from harmonize.errors import ConfigError
from harmonize.unlearning.auto_rate import AutoRate
from harmonize.unlearning.combiners import BLUR, GU, MGDA, NormalizedDifference, PCGrad, Separate, adam_metric
from harmonize.unlearning.gradient import Combiner, Sum
from harmonize.unlearning.grouping import group_of, group_problems
from tests.unlearning.test_fit import go, weights
from tests.unlearning.toy import make_module, make_tools

COMBINERS: dict[str, Callable[[], Combiner]] = {
    "sum": Sum,
    "gu": GU,
    "blur": BLUR,
    "pcgrad": lambda: PCGrad(groups="pairs"),
    "normalized_difference": NormalizedDifference,
    "mgda": MGDA,
    "mgda_normalized": lambda: MGDA(normalize=True),
}


def memoryless_adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=3e-3, betas=(0.0, 0.98), eps=1e-4)


@pytest.mark.parametrize("name", COMBINERS)
def test_accumulation_equals_a_big_batch(name: str) -> None:
    ends = []
    for parts in (1, 4):
        module = make_module(
            combiner=COMBINERS[name](), accumulate=parts, optimizer=memoryless_adam, cosines_every=2
        )
        go(module, steps=3)
        ends.append(weights(module))
    assert torch.allclose(ends[0], ends[1], atol=3e-5)


class Counted:
    """Counts backward passes, however they are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 0
        backward, grad = torch.autograd.backward, torch.autograd.grad

        def counted_backward(*args: Any, **more: Any) -> Any:
            self.n += 1
            return backward(*args, **more)

        def counted_grad(*args: Any, **more: Any) -> Any:
            self.n += 1
            return grad(*args, **more)

        monkeypatch.setattr(torch.autograd, "backward", counted_backward)
        monkeypatch.setattr(torch.autograd, "grad", counted_grad)


@pytest.mark.parametrize(("name", "per_batch"), [("sum", 1), ("gu", 2), ("mgda", 2)])
def test_backward_passes_are_paid_only_when_asked_for(
    name: str, per_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Counted(monkeypatch)
    go(make_module(combiner=COMBINERS[name](), accumulate=2), steps=3)
    assert count.n == 3 * 2 * per_batch


def test_cosines_are_logged_when_due_and_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    plain = make_module()
    go(plain, steps=5)
    count = Counted(monkeypatch)
    watched = make_module(cosines_every=2, accumulate=1, log=lambda m, s: logged.append((s, m)))
    held: list[dict[Any, Any]] = []
    before = watched._keep_apart

    def keep_apart(apart: Any, weighted: Any) -> None:
        before(apart, weighted)
        held.append(apart)

    watched._keep_apart = keep_apart  # type: ignore[method-assign]
    go(watched, steps=5)
    assert torch.equal(weights(plain), weights(watched))
    assert count.n == 5 + 3 * 2  # two terms, at steps 0, 2 and 4
    key = "cosine/ascent/forget|ce/retain"
    assert [s for s, m in logged if key in m] == [1, 3, 5]
    a, b = (torch.cat([g.flatten() for g in held[0][k]]) for k in (("ascent", "forget"), ("ce", "retain")))
    assert logged[1][1][key] == pytest.approx(float(torch.cosine_similarity(a, b, 0)), abs=1e-5)


def pair(
    combiner: Combiner, optimizer: torch.optim.Optimizer | None = None, **changes: Any
) -> tuple[Tensor, Any]:
    """The gradient of f = x0 + 3 x1 (forget) and r = x0^2 + 2 x1 (retain) at (1, 1): (1, 3) and (2, 2)."""
    x = torch.nn.Parameter(torch.ones(2))
    tools = make_tools([x], **({"optimizer": optimizer} if optimizer else {}), **changes)
    combiner.accumulate({("a", "forget"): x[0] + 3 * x[1], ("b", "retain"): x[0] ** 2 + 2 * x[1]}, tools)
    logged = combiner.finish(tools)
    assert x.grad is not None
    return x.grad, logged


def test_combiners_by_hand() -> None:
    # <f, r> = 8, <r, r> = 8, <f, f> = 10
    assert pair(Sum())[0].tolist() == [3, 5]
    assert pair(GU())[0].tolist() == pytest.approx([1, 3])  # (1, 3) - (2, 2) + (2, 2)
    assert pair(BLUR())[0].tolist() == pytest.approx([2 - 0.8 + 1, 2 - 2.4 + 3])
    gradient, logged = pair(NormalizedDifference())
    assert gradient.tolist() == pytest.approx([10**-0.5 + 8**-0.5 * 2, 3 * 10**-0.5 + 8**-0.5 * 2])
    assert logged["gradient/cosine/forget|retain"] == pytest.approx(8 / 80**0.5)
    assert logged["gradient/norm/forget"] == pytest.approx(10**0.5)
    assert logged["gradient/coefficient/retain"] == pytest.approx(8**-0.5)
    assert pair(MGDA())[0].tolist() == pytest.approx([2, 2])  # the shorter one: both agree


def test_gradients_are_averaged_over_ranks_before_they_are_combined() -> None:
    seen: list[int] = []

    def twice(tensors: Any) -> None:  # two ranks, the other's gradients three times ours
        seen.append(len(tensors))
        for t in tensors:
            t *= 2

    assert pair(NormalizedDifference(), average=twice)[0].tolist() == pytest.approx(
        pair(NormalizedDifference())[0].tolist()
    )
    assert pair(GU(), average=twice)[0].tolist() == pytest.approx([2, 6])
    assert seen == [1, 1, 1, 1]


def test_gu_leaves_the_retain_loss_alone_under_adam() -> None:
    """To first order the step of Adam with the projected gradient changes the retain loss by nothing."""
    torch.manual_seed(0)
    x = torch.nn.Parameter(torch.randn(6))
    forget, retain = torch.randn(6), torch.randn(6)
    optimizer = torch.optim.Adam([x], lr=1e-4, betas=(0.0, 0.9), eps=1e-8)
    assert adam_metric(optimizer, [x]) is None
    for scale in (1.0, 3.0):  # a second moment unlike either gradient
        x.grad = scale * torch.randn(6)
        optimizer.step()
    metric = adam_metric(optimizer, [x])
    assert metric is not None
    state = optimizer.state[x]
    v = state["exp_avg_sq"].double() / (1 - 0.9**2)
    assert torch.allclose(metric(0), 1 / (v.sqrt() + 1e-8))  # type: ignore[arg-type]
    combiner = GU(retain_weight=0.0)
    tools = make_tools([x], optimizer=optimizer)
    combiner.accumulate({("f", "forget"): forget @ x, ("r", "retain"): retain @ x}, tools)
    combiner.finish(tools)
    assert float((x.grad.double() * metric(0)) @ retain.double()) == pytest.approx(0, abs=1e-5)  # type: ignore[union-attr,operator]
    assert abs(float(x.grad @ retain)) > 1e-2  # type: ignore[operator,union-attr]


def test_a_group_without_rows_in_a_step_leaves_the_others() -> None:
    x = torch.nn.Parameter(torch.ones(2))
    for combiner in (GU(), BLUR(), PCGrad(), MGDA()):
        combiner.accumulate({("b", "retain"): 3 * x[0]}, make_tools([x]))
        combiner.finish(make_tools([x]))
        assert x.grad is not None and x.grad.tolist() == pytest.approx([3, 0])
    GU().finish(make_tools([x]))
    assert x.grad is None


def test_groups() -> None:
    assert [group_of(g, "push", "neighbor") for g in ("sides", "terms", "roles", "pairs")] == [
        "retain",
        "push",
        "neighbor",
        "push/neighbor",
    ]
    mine = {"a": ["push", "forget"], "b": ["push/retain", "retain"]}
    pairs = (("push", "forget"), ("push", "retain"), ("pull", "forget"), ("pull", "retain"))
    assert [group_of(mine, *p) for p in pairs] == ["a", "b", "a", "b"]
    with pytest.raises(ConfigError, match=r"leaves out the loss pull/neighbor.*gradient\.groups\.a"):
        group_of(mine, "pull", "neighbor")
    with pytest.raises(ConfigError, match="'sides'"):
        group_of("side", "pull", "neighbor")
    assert group_problems(mine, pairs, sides_only=False) == []
    assert "forget and retain alone" in group_problems(mine, pairs, sides_only=True)[0]
    assert "'retain'" in group_problems("sides", pairs[::2], sides_only=True)[0]
    assert "Did you mean 'push'" in group_problems({"a": ["pushh", "pull"]}, pairs, False)[0]
    assert "more than once" in group_problems({"a": ["push"], "b": ["push", "pull"]}, pairs, False)[0]
    assert "a list" in group_problems({"a": "push"}, pairs, False)[0]
    assert "a mapping" in group_problems(3, pairs, False)[0]


def test_pcgrad_order_is_a_function_of_seed_and_step() -> None:
    inner = torch.eye(3, dtype=torch.float64) - 0.5 * (1 - torch.eye(3, dtype=torch.float64))
    inner += torch.diag(torch.tensor([0.0, 1, 2], dtype=torch.float64))
    x = [torch.nn.Parameter(torch.ones(1))]
    found = [tuple(PCGrad().coefficients(inner, make_tools(x, step=s)).tolist()) for s in range(12)]
    assert len(set(found)) > 1
    assert found[7] == tuple(PCGrad().coefficients(inner, make_tools(x, step=7)).tolist())


def test_mgda_leaves_out_a_gradient_of_zero() -> None:
    inner = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 4]], dtype=torch.float64)
    x = make_tools([torch.nn.Parameter(torch.ones(1))])
    assert MGDA().coefficients(inner, x).tolist() == pytest.approx([0, 0.8, 0.2])
    # at length one both count alike: half of g_1 and half of g_2 / 2
    assert MGDA(normalize=True).coefficients(inner, x).tolist() == pytest.approx([0, 0.5, 0.25])
    assert MGDA().coefficients(0 * inner, x).tolist() == [0, 0, 0]


def test_the_automatic_rate_lands_on_the_lowest_point() -> None:
    for make in (
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0),
    ):
        x = torch.nn.Parameter(torch.tensor([4.0, -4.0]))
        optimizer = make([x])
        rate = AutoRate(every=2, offset_share=0.5, least=1e-3, most=100.0)
        x.grad = x.detach().clone()
        loss = lambda x=x: float((x.detach() ** 2).sum())  # noqa: E731
        found = rate.take(optimizer, [x], loss, 0)
        assert x.tolist() == pytest.approx([0, 0], abs=1e-3)  # both step straight towards zero
        assert rate.factor == pytest.approx(found / 0.1) and optimizer.param_groups[0]["lr"] == 0.1
        x.grad = torch.ones(2)
        before = x.detach().clone()
        assert rate.take(optimizer, [x], loss, 1) == pytest.approx(found)  # no probe: the found rate is kept
        if isinstance(optimizer, torch.optim.SGD):
            assert torch.allclose(before - x, torch.full((2,), found), rtol=1e-4)
        assert optimizer.param_groups[0]["lr"] == 0.1


def test_automatic_rate_in_training_is_logged_and_resumes_exactly(tmp_path: Path) -> None:
    logged: list[float] = []

    def module(**more: Any) -> Any:
        combiner = NormalizedDifference(auto_lr=True, every=2, max_lr=0.05)
        return make_module(combiner=combiner, optimizer=lambda p: torch.optim.SGD(p, lr=1e-2), **more)

    whole = module(log=lambda m, s: logged.append(m["gradient/auto_lr"]) if "gradient/auto_lr" in m else None)
    go(whole, 6)
    first, second = module(), module()
    go(first, 3, checkpoints=tmp_path)
    go(second, 6, checkpoints=tmp_path, resume=True)
    assert len(logged) == 6 and len(set(logged)) > 1 and all(1e-7 <= r <= 0.05 for r in logged)
    assert torch.equal(weights(whole), weights(second))


def test_evaluated_losses_are_those_of_the_step() -> None:
    """What the automatic rate asks is the step's own weighted loss."""
    found: list[Any] = []

    class Asking(Sum):
        def finish(self, tools: Any) -> dict[str, float]:
            found.append(tools.evaluate())
            return {}

    logged: list[dict[str, float]] = []
    go(make_module(combiner=Asking(), accumulate=2, log=lambda m, s: logged.append(m)), 1)
    assert found[0] == pytest.approx(
        {k: logged[0][f"term_weighted/{'/'.join(k)}"] for k in (("ascent", "forget"), ("ce", "retain"))},
        abs=1e-5,
    )


def test_a_gradient_that_is_not_finite_is_refused_by_the_step() -> None:
    class Broken(Separate):
        def coefficients(self, inner: Tensor, tools: Any) -> Tensor:
            raise AssertionError("must not be asked")

    x = torch.nn.Parameter(torch.ones(1))
    combiner = Broken()
    tools = make_tools([x])
    combiner.accumulate({("a", "forget"): x.sum() * float("nan"), ("b", "retain"): x.sum()}, tools)
    combiner.finish(tools)
    assert x.grad is not None and not bool(x.grad.isfinite().all())


@pytest.fixture(scope="module")
def composed() -> Any:
    return compose_config("unlearn", ["method=grad_diff", "gradient=gu", "optimizer.betas=[0.0,0.98]"])


@pytest.mark.parametrize(
    ("combiner", "changes", "told"),
    [
        (GU, {}, None),
        (GU, {"optimizer.betas": [0.9, 0.98]}, "optimizer.betas=[0.0,0.98]"),
        (GU, {"optimizer.weight_decay": 0.01}, "optimizer.weight_decay=0.0"),
        (GU, {"optimizer.amsgrad": True}, "optimizer.amsgrad=false"),
        (
            GU,
            {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-3, "betas": [0, 0.9]}},
            "weight_decay=0.0",
        ),
        (
            GU,
            {"optimizer": {"_target_": "torch.optim.SGD", "lr": 1e-3, "momentum": 0.9}},
            "optimizer.momentum=0.0",
        ),
        (GU, {"optimizer": {"_target_": "torch.optim.SGD", "lr": 1e-3}}, None),
        (GU, {"optimizer": {"_target_": "torch.optim.Adagrad", "lr": 1e-3}}, "optimizer=adamw"),
        (GU, {"gradient.when": "conflct"}, "Did you mean 'conflict'"),
        (BLUR, {"gradient": {"upper": "neighbor"}}, "gradient.upper=forget"),
        (BLUR, {"trainer.precision": "16-mixed"}, "trainer.precision=bf16-mixed"),
        (BLUR, {"method.response": {"forget": "reference"}}, "method=grad_diff"),
        (MGDA, {"method.response": {"forget": "reference"}, "gradient": {}}, None),
        (PCGrad, {"gradient": {"groups": {"a": ["forget"], "b": ["retain"]}}}, "gradient.groups.a"),
        (NormalizedDifference, {"gradient": {"every": 0}}, "gradient.every=1"),
        (NormalizedDifference, {"gradient": {"min_lr": 1.0}}, "gradient.min_lr"),
    ],
)
def test_pairings_that_cannot_work_are_refused(
    composed: Any, combiner: Any, changes: dict[str, Any], told: str | None
) -> None:
    cfg = composed.copy()
    OmegaConf.set_struct(cfg, False)
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    problems = combiner.problems(cfg)
    assert (problems == []) if told is None else (len(problems) == 1 and told in problems[0])


def test_refused_when_the_configuration_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.betas=\[0\.0,0\.98\]"):
        compose_config("unlearn", ["method=grad_diff", "gradient=gu"])
