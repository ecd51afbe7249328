"""Dual ascent: multipliers by hand, warm-up and windows, exact resume, configurations that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from harmonize.unlearning.controllers import DualAscent, Scheduled
from tests.unlearning.test_fit import go, weights
from tests.unlearning.toy import make_module

BASE = {"forget": 1.0, "keep": 100.0}


def run(controller: DualAscent, values: list[float]) -> list[float]:
    """The weight of `keep` before each step, whose mean on two roles is the value, and after the last."""
    found = []
    for step, value in enumerate(values):
        found.append(controller.weights(BASE, step)["keep"])
        raw = {("forget", "forget"): -9.0, ("keep", "retain"): value + 1, ("keep", "neighbor"): value - 1}
        controller.update(raw, step)
    return [*found, controller.weights(BASE, len(values))["keep"]]


def test_multipliers_by_hand() -> None:
    keep = {"keep": {"limit": 0.3, "rate": 5.0}}
    assert run(DualAscent(constraints=keep), [0.5, 0.1, 1.3]) == pytest.approx([100, 101, 100, 105])
    assert run(DualAscent(constraints=keep), [-99.0, -99.0, 0.5])[1:] == pytest.approx([0, 0, 1])
    started = {"keep": {"limit": 0.3, "rate": 5.0, "start": 2.0}}
    assert run(DualAscent(constraints=started, max_weight=4), [1.3, 1.3]) == pytest.approx([2, 4, 4])
    assert DualAscent(constraints=keep).weights(BASE, 0)["forget"] == 1.0


def test_warm_up_and_windows() -> None:
    keep = {"keep": {"limit": 0.0, "rate": 1.0}}
    waiting = DualAscent(constraints=keep, warmup_steps=2)
    assert run(waiting, [7, 7, 1, 2]) == pytest.approx([100, 100, 100, 101, 103])
    averaged = DualAscent(constraints=keep, warmup_steps=1, every=2)
    assert run(averaged, [7, 1, 3, 4, 6]) == pytest.approx([100, 100, 100, 102, 102, 107])


def test_a_step_without_the_terms_rows_moves_nothing() -> None:
    controller = DualAscent(constraints={"keep": {"limit": 0.0, "rate": 1.0}})
    controller.weights(BASE, 0)
    controller.update({("forget", "forget"): 5.0}, 0)
    assert controller.weights(BASE, 1)["keep"] == 100


def test_resume_is_exact_in_the_middle_of_a_window(tmp_path: Path) -> None:
    def module(**more: Any) -> Any:
        constraints = {"ce": {"limit": 3.0, "rate": 2.0}}
        return make_module(controller=DualAscent(constraints=constraints, every=3), **more)

    logged: list[float] = []
    whole = module(log=lambda m, s: logged.append(m["weight/ce"]))
    go(whole, 8)
    assert len(set(logged)) == 3 and logged[:3] == [1.0] * 3
    first, second = module(), module()
    go(first, 5, checkpoints=tmp_path)
    assert first.controller.state_dict()["counts"] == {"ce": 2}
    go(second, 8, checkpoints=tmp_path, resume=True)
    assert torch.equal(weights(whole), weights(second))
    assert whole.controller.state_dict() == second.controller.state_dict()


@pytest.mark.parametrize(
    ("controller", "told"),
    [
        ({"constraints": {"keep": {"limit": 0.3, "rate": 1}}}, None),
        ({"constraints": {}}, "+controller.constraints.keep="),
        ({"constraints": {"kepp": {"limit": 0.3, "rate": 1}}}, "Did you mean 'keep'"),
        ({"constraints": {"keep": {"rate": 1}}}, "controller.constraints.keep.limit"),
        ({"constraints": {"keep": {"limit": 1, "rate": -1}}}, "controller.constraints.keep.rate"),
        ({"constraints": {"keep": {"limit": 1, "rate": 1, "step": 1}}}, "controller.constraints.keep.step"),
        (
            {"constraints": {"keep": {"limit": 1, "rate": 1, "start": -1}}},
            "controller.constraints.keep.start",
        ),
        ({"constraints": {"keep": {"limit": 1, "rate": 1}}, "every": 0}, "controller.every=1"),
        ({"constraints": {"keep": {"limit": 1, "rate": 1}}, "warmup_steps": -1}, "controller.warmup_steps"),
        ({"constraints": {"keep": {"limit": 1, "rate": 1}}, "max_weight": 0}, "controller.max_weight"),
    ],
)
def test_constraints_that_cannot_work_are_refused(controller: dict[str, Any], told: str | None) -> None:
    cfg = OmegaConf.create({"controller": controller, "method": {"objectives": {"forget": {}, "keep": {}}}})
    problems = DualAscent.problems(cfg)
    assert (problems == []) if told is None else (len(problems) == 1 and told in problems[0])


def test_a_schedule_of_an_unknown_term_is_refused() -> None:
    cfg = OmegaConf.create(
        {"controller": {"points": {"psh": {0: 1.0}}}, "method": {"objectives": {"push": {}, "gone": None}}}
    )
    assert "Did you mean 'push'" in Scheduled.problems(cfg)[0]
