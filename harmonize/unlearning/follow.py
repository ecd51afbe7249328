"""What a rank other than the first does of a run: it trains, with what the first has measured, cached and decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harmonize.data.corpus import Corpus
from harmonize.models.load import LoadedModel
from harmonize.models.lora import form_of_peft
from harmonize.objectives.weights import Weights
from harmonize.unlearning import ranks
from harmonize.unlearning.adapters import adapt, measure_for
from harmonize.unlearning.guarding import Guarding
from harmonize.unlearning.setup import SHARDED, prepare_process
from harmonize.unlearning.sharded import FSDP2
from harmonize.unlearning.targets import load_target
from harmonize.unlearning.terms import Term, build_terms
from harmonize.unlearning.together import divide, together
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
    if cfg.trainer.strategy == FSDP2:
        _in_shares(cfg, corpus, terms, folder)
        return {}
    ranks.wait()  # the first fills the caches
    loaded = load_target(cfg, corpus, None, {"load_in_4bit": cfg.peft.load_in_4bit})
    digest = loaded.digest
    student = Guarding(cfg, corpus).student(loaded)
    weights = None
    if student is loaded:
        measure = measure_for(cfg, loaded, corpus, _forget)
        loaded.model, weights = adapt(loaded.model, cfg.peft, terms, measure, cfg.seed, cfg.allow)
    _train(cfg, corpus, terms, loaded, student, digest, weights, folder)
    return {}


def _in_shares(cfg: Any, corpus: Corpus, terms: Sequence[Term], folder: Path) -> None:
    """With a share of the model, and a hand in whatever the first asks it."""
    ranks.wait()  # the first has made the model and its caches
    loaded = load_target(cfg, corpus, None, empty=True)
    loaded.model = form_of_peft(loaded.model, cfg.peft)
    divide(cfg, loaded)
    if cfg.model.device == SHARDED:
        with together(loaded.model):
            pass  # the first measures the start model
    _train(cfg, corpus, terms, loaded, loaded, loaded.digest, None, folder)
    if cfg.model.device == SHARDED:
        with together(loaded.model):
            pass  # and the result


def _train(
    cfg: Any,
    corpus: Corpus,
    terms: Sequence[Term],
    loaded: LoadedModel,
    student: LoadedModel,
    digest: str,
    weights: Weights | None,
    folder: Path,
) -> None:
    sampler = build_sampler(cfg, corpus, list(cfg.method.response))
    parts = build_parts(cfg, corpus, terms, loaded, student, digest, sampler, weights, _forget)
    train(cfg, parts, lambda: {}, {}, folder / "checkpoints", None)


def _forget(path: Path) -> None:
    """What the first records."""
