"""`harmonize diagnose`: whether the roles' gradients agree on the start model, and how far apart their data are."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from harmonize.config.instantiate import parameters, to_plain
from harmonize.console import counted, say
from harmonize.data.corpus import Corpus
from harmonize.data.views import RowFactory
from harmonize.errors import ConfigError, DataError
from harmonize.guards.saved import warn_of_guard
from harmonize.models.load import LoadedModel
from harmonize.objectives.likelihood import cross_entropy
from harmonize.reporting.heatmap import Panel, draw_heatmaps
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import build_results, write_results
from harmonize.tracking.run_folder import RunFolder
from harmonize.unlearning.cosines import TOTAL
from harmonize.unlearning.roles import GROUPS, ROLES, Diagnosis, Draws, Pair, diagnose
from harmonize.unlearning.setup import load_corpus, plain_config, prepare_process
from harmonize.unlearning.targets import load_target
from harmonize.unlearning.teaching import build_reference_for, build_teacher, instruction_of, needs_teacher
from harmonize.unlearning.terms import Term, build_terms

TABLE, HEATMAP = "table.md", "heatmap.png"
_REFERENCE = dict.fromkeys(ROLES, "reference")


def run(cfg: Any, folder: Path) -> dict[str, Any]:
    """Measures the start model on the data set, and on the one it is compared with.

    Args:
        cfg: Checked configuration of `harmonize diagnose`.
        folder: The run folder; it gets results.json, table.md and heatmap.png.

    Returns:
        Metric values by name, of the data set itself.

    Raises:
        HarmonizeError: Anything a user can mend; the folder's status says so too.
    """
    place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
    with place.running():
        began = time.perf_counter()
        prepare_process(cfg.trainer)
        torch.manual_seed(cfg.seed)
        place.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        sets = [cfg] if cfg.compare is None else [compared(cfg), cfg]
        corpora = [load_corpus(each) for each in sets]
        warn_of_guard(cfg.model.name_or_path)
        loaded = load_target(cfg, corpora[-1], None)
        labels = _labels(sets)
        diagnoses = [
            measure(each, corpus, loaded, label)
            for each, corpus, label in zip(sets, corpora, labels, strict=True)
        ]
        metrics = metrics_of(diagnoses[-1])
        notes = list(dict.fromkeys(note for corpus in corpora for note in corpus.notes))
        results = build_results(
            config=plain_config(cfg),
            seed=cfg.seed,
            metrics=metrics,
            timing={"total": time.perf_counter() - began},
            notes=notes,
            command="diagnose",
            diagnoses=[plain_diagnosis(d) for d in diagnoses],
        )
        write_results(folder, results)
        text = table(diagnoses, cfg)
        place.write_text(TABLE, text)
        draw_heatmaps(
            [panel(d) for d in diagnoses],
            [folder / HEATMAP],
            title=f"Gradient cosines between roles, loss {cfg.loss.value}, mean ± sd over {cfg.draws} draws",
        )
        print(text)
        say(f"Run: {folder}")
        for name in (TABLE, HEATMAP):
            say(f"Wrote {folder / name}")
        say("Next: harmonize unlearn with the same data set")
    return {name: m.value for name, m in metrics.items()}


def compared(cfg: Any) -> Any:
    """The configuration with the data set's other form.

    Raises:
        ConfigError: The reader has neither `rendering` nor `root`, or the other form is this one.
    """
    settings = parameters(cfg.dataset, skip=("name", "prefill"))
    key = next((k for k in ("rendering", "root") if k in settings), None)
    if key is None:
        raise ConfigError(
            f"compare={cfg.compare}: dataset={cfg.dataset.name} has neither a rendering nor a root to change. Leave it "
            "out, or use dataset=sandbox or a data set with a folder."
        )
    if str(settings[key]) == str(cfg.compare):
        raise ConfigError(f"compare={cfg.compare} is dataset.{key} itself. Name another, or leave it out.")
    other = copy.deepcopy(cfg)
    OmegaConf.update(other, f"dataset.{key}", cfg.compare)
    return other


def measure(cfg: Any, corpus: Corpus, loaded: LoadedModel, label: str) -> Diagnosis:
    """One data set's figures.

    Raises:
        DataError: Fewer than two roles are trained on.
    """
    examples = {role: corpus.trained(role) for role in ROLES}
    own = cfg.loss.value != "method"
    terms = [Term("nll", cross_entropy, 1.0, dict.fromkeys(ROLES, 1.0))] if own else _terms(cfg)
    response: Mapping[str, Any] = _REFERENCE if own else to_plain(cfg.method.response)
    examples = {role: found for role, found in examples.items() if found and role in response}
    if len(examples) < 2:
        raise DataError(
            f"{label}: only {', '.join(examples) or 'no role'} has training examples, and there is nothing to compare "
            "it with. Give the data set neighbor or retain examples."
        )
    teacher = None
    if not own and needs_teacher(cfg, terms):
        teacher = build_teacher(cfg, corpus, loaded, loaded.digest, instruction_of(cfg, corpus))

    def factory(response: Mapping[str, Any], **teaching: Any) -> RowFactory:
        limit = getattr(loaded.model.config, "max_position_embeddings", None)
        return RowFactory(
            corpus, loaded.renderer, cfg.dataset.prefill, response, cfg.seed, max_length=limit, **teaching
        )

    plain = factory(_REFERENCE)
    taught = (
        factory(response, teacher_target=teacher.target, cache_start=teacher.start)
        if teacher is not None
        else factory(response)
    )
    reference = build_reference_for(cfg, corpus, loaded, loaded.digest, terms, taught, opened=True)
    draws = Draws(
        cfg.rows, cfg.share, cfg.draws, cfg.seed, cfg.batch_rows, value_only=cfg.loss.value == "value"
    )
    with counted(f"diagnosing {label}") as bar:
        return diagnose(label, loaded, examples, taught, plain, terms, draws, (teacher, reference), bar)


def metrics_of(found: Diagnosis) -> dict[str, Metric]:
    """Means over draws as metrics, `cosine_<a>_<b>`, `mmd2_<a>_<b>` and `separability_<a>_<b>`; n is rows of a draw."""
    blocks = {"cosine": found.cosines[TOTAL], "mmd2": found.mmd2, "separability": found.accuracy}
    return {
        f"{name}_{a}_{b}": Metric(
            mean_sd(values)[0], min(found.rows[a][0], found.rows[b][0]), higher_is_better=name == "cosine"
        )
        for name, block in blocks.items()
        for (a, b), values in block.items()
        if math.isfinite(mean_sd(values)[0])
    }


def plain_diagnosis(found: Diagnosis) -> dict[str, Any]:
    """Every figure of every draw, for `results.json`."""

    def named(block: Mapping[Pair, Sequence[float]]) -> dict[str, list[float]]:
        return {f"{a}~{b}": list(values) for (a, b), values in block.items()}

    return {
        "name": found.name,
        "rows": {g: {"drawn": n, "of": of} for g, (n, of) in found.rows.items()},
        "loss": found.loss,
        "cosines": {layer: named(block) for layer, block in found.cosines.items()},
        "mmd2": named(found.mmd2),
        "accuracy": named(found.accuracy),
    }


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value) of the finite values; NaN if there are none."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return math.nan, math.nan
    return statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else 0.0


def panel(found: Diagnosis) -> Panel:
    """Layers by pairs, the total on top."""
    pairs = list(found.cosines[TOTAL])
    layers = [TOTAL, *(layer for layer in found.cosines if layer != TOTAL)]
    cells = [[mean_sd(found.cosines[layer][pair]) for pair in pairs] for layer in layers]
    return Panel(
        title=found.name,
        rows=layers,
        columns=[f"{a}\n{b}" for a, b in pairs],
        mean=[[mean for mean, _ in row] for row in cells],
        spread=[[sd for _, sd in row] for row in cells],
    )


def table(diagnoses: Sequence[Diagnosis], cfg: Any) -> str:
    """Markdown: one block of rows for each figure, one column for each data set."""
    heads = [d.name for d in diagnoses]
    lines = [
        f"Loss {cfg.loss.value}; mean ± sd over {cfg.draws} draws without replacement (seed {cfg.seed}). "
        "Rows of a draw: "
        + "; ".join(
            f"{d.name} " + ", ".join(f"{g} {n} of {of}" for g, (n, of) in d.rows.items()) for d in diagnoses
        )
        + ".",
        "",
        f"| | {' | '.join(heads)} |",
        f"| --- | {' | '.join(['---:'] * len(heads))} |",
    ]
    pairs = [(a, b) for i, a in enumerate(GROUPS) for b in GROUPS[i + 1 :]]
    for group in GROUPS:
        cells = [_cell(d.loss.get(group, [])) for d in diagnoses]
        if any(cells):
            lines.append(f"| loss, {group} | {' | '.join(c or '–' for c in cells)} |")
    blocks = (
        ("gradient cosine", pairs, [d.cosines[TOTAL] for d in diagnoses]),
        ("MMD²", [*pairs, *((g, g) for g in GROUPS)], [d.mmd2 for d in diagnoses]),
        ("linear classifier", pairs, [d.accuracy for d in diagnoses]),
    )
    for name, wanted, found in blocks:
        for a, b in wanted:
            cells = [_cell(block.get((a, b), [])) for block in found]
            if any(cells):
                what = f"{a} and {b}" if a != b else f"two halves of {a}"
                lines.append(f"| {name}, {what} | {' | '.join(c or '–' for c in cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    mean, sd = mean_sd(values)
    return f"{mean:.3f} ± {sd:.3f}" if math.isfinite(mean) else ""


def _terms(cfg: Any) -> list[Term]:
    return build_terms(cfg.method.objectives, cfg.allow)


def _labels(sets: Sequence[Any]) -> list[str]:
    """The names of the data sets: their rendering or folder, where there is one to tell them apart by."""
    found = []
    for each in sets:
        settings = parameters(each.dataset, skip=("name", "prefill"))
        told = settings.get("rendering") or (settings.get("root") and Path(str(settings["root"])).name)
        found.append(str(told or each.dataset.name))
    return found if len(set(found)) == len(found) else ["before", "after"][: len(found)]
