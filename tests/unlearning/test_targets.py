"""Sandbox models are made once per content, by the tool's own fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harmonize.data import sandbox
from harmonize.errors import ModelError
from harmonize.unlearning import targets


def config(cache: Path, **dataset: Any) -> Any:
    return OmegaConf.create(
        {
            "dataset": {"name": "toy", **dataset},
            "paths": {"cache_dir": str(cache)},
            "trainer": {"enable_progress_bar": False},
        }
    )


def test_a_model_is_made_once_and_again_when_its_content_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {**sandbox.recipe("sandbox_easy"), "steps": 2, "warmup_steps": 1}
    monkeypatch.setattr(sandbox, "recipe", lambda preset: short)
    cfg, corpus = config(tmp_path, preset="sandbox_easy", world_seed=0), sandbox.load("sandbox_easy", 0)
    first = targets.sandbox_model(cfg, corpus, "sandbox:target")
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert targets.sandbox_model(cfg, corpus, "sandbox:target") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    gold = targets.sandbox_model(cfg, corpus, "sandbox:gold")
    monkeypatch.setattr(sandbox, "recipe", lambda preset: {**short, "steps": 3})
    assert len({first, gold, targets.sandbox_model(cfg, corpus, "sandbox:target")}) == 3


def test_names_that_are_no_sandbox_model(tmp_path: Path) -> None:
    corpus = sandbox.load("sandbox_easy", 0)
    with pytest.raises(ModelError, match="sandbox:target"):
        targets.sandbox_model(config(tmp_path, preset="sandbox_easy"), corpus, "sandbox:targte")
    with pytest.raises(ModelError, match="belongs to the sandbox"):
        targets.sandbox_model(config(tmp_path), corpus, "sandbox:target")
