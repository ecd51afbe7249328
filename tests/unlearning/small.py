"""A run without its evaluation, on a small real model: configuration, statistics, training, edit and repair."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonize.config.compose import compose_config
from harmonize.models.load import LoadedModel
from harmonize.models.lora import apply_peft
from harmonize.models.save import merged_state
from harmonize.unlearning.finish import Finish, build_finish, live
from harmonize.unlearning.setup import load_corpus
from harmonize.unlearning.targets import load_target
from harmonize.unlearning.teaching import build_reference_for
from harmonize.unlearning.terms import build_terms
from harmonize.unlearning.training import Parts, build_sampler, row_factory, train
from tests.unlearning.test_run import write_data

LORA = ("peft=lora", "peft.r=4", "peft.target_modules=[q_proj,down_proj]")


@dataclass
class Small:
    """What a run left.

    Attributes:
        start, trained, final: Parameters before training, after it (adapters merged), and at the end.
        reports: Of the stage after training.
        recorded: Caches that were read or written.
    """

    cfg: Any
    loaded: LoadedModel
    finish: Finish | None
    start: dict[str, Tensor]
    trained: dict[str, Tensor] = field(default_factory=dict)
    final: dict[str, Tensor] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    recorded: list[Path] = field(default_factory=list)


def small_config(shared: Path, folder: Path, *overrides: str) -> Any:
    """The configuration of `harmonize unlearn` on a dozen examples."""
    data = folder / "data"
    if not data.exists():
        write_data(data)
    base = [
        "dataset=local",
        f"dataset.examples={data / 'examples.jsonl'}",
        "dataset.prefill.mode=none",
        "model=hf",
        f"model.name_or_path={shared / 'models' / 'stories260k'}",
        f"paths.cache_dir={folder / 'cache'}",
        "sampler.rows={forget: 2, neighbor: 2, retain: 2}",
        "trainer.max_steps=4",
        "trainer.val_check_interval=0",
        "trainer.checkpoint_every=0",
        "trainer.enable_progress_bar=false",
        "trainer.accelerator=cpu",
    ]
    return compose_config("unlearn", [*base, *overrides])


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in weights.items()}


def small_run(shared: Path, folder: Path, *overrides: str) -> Small:
    """Runs it, in the order of `harmonize unlearn`."""
    torch.set_num_threads(1)
    cfg = small_config(shared, folder, *overrides)
    corpus = load_corpus(cfg)
    terms = build_terms(cfg.method.objectives)
    loaded = load_target(cfg, corpus, None)
    start = copied(live(loaded.model))
    recorded: list[Path] = []
    finish = build_finish(cfg, corpus, loaded, bool(terms), recorded.append)
    run = Small(cfg, loaded, finish, start, recorded=recorded)
    if finish is not None:
        finish.prepare()
        assert all(torch.equal(v, start[n]) for n, v in live(loaded.model).items())
    torch.manual_seed(cfg.seed)
    run.trained = start
    if terms:
        digest = loaded.digest
        loaded.model = apply_peft(loaded.model, cfg.peft)
        factory = row_factory(cfg, loaded, corpus)
        sampler = build_sampler(cfg, corpus, list(cfg.method.response))
        reference = build_reference_for(cfg, corpus, loaded, digest, terms, factory)
        parts = Parts(loaded, corpus, terms, factory, sampler, None, reference)
        train(cfg, parts, dict, {}, folder / "checkpoints", None)
        adapted = hasattr(loaded.model, "peft_config")
        state = merged_state(loaded.model) if adapted else live(loaded.model)
        run.trained = {n: state[n].clone() for n in start}
    if finish is not None:
        run.reports = finish()
    run.final = copied(live(loaded.model)) if not hasattr(loaded.model, "peft_config") else run.trained
    return run
