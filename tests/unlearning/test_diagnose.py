"""Diagnosis: gradients of groups against the plain definition, rows on the value alone, and the whole command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from harmonize.data import sandbox
from harmonize.data.corpus import Corpus
from harmonize.data.views import RowFactory
from harmonize.errors import ConfigError, DataError
from harmonize.models.load import LoadedModel
from harmonize.objectives.likelihood import cross_entropy, gradient_ascent
from harmonize.tracking.results import read_results
from harmonize.unlearning.diagnose import mean_sd, run
from harmonize.unlearning.roles import Draws, diagnose, group_gradient, value_only
from harmonize.unlearning.terms import Term

REFERENCE = dict.fromkeys(("forget", "neighbor", "retain"), "reference")
TERMS = [Term("nll", cross_entropy, 1.0, dict.fromkeys(REFERENCE, 1.0))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the easy sandbox's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    small = {**sandbox.architecture("sandbox_easy"), "hidden_size": 32, "intermediate_size": 48}
    small["num_hidden_layers"] = 2
    place = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(LlamaConfig(**small)).save_pretrained(place)
    sandbox.tokenizer("sandbox_easy").save_pretrained(place)
    return place


def config(folder: Path, *overrides: str) -> Any:
    from harmonize.config.compose import compose_config

    small = [
        "rows=12",
        "draws=2",
        "model=hf",
        f"model.name_or_path={folder}",
        "dataset=sandbox_easy",
        "teacher.max_new_tokens=4",
    ]
    return compose_config("diagnose", [*small, *overrides])


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    from harmonize.models.load import load_model

    return load_model(config(folder).model)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return sandbox.load("sandbox_easy", 0, "raw")


def factory(corpus: Corpus, loaded: LoadedModel) -> RowFactory:
    from omegaconf import OmegaConf

    from harmonize.config.schema import PrefillConfig

    return RowFactory(corpus, loaded.renderer, OmegaConf.structured(PrefillConfig), REFERENCE, seed=0)


def test_a_groups_gradient_is_that_of_the_mean_over_its_tokens(corpus: Corpus, loaded: LoadedModel) -> None:
    rows = [factory(corpus, loaded).row(e) for e in corpus.trained("forget")[:7]]
    parameters = list(loaded.model.parameters())
    total, count = torch.zeros(()), 0
    for row in rows:
        ids = torch.tensor([[*row.prompt, *row.target]])
        labels = torch.tensor([[-100] * len(row.prompt) + list(row.target)])
        total = total + loaded.model(ids, labels=labels).loss * len(row.target)
        count += len(row.target)
    expected = torch.autograd.grad(total / count, parameters)
    for batch_rows in (3, 32):
        found, value = group_gradient(loaded, rows, TERMS, batch_rows)
        assert value == pytest.approx(float(total.detach()) / count, rel=1e-5)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine is not None
            assert torch.allclose(mine, theirs, atol=1e-5)
    assert all(p.grad is None for p in parameters)


def test_weights_and_roles_of_terms_count(corpus: Corpus, loaded: LoadedModel) -> None:
    rows = [factory(corpus, loaded).row(e) for e in corpus.trained("forget")[:3]]
    one, value = group_gradient(loaded, rows, TERMS)
    ascent = [
        Term("ga", gradient_ascent, 0.5, {"forget": 3.0}),
        Term("ce", cross_entropy, 1.0, {"retain": 1.0}),
    ]
    two, other = group_gradient(loaded, rows, ascent)
    assert other == pytest.approx(-1.5 * value, rel=1e-5)
    assert one[0] is not None and two[0] is not None
    assert torch.allclose(two[0], -1.5 * one[0], atol=1e-6)
    none, zero = group_gradient(loaded, rows, ascent[1:])
    assert zero == 0.0 and none == [None] * len(one)


def test_value_only_keeps_the_whole_sequence_but_its_end(corpus: Corpus, loaded: LoadedModel) -> None:
    rows = factory(corpus, loaded)
    e = corpus.trained("forget")[1]
    plain = rows.row(e)
    value = loaded.renderer.answer_ids(e.value)
    for row in (plain, *(rows.row(e, view, ids) for view, ids in rows.candidates(e))):
        cut = value_only(row, e, loaded.renderer)
        assert cut.target == value
        whole = (*row.prefill, *row.target)
        assert whole[: len(cut.prefill) + len(value)] == (*cut.prefill, *value)
    refusing = RowFactory(corpus, loaded.renderer, rows.prefill, dict.fromkeys(REFERENCE, "refusal"), seed=0)
    assert value_only(refusing.row(e), e, loaded.renderer) == refusing.row(e)


def test_draws_have_every_group_layer_and_pair(corpus: Corpus, loaded: LoadedModel) -> None:
    rows = factory(corpus, loaded)
    examples = {role: corpus.trained(role) for role in REFERENCE}
    draws = Draws(rows=10, share=0.8, draws=2, seed=0)
    found = diagnose("x", loaded, examples, rows, rows, TERMS, draws)
    assert found.rows["forget"] == (10, len(examples["forget"]))
    assert list(found.cosines) == ["embedding", "layer 0", "layer 1", "head", "total"]
    assert {len(block) for block in found.cosines.values()} == {6}
    assert all(len(v) == 2 and v[0] != v[1] for v in found.cosines["total"].values())
    assert set(found.accuracy) == set(found.cosines["total"])
    assert len(found.mmd2) == 6 + 4
    # forms differ by role, and any model tells them apart
    assert found.accuracy["forget", "retain"] == [1.0, 1.0]
    assert found.mmd2["forget", "retain"][0] > found.mmd2["forget", "forget"][0]
    assert diagnose("x", loaded, examples, rows, rows, TERMS, draws) == found


def test_mean_and_spread_by_hand() -> None:
    assert mean_sd([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert mean_sd([2.0, math.nan]) == (2.0, 0.0)
    assert math.isnan(mean_sd([])[0])


@pytest.mark.parametrize("loss", ["value", "method"])
def test_the_command_writes_results_table_and_picture(folder: Path, tmp_path: Path, loss: str) -> None:
    cfg = config(folder, "compare=raw", f"loss={loss}", f"paths.cache_dir={tmp_path / 'cache'}")
    values = run(cfg, tmp_path / "run")
    results = read_results(tmp_path / "run" / "results.json")
    assert results.command == "diagnose"
    assert [d["name"] for d in results.extra["diagnoses"]] == ["raw", "qa"]
    assert results.metrics["cosine_forget_retain"].value == values["cosine_forget_retain"]
    draws = results.extra["diagnoses"][1]["cosines"]["total"]["forget~retain"]
    assert sum(draws) / 2 == pytest.approx(values["cosine_forget_retain"])
    assert {"mmd2_forget_retain", "separability_neighbor_prefilled"} <= set(values)
    text = (tmp_path / "run" / "table.md").read_text()
    assert "| | raw | qa |" in text
    assert (tmp_path / "run" / "heatmap.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_what_cannot_be_compared_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compare=qa is dataset\.rendering itself"):
        run(config(folder, "compare=qa"), tmp_path / "a")
    with pytest.raises(DataError, match="Did you mean 'raw'"):
        run(config(folder, "compare=rwa"), tmp_path / "b")
    with pytest.raises(DataError, match="only forget has training examples"):
        run(
            config(folder, "loss=method", "~method.response.neighbor", "~method.response.retain"),
            tmp_path / "c",
        )
