"""What a rank other than the first does of a run: it trains, with what the first has measured, cached and decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harmonize.unlearning import ranks
from harmonize.unlearning.adapters import adapt, measure_for
from harmonize.unlearning.guarding import Guarding
from harmonize.unlearning.setup import prepare_process
from harmonize.unlearning.targets import load_target
from harmonize.unlearning.terms import build_terms
from harmonize.unlearning.training import build_parts, build_sampler, train


def follow(cfg: Any, folder: Path) -> dict[str, Any]:
    """Trains beside the first rank; writes nothing.

    Args:
        cfg: Checked configuration of `harmonize unlearn`.
        folder: The run folder.

    Returns:
        Nothing that was measured.
    """
    from harmonize.data.read import read_turn

    if not ranks.of_first(True):  # the first found that there is nothing to do
        return {}
    prepare_process(cfg.trainer)
    torch.manual_seed(cfg.seed)
    corpus = read_turn(cfg)
    terms = build_terms(cfg.method.objectives, cfg.allow)
    ranks.wait()  # the first fills the caches
    loaded = load_target(cfg, corpus, None, {"load_in_4bit": cfg.peft.load_in_4bit})
    digest = loaded.digest
    student = Guarding(cfg, corpus).student(loaded)
    record: Callable[[Path], object] = lambda path: None  # noqa: E731
    weights = None
    if student is loaded:
        measure = measure_for(cfg, loaded, corpus, record)
        loaded.model, weights = adapt(loaded.model, cfg.peft, terms, measure, cfg.seed, cfg.allow)
    sampler = build_sampler(cfg, corpus, list(cfg.method.response))
    parts = build_parts(cfg, corpus, terms, loaded, student, digest, sampler, weights, record)
    train(cfg, parts, lambda: {}, {}, folder / "checkpoints", None)
    return {}
