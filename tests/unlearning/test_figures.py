"""Remembered figures: what is asked of the suite, and what a damaged file does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from omegaconf import OmegaConf

from harmonize.evaluation.prior import question_key
from harmonize.evaluation.report import Report, curve
from harmonize.evaluation.suite import Part
from harmonize.tracking.metric import Metric
from harmonize.unlearning.figures import Evaluations, curves_beside
from tests.evaluation import worlds

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
        corpus: Any = SimpleNamespace(name="world", digest="corpus", scoring=scoring)
        return Evaluations(OmegaConf.create(cfg), corpus)

    return make


MODEL: Any = SimpleNamespace(
    name="small",
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


def test_priors_are_the_log_probability_per_token_of_each_forget_answer(tmp_path: Path) -> None:
    data = worlds.corpus()
    loaded: Any = worlds.llama(data)
    loaded.name, loaded.digest = "small", "model"
    cfg = {
        "suite": {
            "_target_": f"{__name__}.suite",
            "max_examples": None,
            "val_max_examples": None,
            "batch_size": 5,
        },
        "attack": {},
        "dataset": {"prefill": {"depths": [0.5], "eval_depths": [0.3], "heldout_share": 0.0}},
        "teacher": {"instruct_roles": []},
        "paths": {"cache_dir": str(tmp_path)},
        "seed": 0,
        "allow": [__name__.split(".")[0]],
    }
    evaluations = Evaluations(OmegaConf.create(cfg), data)
    found = evaluations.priors(loaded, "test")
    facts = [e for e in data.examples if e.role == "forget" and e.split in ("train", "test")]
    assert len(found) == sum(len(e.phrasings("test")) for e in facts)
    for example in facts[::3]:
        for text in example.phrasings("test"):
            prompt, answer = loaded.renderer.prompt_ids(text), loaded.renderer.answer_ids(example.answer)
            with torch.no_grad():
                logits = loaded.model(torch.tensor([[*prompt, *answer]])).logits[0].double().log_softmax(-1)
            slow = sum(float(logits[len(prompt) - 1 + i, a]) for i, a in enumerate(answer)) / len(answer)
            assert found[question_key(example.fact_id, text)] == pytest.approx(slow, abs=1e-6)
    loaded.model.requires_grad_(False)
    for parameter in loaded.model.parameters():
        parameter.zero_()
    assert evaluations.priors(loaded, "test") == found, "read, not measured again"
    assert not any(
        word in path.read_text()
        for path in (tmp_path / "evaluations").iterdir()
        for word in ("forget0", "hat")
    ), "nothing of the data is told"


@dataclass(frozen=True)
class Looking(Part):
    """Looks into gold."""

    looks_at: ClassVar[tuple[str, ...]] = ("gold",)

    def check(self, corpus: Any, suite: Any) -> str:
        return "rows"

    def measure(self, scene: Any) -> Report:
        gold = scene.beside["gold"].look("states", lambda loaded: loaded)
        return Report({}, curves={"c": curve("p", "layer", "y", [(0.0, Metric(float(gold), 1))])})


def test_figures_depend_on_the_models_beside_and_keep_their_curves(evaluations: Any) -> None:
    opened: list[float] = []

    def looking(digest: str, value: float) -> Any:
        made = evaluations()
        made.parts, made._keys = {"p": Looking()}, {"p": "rows"}

        def open_gold() -> float:
            opened.append(value)
            return value

        made.stand_beside("gold", digest, open_gold)
        made.stand_beside("target", "other", open_gold)  # nobody looks at it
        assert set(made.beside) == {"gold"}
        return made

    first = looking("one", 0.25)
    for each, value in (
        (first, 0.25),
        (first, 0.25),
        (looking("one", 0.5), 0.25),
        (looking("two", 0.5), 0.5),
    ):
        assert each.cached(MODEL, "target").curves["c"]["points"] == [[0.0, value, None, None, 1]]
    assert opened == [0.25, 0.5]
    first.run(MODEL, progress=False)
    assert opened == [0.25, 0.5], "what was found in a model is kept"
    assert evaluations().content(MODEL, "test") != first.content(MODEL, "test")
    assert curves_beside({"result": first.cached(MODEL, "target"), "gold": None})["curves"].keys() == {
        "result"
    }
