"""The LightningModule: student, teacher and the weighted sum of terms; one fused student forward a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from harmonize.data.batch import Batch, Row
from harmonize.data.corpus import content_hash
from harmonize.errors import TrainingError
from harmonize.models.head import Head, answer_hidden
from harmonize.objectives.inputs import Outputs
from harmonize.unlearning.controllers import Controller
from harmonize.unlearning.gradient import Combiner
from harmonize.unlearning.steps import StepData, micro_batches
from harmonize.unlearning.terms import Denominators, Term, denominators, losses, top_sizes

if TYPE_CHECKING:
    from harmonize.models.cache import TeacherCache

Log = Callable[[dict[str, float], int], None]
OptimizerFactory = Callable[[Sequence[Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]
ChooseWorst = Callable[[Module, Head, Sequence[Sequence[Row]], int], list[Row]]


class UnlearningModule(L.LightningModule):
    """Trains the student on a method's terms.

    The teacher is never a registered sub-module: it is a cache of what it said, or the student itself with
    its adapters off.

    Args:
        student: Causal LM; parameters with `requires_grad` are trained.
        terms: The method's objectives.
        teacher: Its cache, or None if no term reads it.
        optimizer, scheduler: Factories, called once training starts.
        combiner, controller: Gradient combination and term weights.
        pad_id: Fills padded columns.
        seed: Decides dropout, step by step.
        accumulate: Micro-batches per optimizer step.
        clip: Largest gradient norm, after combination; None = no clipping.
        log: Receives metrics and the number of finished steps.
        log_every: Steps between two logs.
        n_vocab: Valid token ids, where the head has padding rows.
        choose_worst: Picks a row from several candidates (worst-of-n prefills).
    """

    def __init__(
        self,
        student: Module,
        terms: Sequence[Term],
        *,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory,
        combiner: Combiner,
        controller: Controller,
        pad_id: int,
        seed: int,
        teacher: TeacherCache | None = None,
        accumulate: int = 1,
        clip: float | None = None,
        log: Log | None = None,
        log_every: int = 10,
        choose_worst: ChooseWorst | None = None,
        n_vocab: int | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.student = student
        self.terms = list(terms)
        self.pad_id, self.seed, self.accumulate, self.clip = pad_id, seed, accumulate, clip
        # a namespace hides the teacher and the head from Module registration
        self._parts = SimpleNamespace(
            teacher=teacher,
            head=Head.of(student, n_vocab=n_vocab),
            optimizer=optimizer,
            scheduler=scheduler,
            combiner=combiner,
            controller=controller,
            choose_worst=choose_worst,
        )
        self._sizes = top_sizes(terms)
        self._log, self._log_every = log, log_every
        self._timer = SimpleNamespace(tokens=0, since=time.perf_counter())
        self.trainable = [p for p in student.parameters() if p.requires_grad]

    @property
    def controller(self) -> Controller:
        """The controller of the term weights."""
        controller: Controller = self._parts.controller
        return controller

    def configure_optimizers(self) -> Any:
        """Optimizer over the trainable parameters, and its per-step schedule."""
        optimizer = self._parts.optimizer(self.trainable)
        return [optimizer], [self._parts.scheduler(optimizer)]

    def transfer_batch_to_device(self, batch: StepData, device: Any, dataloader_idx: int) -> StepData:
        """Rows are plain Python; their micro-batches are moved when they are made."""
        return batch

    def training_step(self, step: StepData, batch_idx: int) -> None:
        """One optimizer step: forward and backward of every micro-batch, combine, clip, update.

        Raises:
            TrainingError: A term's loss, or the gradient, is not finite; nothing was updated.
        """
        torch.manual_seed(int(content_hash(self.seed, "dropout", step.step)[:15], 16))
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        rows = self._rows(step)
        batches = micro_batches(rows, self.accumulate, self.pad_id)
        total = self._reduce(denominators(self.terms, batches))
        weights = self.controller.weights({t.name: t.weight for t in self.terms}, step.step)
        raw: dict[tuple[str, str], Tensor] = {}
        for batch in batches:
            found = self._forward(batch.to(self.device), total)
            weighted = {
                key: value * (weights[key[0]] * self._factor(*key) * self._world())
                for key, value in found.items()
            }
            self._parts.combiner.accumulate(weighted, self.manual_backward)
            for key, value in found.items():
                raw[key] = raw.get(key, 0.0) + value.detach()
            self._timer.tokens += int(batch.attention_mask.sum())
        self._parts.combiner.finish(self.trainable)
        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.clip if self.clip else math.inf)
        if not math.isfinite(float(norm)) or not all(math.isfinite(float(v)) for v in raw.values()):
            self._refuse(raw, batches, total, step.step)
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        values = {key: float(v) for key, v in raw.items()}
        self.controller.update(values, step.step)
        self._report(values, weights, float(norm), optimizer, step.step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps trained weights only: a frozen base is not copied into every checkpoint."""
        names = {f"student.{n}" for n, p in self.student.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}
        checkpoint["controller"] = self.controller.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the controller; Lightning restores the rest."""
        self.controller.load_state_dict(checkpoint.get("controller", {}))

    def _rows(self, step: StepData) -> list[Row]:
        if all(len(place) == 1 for place in step.places):
            return [place[0] for place in step.places]
        if self._parts.choose_worst is None:
            raise ValueError("several candidate rows, but nothing to choose with")
        parts = self._parts
        chosen: list[Row] = parts.choose_worst(self.student, parts.head, step.places, step.step)
        return chosen

    def _forward(self, batch: Batch, total: Denominators) -> dict[tuple[str, str], Tensor]:
        if self._parts.teacher is not None:
            self._parts.teacher.prepare(batch.cache_index)
        hidden = answer_hidden(self.student, batch)
        outputs = Outputs(batch, hidden, self._parts.head, self._parts.teacher, sizes=self._sizes)
        return losses(self.terms, outputs, batch, total)

    def _factor(self, name: str, role: str) -> float:
        return next(t.roles[role] for t in self.terms if t.name == name)

    def _world(self) -> int:
        return int(self.trainer.world_size)

    def _reduce(self, total: Denominators) -> Denominators:
        """Sums the denominators over ranks; DDP averages gradients, which `_world` undoes."""
        if self._world() == 1:
            return total
        keys = sorted(total)
        values = torch.tensor([total[k] for k in keys], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(values)
        return dict(zip(keys, values.tolist(), strict=True))

    def _refuse(
        self, raw: Mapping[tuple[str, str], Tensor], batches: Sequence[Batch], total: Denominators, step: int
    ) -> None:
        bad = [f"{name}/{role}" for (name, role), v in raw.items() if not math.isfinite(float(v))]
        what = "the loss"
        if not bad:
            bad, what = self._bad_gradients(batches, total), "the gradient"
        raise TrainingError(
            f"Stopped at step {step}: {what} of the term {', '.join(bad) or '(all together)'} is not finite. This "
            "step was not taken, and a checkpoint written before it is kept. Try a lower optimizer.lr, "
            "trainer.gradient_clip_val=1.0, or trainer.precision=32-true."
        )

    def _bad_gradients(self, batches: Sequence[Batch], total: Denominators) -> list[str]:
        """Terms whose own gradient is not finite: each is taken again, alone."""
        bad: dict[str, None] = {}
        for batch in batches:
            found = self._forward(batch.to(self.device), total)
            for (name, role), loss in found.items():
                gradients = torch.autograd.grad(loss, self.trainable, retain_graph=True, allow_unused=True)
                if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
                    bad[f"{name}/{role}"] = None
        return list(bad)

    def _report(
        self,
        raw: Mapping[tuple[str, str], float],
        weights: Mapping[str, float],
        norm: float,
        optimizer: Any,
        step: int,
    ) -> None:
        done = step + 1
        weighted = {k: v * weights[k[0]] * self._factor(*k) for k, v in raw.items()}
        self.log("loss", sum(weighted.values()), prog_bar=True, logger=False, batch_size=1)
        if self._log is None or (done % self._log_every and done != 1):
            return
        now = time.perf_counter()
        metrics = {"train/loss": sum(weighted.values()), "train/grad_norm": norm}
        metrics["train/lr"] = float(optimizer.param_groups[0]["lr"])
        metrics["train/tokens_per_s"] = self._timer.tokens / max(1e-9, now - self._timer.since)
        self._timer.tokens, self._timer.since = 0, now
        if torch.cuda.is_available() and self.device.type == "cuda":
            metrics["train/peak_memory_bytes"] = float(torch.cuda.max_memory_allocated(self.device))
        for (name, role), value in raw.items():
            metrics[f"term/{name}/{role}"] = value
            metrics[f"term_weighted/{name}/{role}"] = weighted[name, role]
        for name, weight in weights.items():
            metrics[f"weight/{name}"] = weight
        self._log(metrics, done)
