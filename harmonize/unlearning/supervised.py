"""Plain supervised learning on rows: what makes targets, fine-tuned checkpoints, and repairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonize.config.instantiate import call
from harmonize.data.batch import Row
from harmonize.data.sampling import permutation
from harmonize.models.load import LoadedModel
from harmonize.objectives.likelihood import cross_entropy
from harmonize.unlearning.controllers import Fixed
from harmonize.unlearning.fit import fit
from harmonize.unlearning.gradient import Sum
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.optimizers import build_optimizer
from harmonize.unlearning.steps import StepLoader
from harmonize.unlearning.terms import Term

ROLE = "retain"  # rows count alike, whatever they are of: one mean over all tokens of a step
_WINDOW = 8  # steps whose rows are sorted by length together: less padding, nearly the same order


class RowSampler:
    """Every row once an epoch, in batches of similar lengths, as a function of the step alone."""

    def __init__(self, rows: Sequence[Row], size: int, seed: int) -> None:
        self.rows, self.size, self.seed = list(rows), min(size, len(rows)), seed
        self.per_epoch = -(-len(self.rows) // self.size)

    def draw(self, step: int) -> list[Row]:
        """Rows of one step."""
        epoch, place = divmod(step, self.per_epoch)
        window, inside = divmod(place, _WINDOW)
        order = permutation(len(self.rows), self.seed, "finetune", epoch)
        start = window * _WINDOW * self.size
        members = sorted(order[start : start + _WINDOW * self.size], key=lambda i: (self.rows[i].length, i))
        batches = [members[i : i + self.size] for i in range(0, len(members), self.size)]
        chosen = batches[permutation(len(batches), self.seed, "window", epoch, window)[inside]]
        return [self.rows[i] for i in chosen]


def learn(
    loaded: LoadedModel,
    rows: Sequence[Row],
    *,
    batch_rows: int,
    optimizer: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    settings: Any,
    seed: int,
    title: str,
    checkpoints: Path | None = None,
    resume: bool = False,
    log: Any = None,
    allow: Sequence[str] = (),
) -> None:
    """Trains what requires a gradient in `loaded.model`, in place, on the response tokens of `rows`.

    Args:
        loaded: Model and renderer.
        rows: What to learn, of role `ROLE`.
        batch_rows: Rows of one optimizer step.
        optimizer, scheduler: Config nodes.
        settings: The `trainer` configuration.
        seed: Decides order and dropout.
        title: Of the bar.
        checkpoints, resume: As in `fit`.
        log: Receives metrics.
        allow: Further packages whose targets may be called.
    """
    sampler = RowSampler(rows, batch_rows, seed)
    module = UnlearningModule(
        loaded.model,
        [Term("cross_entropy", cross_entropy, 1.0, {ROLE: 1.0})],
        optimizer=lambda parameters: build_optimizer(optimizer, parameters, allow),
        scheduler=lambda o: call(scheduler, optimizer=o, total_steps=settings.max_steps, allow=allow),
        combiner=Sum(),
        controller=Fixed(),
        pad_id=loaded.renderer.pad_id,
        seed=seed,
        accumulate=settings.accumulate_grad_batches,
        clip=settings.gradient_clip_val,
        max_tokens=settings.max_tokens_per_batch,
        compile_blocks=settings.compile,
        log=log,
        log_every=settings.log_every_n_steps,
        n_vocab=len(loaded.tokenizer),
    )
    loaded.model.train()
    fit(
        module,
        lambda start: StepLoader(sampler, lambda row: [row], start),
        settings,
        title=title,
        checkpoints=checkpoints,
        resume=resume,
    )
    loaded.model.eval()
