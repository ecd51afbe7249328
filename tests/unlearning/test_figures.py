"""Remembered figures: what is asked of the suite, and what a damaged file does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from harmonize.evaluation.report import Report
from harmonize.tracking.results import Metric
from harmonize.unlearning.figures import Evaluations

asked: list[dict[str, Any]] = []


def suite(loaded: Any, corpus: Any, settings: Any, **arguments: Any) -> Report:
    asked.append(arguments)
    return Report({"forget_accuracy": Metric(0.5, 2, None, None, False)})


def attack(name: str = "x") -> str:
    return f"attack {name}"


@pytest.fixture
def evaluations(tmp_path: Path) -> Any:
    asked.clear()

    def make(seed: int = 0, scoring: str = "contains", **attacks: Any) -> Evaluations:
        cfg = {
            "suite": {"_target_": f"{__name__}.suite"},
            "attack": attacks,
            "dataset": {
                "prefill": {"depths": [0.5], "eval_depths": [0.3], "heldout_share": 0.0, "mode": "none"}
            },
            "teacher": {"instruct_roles": ["forget"]},
            "paths": {"cache_dir": str(tmp_path)},
            "seed": seed,
            "allow": [__name__.split(".")[0]],
        }
        corpus: Any = SimpleNamespace(digest="corpus", scoring=scoring)
        return Evaluations(OmegaConf.create(cfg), corpus)

    return make


MODEL: Any = SimpleNamespace(
    digest="model",
    renderer=SimpleNamespace(digest="renderer"),
    model=torch.nn.Linear(1, 1).requires_grad_(False),
)
MODEL.model.dtype = torch.float32


def test_further_attacks_reach_the_suite_and_the_key(evaluations: Any) -> None:
    plain, further = evaluations(), evaluations(mine={"_target_": f"{__name__}.attack", "name": "mine"})
    for each in (plain, further, further):
        assert each.cached(MODEL, "target").values() == {"forget_accuracy": 0.5}
    further.run(MODEL, axes=("forget",))
    assert [a.get("attacks") for a in asked] == [None, ["attack mine"], None]


def test_damaged_figures_are_measured_again(evaluations: Any, tmp_path: Path) -> None:
    evaluations().cached(MODEL, "target")
    (file,) = (tmp_path / "evaluations").iterdir()
    for junk in ("", "{}", '{"metrics": {"a": 3}, "outcomes": {}, "notes": []}'):
        file.write_text(junk)
        assert evaluations().cached(MODEL, "target").values() == {"forget_accuracy": 0.5}
    assert len(asked) == 4


def test_a_seed_measures_nothing_again_and_another_scoring_does(evaluations: Any) -> None:
    for settings in ({"seed": 0}, {"seed": 1}, {"scoring": "rouge"}):
        evaluations(**settings).cached(MODEL, "target")
    assert [a["seed"] for a in asked] == [0, 0]
