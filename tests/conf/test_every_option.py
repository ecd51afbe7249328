"""Every YAML that ships composes, and every function that one names exists with those parameters."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from harmonize.commands.ls import describe
from harmonize.config.compose import COMMANDS, compose_config
from harmonize.config.paths import conf_dir

# What a user has to add to an option before it can run; peft=qlora needs hardware, so it is only composed.
NEEDS = {
    "dataset/tofu": ["dataset.root=.", "model=hf", "model.name_or_path=.", "model.gold=null"],
    "dataset/prepared": ["dataset.root=.", "model=hf", "model.name_or_path=.", "model.gold=null"],
    "rewriter/local": ["rewriter.name_or_path=."],
    "rewriter/server": ["rewriter.model=m"],
    "anchors/written": ["rewriter=local", "rewriter.name_or_path=."],
    "dataset/local": ["dataset.root=.", "model=hf", "model.name_or_path=.", "model.gold=null"],
    "model/hf": ["model.name_or_path=."],
    "experiment/tofu": ["dataset.root=.", "model.name_or_path=."],
    "experiment/tofu_methods": ["dataset.root=.", "model.name_or_path=."],
    "gradient/gu": ["optimizer.betas=[0.0,0.98]"],
    "controller/pdu": ["method=pdu"],
    "controller/dual_ascent": ["method=grad_diff", "+controller.constraints.keep={limit: 1.0, rate: 1.0}"],
    "assistant/truncated": ["guard=logit_offset"],
    "guard/logit_offset": ["assistant=truncated"],
    "sampler/interleaved": ["sampler.sources=[books]"],
    "suite/tofu": ["suite.parts.tofu.root=."],
    "suite/lm_eval": ["suite.parts.lm_eval.tasks=[arc_easy]"],
    "suite/membership": ["suite.parts.membership.holdout=pyproject.toml"],
}
for benchmark in "muse rwku wmdp xstest".split():
    NEEDS[f"suite/{benchmark}"] = [f"suite.parts.{benchmark}.root=."]
# Benchmarks are read from a folder; readers of one's own files compose without one.
for reader in "arc blur dusk mmlu muse rwku tofu wmdp xstest".split():
    NEEDS[f"source/{reader}"] = ["source.root=."]
ONLY_COMPOSED = {"peft/qlora"}
# What an option of another group of the same command needs.
ALSO = {"finetune": ["from_scratch=false"], "prepare": ["source=books", "source.root=."]}
# What a primary config needs beside its defaults.
PRIMARY = {"prepare": ALSO["prepare"], "sequence": ["dataset.requests=2"]}
# Of options that another command than the group's first is for.
COMMAND = {"guard/removed": "evaluate"}
GLOBAL = ("experiment", "hparams_search", "debug", "tuned")


def options() -> list[tuple[str, str]]:
    return [
        (folder.name, path.stem)
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir() and folder.name != "hydra"
        for path in sorted(folder.glob("*.yaml"))
    ]


def belongs(group: str) -> str:
    if group in GLOBAL:
        return "unlearn"
    return next(c for c, node in COMMANDS.items() if group in {f.name for f in fields(node)})


@pytest.mark.parametrize(("group", "option"), options())
def test_option_composes_and_its_targets_match(group: str, option: str) -> None:
    key = f"{group}/{option}"
    overrides = [f"{group}={option}", *NEEDS.get(key, [])]
    if key in ("dataset/tofu", "dataset/local", "dataset/prepared"):
        overrides += ["optimizer.lr=1e-5"]
    extra = ["source.root=."] if group == "source" else ALSO.get(belongs(group), [])
    command = COMMAND.get(key, belongs(group))
    cfg = compose_config(command, [*extra, *overrides], check=key not in ONLY_COMPOSED)
    if group not in GLOBAL and "name" in cfg[group] and group != "hydra":
        assert cfg[group]["name"] == option


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_primary_config_composes(command: str) -> None:
    compose_config(command, PRIMARY.get(command, ()))


@pytest.mark.parametrize(
    "path", sorted(conf_dir().rglob("*.yaml")), ids=lambda p: str(p.relative_to(conf_dir()))
)
def test_files_are_described_and_ready_for_hydra_1_4(path: Path) -> None:
    text = path.read_text()
    assert describe(path), "a description, or a first comment, is what `harmonize ls` shows"
    assert "../" not in text
    yaml.safe_load(text)


def test_every_group_of_the_design_is_there() -> None:
    names = "dataset model peft method teacher sampler gradient controller weighter edit repair optimizer"
    names += (
        " scheduler trainer callbacks suite attack logger tuned experiment hparams_search debug paths hydra"
    )
    names += " assistant guard source rewriter prompts anchors"  # of `harmonize prepare`
    assert set(names.split()) == {p.name for p in conf_dir().iterdir() if p.is_dir()}
    assert not list(conf_dir().rglob("*.yml"))
