"""`harmonize profile`: where the time and memory of a training step of a run would go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import IterableDataset

from harmonize.console import say
from harmonize.data.responses import check_responses
from harmonize.errors import ConfigError
from harmonize.models.lora import adapted_layers
from harmonize.unlearning.adapters import adapt, measure_for
from harmonize.unlearning.fit import fit
from harmonize.unlearning.forward import named_blocks
from harmonize.unlearning.guarding import Guarding
from harmonize.unlearning.setup import load_corpus, prepare_process
from harmonize.unlearning.steps import StepData, StepLoader
from harmonize.unlearning.targets import load_target
from harmonize.unlearning.terms import build_terms
from harmonize.unlearning.training import Parts, build_module, build_parts, build_sampler, step_loader
from harmonize.unlearning.watching import DATA, STAGES, Clock, WatchedModule, step_flops

TRACE, TABLE = "trace.json", "table.md"
WARM_UP = 2


@dataclass(frozen=True)
class Profile:
    """What was found.

    Attributes:
        clock: Seconds and memory of the stages over `steps` steps.
        flops: Predicted FLOPs of one step, by stage.
        steps: Steps measured.
    """

    clock: Clock
    flops: dict[str, float]
    steps: int


def run(cfg: Any, folder: Path, steps: int) -> Profile:
    """Takes a few steps of the run that a configuration describes, and writes what they cost.

    Nothing is evaluated, and the trained model is not kept. The teacher's cache is built, or found, as a run does.

    Args:
        cfg: Checked configuration of `harmonize unlearn`.
        folder: Gets table.md and trace.json (of one step, for chrome://tracing or Perfetto).
        steps: Steps to measure, after two that warm up.

    Raises:
        ConfigError: The method trains nothing, or several devices are configured.
    """
    if cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1:
        raise ConfigError("harmonize profile looks at one device. Add trainer.devices=1 trainer.num_nodes=1.")
    parts = prepare(cfg)
    module = build_module(cfg, parts, lambda *_: None, WatchedModule)
    settings = cfg.trainer.copy()
    settings.update(max_steps=WARM_UP + steps + 1, val_check_interval=0, enable_progress_bar=False)
    parts.loaded.model.train()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    watch = _Watch(module.clock, steps, folder / TRACE)
    fit(
        module,
        lambda start: _Watched(step_loader(parts, start), module.clock),  # type: ignore[arg-type, return-value]
        settings,
        title="profile",
        callbacks=[watch],
    )
    tokens, answers = module.clock.tokens / steps, module.clock.answers / steps
    flops = dict(step_flops(parts.loaded.model, parts.terms, round(tokens), round(answers)))
    found = Profile(module.clock, flops, steps)
    (folder / TABLE).write_text(table(found), encoding="utf-8")
    return found


def prepare(cfg: Any) -> Parts:
    """Model, rows and caches of a run, as `harmonize unlearn` makes them."""
    prepare_process(cfg.trainer)
    torch.manual_seed(cfg.seed)
    corpus = load_corpus(cfg)
    terms = build_terms(cfg.method.objectives, cfg.allow)
    if not terms:
        raise ConfigError(f"method={cfg.method.name} takes no training step, so there is nothing to profile.")
    sampler = build_sampler(cfg, corpus, list(cfg.method.response))
    check_responses(corpus, cfg.method.response)
    guarding = Guarding(cfg, corpus)
    loaded = load_target(cfg, corpus, None, {"load_in_4bit": cfg.peft.load_in_4bit})
    digest = loaded.digest
    named_blocks(loaded.model, terms)
    adapted_layers(loaded.model, cfg.peft)
    student, weights = guarding.student(loaded), None
    if student is loaded:
        measure = measure_for(cfg, loaded, corpus, _forget)
        loaded.model, weights = adapt(loaded.model, cfg.peft, terms, measure, cfg.seed, cfg.allow)
    return build_parts(cfg, corpus, terms, loaded, student, digest, sampler, weights, _forget)


def _forget(_: Path) -> None:
    """No run folder lists the caches; they stay where those of runs are."""


def table(found: Profile) -> str:
    """Markdown: a row for each stage, for the whole step, and what was in it."""
    clock, whole = found.clock, sum(found.clock.seconds.values())
    unit = "ms" if clock.cuda else "CPU ms"
    lines = [
        f"| part | {unit} a step | share | peak memory, MB | GFLOP predicted | GFLOP/s achieved |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    parts: list[tuple[str, float, int, float | None]] = [
        (name, clock.seconds.get(name, 0.0), clock.peak.get(name, 0), found.flops.get(name))
        for name in STAGES
    ]
    parts.append(("whole step", whole, max(clock.peak.values()), sum(found.flops.values())))
    for name, seconds, peak, flops in parts:
        each = seconds / found.steps
        cells = ["", ""] if flops is None else [f"{flops / 1e9:.4g}", f"{flops / 1e9 / max(each, 1e-9):.4g}"]
        lines.append(
            f"| {name} | {1e3 * each:.2f} | {seconds / whole:.1%} | {peak / 1e6:.0f} | {' | '.join(cells)} |"
        )
    tokens, answers = clock.tokens / found.steps, clock.answers / found.steps
    memory = "allocated on the GPU" if clock.cuda else "resident in the process"
    lines += [
        "",
        f"Mean of {found.steps} steps of {tokens:.0f} tokens (padding included) and {answers:.0f} answer positions; "
        f"memory is {memory}.",
    ]
    return "\n".join(lines) + "\n"


class _Watched(IterableDataset[StepData]):
    """A loader whose drawing of rows is charged to the data."""

    def __init__(self, loader: StepLoader[Any], clock: Clock) -> None:
        super().__init__()
        self.loader, self.clock = loader, clock

    def __iter__(self) -> Iterator[StepData]:
        steps = iter(self.loader)
        while True:
            with self.clock.stage(DATA):
                following = next(steps)
            yield following


class _Watch(L.Callback):
    """Warms up, lets the clock run, and traces one more step, which the clock's figures leave out."""

    def __init__(self, clock: Clock, steps: int, trace: Path) -> None:
        self.clock, self.last, self.trace = clock, WARM_UP + steps, trace
        self._kept: tuple[dict[str, float], dict[str, int], int, int] | None = None
        self._profiler: Any = None

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Between two steps."""
        done = trainer.global_step
        if done == WARM_UP:
            self.clock.start_anew()
        if done == self.last:
            clock = self.clock
            self._kept = dict(clock.seconds), dict(clock.peak), clock.tokens, clock.answers
            self._profiler = torch.profiler.profile()
            self._profiler.__enter__()
        if done == self.last + 1:
            self._profiler.__exit__(None, None, None)
            self._profiler.export_chrome_trace(str(self.trace))
            assert self._kept is not None
            self.clock.seconds, self.clock.peak, self.clock.tokens, self.clock.answers = self._kept


def report(found: Profile, folder: Path) -> None:
    """Prints the table, and where the files are."""
    print(table(found))
    for name in (TABLE, TRACE):
        say(f"Wrote {folder / name}")
