"""`harmonize evaluate`: any checkpoint, any data set, any suite."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from harmonize.console import say
from harmonize.evaluation.beside import GOLD, TARGET
from harmonize.evaluation.proof import proof_notes
from harmonize.evaluation.vllm_surface import served
from harmonize.models.load import LoadedModel
from harmonize.reporting.layer_curves import RESULT, write_curves
from harmonize.reporting.one_run import run_table
from harmonize.tracking.loggers import build_tracker
from harmonize.tracking.results import build_results
from harmonize.tracking.run_folder import RunFolder
from harmonize.unlearning.figures import Evaluations, curves_beside, raise_failures
from harmonize.unlearning.guarding import Guarding, guard_notes
from harmonize.unlearning.kept import check_vocabulary, kept_report
from harmonize.unlearning.run import say_sensitive
from harmonize.unlearning.setup import load_corpus, plain_config, prepare_process, same_configuration
from harmonize.unlearning.targets import load_target
from harmonize.unlearning.teaching import instruction_of


def _as_it_is(loaded: LoadedModel, model: Any, memory: float) -> AbstractContextManager[Any]:
    return nullcontext(model)


# (the loaded model, what is measured, a share of the GPU's memory) -> what answers, while the context is open
BACKENDS: Mapping[str, Callable[[LoadedModel, Any, float], AbstractContextManager[Any]]] = {
    "torch": _as_it_is,
    "vllm": served,
}


def run(cfg: Any, folder: Path) -> dict[str, Any]:
    """Evaluates `model.name_or_path` on the data set and writes results.json and samples.jsonl.

    Args:
        cfg: Checked configuration of `harmonize evaluate`.
        folder: The run folder.

    Returns:
        Metric values by name.
    """
    place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
    with place.running():
        began = time.perf_counter()
        prepare_process(cfg.trainer)
        torch.manual_seed(cfg.seed)
        same_configuration(cfg, place)
        place.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        corpus = load_corpus(cfg)
        guarding = Guarding(cfg, corpus)
        evaluations = Evaluations(cfg, corpus)  # data that the suite lacks stops the run here
        loaded = load_target(cfg, corpus, None)
        beside = load_target(cfg, corpus, cfg.model.gold) if cfg.model.gold else None
        if beside is not None:
            check_vocabulary(loaded, beside, "model.gold")
            evaluations.stand_beside(GOLD, beside.digest, lambda: beside)
        before = load_target(cfg, corpus, cfg.target) if cfg.target else None
        if before is not None:
            check_vocabulary(loaded, before, "target")
            evaluations.stand_beside(TARGET, before.digest, lambda: before)
        model = guarding.measured(loaded)
        instruction = instruction_of(cfg, corpus) if cfg.instructed else None
        untouched, priors = None, {}
        # gold first: the others may be compared with its rows
        gold = evaluations.cached(beside, "gold model", cfg.split) if beside is not None else None
        evaluations.refer_to(gold)
        if before is not None:
            untouched = evaluations.cached(before, "target", cfg.split)
            priors = evaluations.priors(before, cfg.split)
        with BACKENDS[cfg.backend](loaded, model, cfg.backend_memory) as speaking:
            report, kept = kept_report(
                cfg, evaluations, loaded, speaking, instruction, place.record_sensitive
            )
        by_prior = evaluations.by_prior(report, priors)
        report.write_samples(place.samples)
        config = plain_config(cfg)
        results = build_results(
            config=config,
            seed=cfg.seed,
            timing={"total": time.perf_counter() - began},
            metrics=dict(report.metrics),
            target_metrics=untouched.metrics if untouched else {},
            gold_metrics=gold.metrics if gold else {},
            outcomes=dict(report.outcomes),
            command="evaluate",
            notes=[
                *corpus.notes,
                *report.notes,
                *guard_notes(model),
                *proof_notes(report.metrics, untouched.metrics if untouched else None),
            ],
            attack_costs=report.costs,
            prior_strength=by_prior,
            **evaluations.record(report),
            **curves_beside({RESULT: report, TARGET: untouched, GOLD: gold}),
            data=corpus.digest,
            from_cache=kept is not None,
        )
        place.write_json("results.json", results.to_dict())
        drawn = write_curves(results, folder)
        tracker = build_tracker(config, folder, job_type="evaluate")
        tracker.summary(report.metrics)
        lines = tracker.close()
        run_table(results)
        for line in (f"Run: {folder}", *(f"Wrote {path}" for path in drawn), *lines):
            say(line)
        say_sensitive(place)
        raise_failures(report)
    return {k: m.value for k, m in report.metrics.items()}
