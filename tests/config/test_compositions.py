"""Jobs composed together are what each is alone, mistakes included."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import harmonize.config.compositions as compositions
from harmonize.config.compose import compose_config
from harmonize.config.compositions import Compositions
from harmonize.errors import ConfigError

TOGETHER = [  # one composition by Hydra for each set of choices
    ["seed=1", "method=npo", "optimizer.lr=3e-4", "paths.runs=there", "job=mine", "resume=true"],
    ["method=npo", "seed=2", "dataset.prefill.eval_depths=[]", "optimizer.lr=1e-3", "optimizer.lr=2e-3"],
    ["peft=lora", "peft.r=4", "method.objectives.push.weight=0.5", "teacher.instruction='a, b=c'"],
    ["attack=[prefill,relearn]", "suite.max_examples=3", "model.gold=null"],
    ["optimizer.lr=1e-3", "sampler.rows={forget: 2}"],
]
ALONE = [  # left to Hydra
    ["+trainer.nothing=1"],
    ["~suite.parts", "seed=1"],
    ["seed=1,2"],
    ["trainer.max_steps=many", "sede=1", "method=npoo"],
    ["'"],
]
WRONG = [["sampler.rows.forget=-1", "method=npo"], ["trainer.max_steps=0"]]


@pytest.fixture(scope="module")
def together() -> Compositions:
    return Compositions()


@pytest.mark.parametrize("overrides", TOGETHER)
def test_values_are_set_as_hydra_sets_them(together: Compositions, overrides: list[str]) -> None:
    ours, theirs = together._set("unlearn", overrides), compose_config("unlearn", overrides)
    assert OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(theirs)
    for key in ("trainer", "model", "dataset.prefill"):
        nodes = (OmegaConf.select(cfg, key) for cfg in (ours, theirs))
        assert len({OmegaConf.get_type(node) for node in nodes}) == 1
    assert OmegaConf.is_struct(ours)
    assert OmegaConf.to_yaml(together.compose("unlearn", overrides)) == OmegaConf.to_yaml(theirs)


@pytest.mark.parametrize("overrides", [*ALONE, *WRONG])
def test_mistakes_are_told_in_the_same_words(together: Compositions, overrides: list[str]) -> None:
    assert (together._set("unlearn", overrides) is None) == (overrides in ALONE)
    said = []
    for compose in (compose_config, together.compose):
        try:
            said.append(OmegaConf.to_yaml(compose("unlearn", overrides)))
        except ConfigError as error:
            said.append(str(error))
    assert said[0] == said[1]


def test_hydra_composes_once_for_jobs_that_choose_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    count: list[list[str]] = []
    composed = compositions.composed
    monkeypatch.setattr(
        compositions,
        "composed",
        lambda c, o: count.append(list(o)) or composed(c, o),  # type: ignore[func-returns-value]
    )
    found = Compositions()
    first = found.compose("unlearn", ["method=npo", "seed=0"])
    found.compose("unlearn", ["seed=1", "method=npo"])
    found.compose("unlearn", ["seed=1"])
    assert count == [["method=npo"], []]
    assert first.seed == 0
    first.optimizer.lr = 9.0
    assert found.compose("unlearn", ["method=npo"]).optimizer.lr != 9.0


def test_options_of_ones_own_are_found(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.SGD\nmomentum: 0.25\n")
    assert (
        Compositions([tmp_path]).compose("unlearn", ["optimizer=mine", "seed=3"]).optimizer.momentum == 0.25
    )
