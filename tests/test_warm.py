"""What the runs of one process share: one thing a place, by content, lent so that no run sees another's changes."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harmonize import warm
from harmonize.config.compose import compose_config
from harmonize.data.corpus import Corpus, listed
from harmonize.models.load import LoadedModel
from harmonize.unlearning import targets
from harmonize.unlearning.setup import load_corpus
from tests.unlearning.test_run import write_data


class Thing:
    """Something that can be seen to go."""


def test_a_place_holds_one_thing_by_its_key_and_lets_it_go_before_the_next_is_made() -> None:
    with warm.kept():
        first = warm.keep("place", [1], Thing)
        assert warm.keep("place", [1], Thing) is first
        assert warm.keep("other", [1], Thing) is not first
        gone = weakref.ref(first)
        del first

        def next_one() -> Thing:
            gc.collect()
            assert gone() is None
            return Thing()

        second = warm.keep("place", [2], next_one)
        assert warm.keep("place", [2], Thing) is second
        assert warm.keep("place", None, Thing) is not second
        assert warm.keep("place", [2], Thing) is not second
        gone = weakref.ref(warm.keep("place", [2], Thing))
        del second
    gc.collect()
    assert gone() is None


def test_nothing_stays_outside_and_nothing_is_copied() -> None:
    def never(_: Any) -> Any:
        raise AssertionError

    assert warm.keep("place", [1], Thing, lend=never) is not warm.keep("place", [1], Thing, lend=never)


def test_a_note_of_use_in_the_time_of_a_small_file_changes_no_key(tmp_path: Path) -> None:
    small, large = tmp_path / "config.json", tmp_path / "weights"
    small.write_text("{}")
    large.write_bytes(bytes(1 << 17))
    before = warm.files_of(tmp_path)
    os.utime(small, (1, 1))
    assert warm.files_of(tmp_path) == before
    small.write_text("[]")
    changed = warm.files_of(tmp_path)
    assert changed != before
    os.utime(large, (1, 1))
    assert warm.files_of(tmp_path) != changed


def test_what_is_too_large_is_handed_out_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "free_memory", lambda: 400)
    with warm.kept():
        kept = warm.keep("place", [1], Thing, n_bytes=100)
        assert warm.keep("place", [1], Thing, n_bytes=100) is kept
        assert warm.keep("place", [2], Thing, n_bytes=101) is not warm.keep("place", [2], Thing, n_bytes=101)


def test_files_are_told_apart_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "folder" / "a.jsonl"
    file.parent.mkdir()
    file.write_text("a")
    settings = {"root": str(file.parent), "lists": [str(file), 3, None], "text": "no path \0 at all"}
    before = warm.files_of(settings)
    assert before is not None and [name for name, _, _ in before] == [str(file)] * 2
    file.write_text("ab")
    assert warm.files_of(settings) != before
    monkeypatch.setattr(warm, "_MOST_FILES", 0)
    assert warm.files_of(settings) is None


def test_free_memory_is_a_number_of_bytes() -> None:
    assert 1 << 24 < warm.free_memory() < 1 << 50


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Any:
    folder = tmp_path_factory.mktemp("data") / "toy"
    return compose_config(
        "unlearn",
        [
            "dataset=local",
            f"dataset.examples={write_data(folder)}",
            "model=hf",
            f"model.name_or_path={shared / 'models' / 'stories260k'}",
            "model.device=cpu",
        ],
    )


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The folders that weights were loaded from, inside `kept()`."""
    seen: list[str] = []
    load = targets.load_model

    def counted(*args: Any, **kwargs: Any) -> LoadedModel:
        seen.append(kwargs["path"])
        return load(*args, **kwargs)

    monkeypatch.setattr(targets, "load_model", counted)
    with warm.kept():
        yield seen


def target(cfg: Any, name: str | None = None, peft: Any = None) -> LoadedModel:
    return targets.load_target(cfg, Corpus("toy", ()), name, peft)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_run_sees_what_another_did_to_the_model(cfg: Any, loads: list[str], checkpointing: bool) -> None:
    cfg.model.gradient_checkpointing = checkpointing
    first = target(cfg)
    digest, hooks = first.digest, [len(m._forward_hooks) for m in first.model.modules()]
    with torch.no_grad():
        for parameter in first.model.parameters():
            parameter.add_(1.0)
    first.model.train().requires_grad_(False).to(torch.bfloat16)
    first.model.model.layers[0].register_forward_hook(lambda *_: None)
    first.model.generation_config.max_length = 7
    first.model.config.rope_theta = 7.0
    first.model.harmonize = True
    second = target(cfg)
    assert loads == [cfg.model.name_or_path]
    assert second.digest == digest == targets.load_model(cfg.model, path=cfg.model.name_or_path).digest
    assert LoadedModel(second.model, second.tokenizer, second.renderer).digest == digest
    model = second.model
    assert not any(module.training for module in model.modules())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert model.generation_config.max_length != 7 and not hasattr(model, "harmonize")
    assert getattr(model.config, "rope_theta", None) != 7.0
    assert model.get_input_embeddings().weight.requires_grad
    tied = model.config.tie_word_embeddings
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    cfg.model.gradient_checkpointing = False


def test_another_model_is_loaded_anew_and_adapters_are_never_kept(cfg: Any, loads: list[str]) -> None:
    target(cfg)
    target(cfg, peft={"load_in_4bit": False})
    assert len(loads) == 1
    target(cfg, name=cfg.model.name_or_path)  # one that stands beside takes nobody's place
    target(cfg)
    assert len(loads) == 2
    cfg.model.dtype = "bfloat16"
    assert target(cfg).model.dtype == torch.bfloat16
    cfg.model.dtype = None
    assert target(cfg).model.dtype == torch.float32
    assert len(loads) == 4
    adapted = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    torch.manual_seed(0)
    target(cfg, peft=adapted)
    target(cfg, peft=adapted)
    assert len(loads) == 6


def test_the_data_set_is_read_once_until_its_file_changes(cfg: Any) -> None:
    assert load_corpus(cfg) is not load_corpus(cfg)
    with warm.kept():
        first = load_corpus(cfg)
        assert load_corpus(cfg) is first
        path = Path(cfg.dataset.examples)
        lines = path.read_text()
        path.write_text(lines.replace("Where does", "Whereabouts does", 1))
        second = load_corpus(cfg)
        assert second is not first and second.digest != first.digest
        path.write_text(lines)
        assert load_corpus(cfg).digest == first.digest


def test_records_are_listed_as_dataclasses_are(cfg: Any) -> None:
    from dataclasses import asdict

    examples = load_corpus(cfg).examples
    assert listed(examples) == [asdict(e) for e in examples] and listed(()) == []
