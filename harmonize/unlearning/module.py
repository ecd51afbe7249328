"""The LightningModule: student, teacher and the weighted sum of terms; one fused student forward a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.nn import Module, Parameter

from harmonize.data.batch import Batch, Row
from harmonize.data.corpus import content_hash
from harmonize.errors import TrainingError
from harmonize.models.body import evaluating
from harmonize.models.compiling import PAD_TO, CompiledBlocks
from harmonize.models.head import Head
from harmonize.models.lora import is_adapter
from harmonize.models.products import fp32_by_default
from harmonize.unlearning import ranks
from harmonize.unlearning.controllers import Controller
from harmonize.unlearning.cosines import TOTAL, add, gradients, pairwise
from harmonize.unlearning.engine import Engine
from harmonize.unlearning.forward import Forward
from harmonize.unlearning.gradient import Combiner, StepTools
from harmonize.unlearning.grouping import NO_ROLE, loss_name
from harmonize.unlearning.sharded import alike, is_sharded, shard, trainable
from harmonize.unlearning.steps import StepData, micro_batches
from harmonize.unlearning.terms import (
    Denominators,
    Term,
    denominators,
    losses,
    weight_figures,
    weight_losses,
)

if TYPE_CHECKING:
    from harmonize.models.cache import TeacherCache
    from harmonize.models.reference import Reference
    from harmonize.objectives.weights import Weights

Log = Callable[[dict[str, float], int], None]
OptimizerFactory = Callable[[Sequence[Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]
ChooseWorst = Callable[[Module, Head, Sequence[Sequence[Row]], int], list[Row]]
Weigh = Callable[[Module, Head, Sequence[Row], int], list[Row]]


class UnlearningModule(L.LightningModule):
    """Trains the student on a method's terms.

    The teacher is never a registered sub-module: it is a cache of what it said, or the student itself with
    its adapters off.

    Args:
        student: Causal LM; parameters with `requires_grad` are trained.
        terms: The method's objectives.
        teacher: Its cache, or None if no term reads it.
        reference: The untouched model's outputs, or None if no term reads them.
        weights: The trained matrices, or None if no term reads them.
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
        weigh: Gives the rows of a step their weights; None = as they are.
        cosines_every: Steps between logs of the cosines between the terms' gradients; 0 = never. Such a step costs a
            backward pass per (term, role) more, and one gradient of memory each.
        max_tokens: Tokens of a micro-batch at most, padding included; None = no limit.
        compile_blocks: Run the student's blocks compiled while it trains.
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
        reference: Reference | None = None,
        weights: Weights | None = None,
        accumulate: int = 1,
        clip: float | None = None,
        log: Log | None = None,
        log_every: int = 10,
        choose_worst: ChooseWorst | None = None,
        n_vocab: int | None = None,
        weigh: Weigh | None = None,
        cosines_every: int = 0,
        max_tokens: int | None = None,
        compile_blocks: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.student = student
        self.terms = list(terms)
        self.pad_id, self.seed, self.accumulate, self.clip = pad_id, seed, accumulate, clip
        # a namespace hides teacher, reference and head from Module registration
        self._parts = SimpleNamespace(
            forward=Forward(student, self.terms, teacher, reference, n_vocab),
            optimizer=optimizer,
            scheduler=scheduler,
            combiner=combiner,
            controller=controller,
            choose_worst=choose_worst,
            weigh=weigh,
            weights=weights,
        )
        self._log, self._log_every, self._cosines_every = log, log_every, cosines_every
        self._max_tokens, self._pad_to = max_tokens, PAD_TO if compile_blocks else 1
        self._compiled: AbstractContextManager[None] = nullcontext()
        if compile_blocks:
            self._compiled = CompiledBlocks(student, dynamic=True)
        self._timer = SimpleNamespace(tokens=0, since=time.perf_counter())
        self._sharded = is_sharded(student)
        self.trainable = trainable(student)
        self._engine = Engine(self)

    @property
    def controller(self) -> Controller:
        """The controller of the term weights."""
        controller: Controller = self._parts.controller
        return controller

    @property
    def sharded(self) -> bool:
        """Whether every rank holds a share of the weights."""
        return self._sharded

    def configure_model(self) -> None:
        """Divides the student where the strategy does so and nobody has; the optimizer then holds shares as well."""
        if self._sharded or not isinstance(self.trainer.strategy, ModelParallelStrategy):
            return
        shard(self.student)
        self.trainable, self._sharded = trainable(self.student), True

    def configure_optimizers(self) -> Any:
        """Optimizer over the trainable parameters, and its per-step schedule."""
        parts = alike(self.trainable)
        optimizer = self._parts.optimizer(parts[0] if len(parts) == 1 else [{"params": p} for p in parts])
        return [optimizer], [self._parts.scheduler(optimizer)]

    def on_train_start(self) -> None:
        """The strategy is set up: it says who holds the gradients."""
        self._engine = getattr(self.trainer.strategy, "engine", Engine)(self)

    def transfer_batch_to_device(self, batch: StepData, device: Any, dataloader_idx: int) -> StepData:
        """Rows are plain Python; their micro-batches are moved when they are made."""
        return batch

    def training_step(self, step: StepData, batch_idx: int) -> None:
        """One optimizer step: forward and backward of every micro-batch, combine, clip, update.

        Raises:
            TrainingError: A term's loss, or the gradient, is not finite; nothing was updated.
        """
        with self._compiled, fp32_by_default():
            self._step(step)

    def _step(self, step: StepData) -> None:
        place = (ranks.rank(),) if ranks.rank() else ()  # ranks draw apart, and one alone as ever
        torch.manual_seed(int(content_hash(self.seed, "dropout", step.step, *place)[:15], 16))
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        rows = self._rows(step)
        if self._parts.weigh is not None:
            rows = self._parts.weigh(self.student, self._parts.forward.head, rows, step.step)
        rows = self._parts.forward.place(rows)
        batches = micro_batches(rows, self.accumulate, self.pad_id, self._max_tokens, self._pad_to)
        total = self._reduce(denominators(self.terms, batches))
        weights = self.controller.weights({t.name: t.weight for t in self.terms}, step.step)
        raw: dict[tuple[str, str], Tensor] = {}
        tools = self._tools(optimizer, batches, total, weights, step.step)
        apart: dict[tuple[str, str], list[Tensor | None]] = {}
        with self._engine.accumulating(len(batches)):
            for batch, found in zip(batches, self._losses(batches, total), strict=True):
                weighted = self._weighted(found, weights)
                if self._cosines_every and step.step % self._cosines_every == 0:
                    self._keep_apart(apart, weighted)
                self._parts.combiner.accumulate(weighted, tools)
                for key, value in found.items():
                    raw[key] = raw.get(key, 0.0) + value.detach()
                self._timer.tokens += int(batch.attention_mask.sum())
        figures = self._parts.combiner.finish(tools)
        scale = self._gradient_scale()
        norm = self._engine.clip(scale or 1.0)
        together = torch.stack([v.reshape(()) for v in raw.values()]).tolist() if raw else []
        values = self._reduce(dict(zip(raw, together, strict=True)))
        # of all ranks: they stop together or not at all. A scaler that overflowed leaves this step out by itself, and
        # tries a smaller scale
        sound = scale is not None or math.isfinite(norm)
        if not sound or not all(math.isfinite(v) for v in values.values()):
            self._refuse(values, batches, total, step.step)
        figures |= self._parts.combiner.take(tools)
        schedule: Any = self.lr_schedulers()
        schedule.step()
        self.controller.update(values, step.step)
        self._report(values, weights, norm, optimizer, step.step)
        more = figures if self._due(step.step) else {}
        if apart:
            more = {**more, **self._cosines(apart)}
        if self._log is not None and more:
            self._log(more, step.step + 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps trained weights and all adapters: a frozen base is not copied into every checkpoint."""
        kept = (n for n, p in self.student.named_parameters() if p.requires_grad or is_adapter(n))
        names = {f"student.{n}" for n in kept}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}
        checkpoint["controller"] = self.controller.state_dict()
        checkpoint["combiner"] = self._parts.combiner.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores controller and combiner; Lightning restores the rest."""
        self.controller.load_state_dict(checkpoint.get("controller", {}))
        self._parts.combiner.load_state_dict(checkpoint.get("combiner", {}))

    def _rows(self, step: StepData) -> list[Row]:
        if all(len(place) == 1 for place in step.places):
            return [place[0] for place in step.places]
        if self._parts.choose_worst is None:
            raise ValueError("several candidate rows, but nothing to choose with")
        parts = self._parts
        chosen: list[Row] = parts.choose_worst(self.student, parts.forward.head, step.places, step.step)
        return chosen

    def _forward(self, batch: Batch, total: Denominators) -> dict[tuple[str, str], Tensor]:
        return losses(self.terms, self._parts.forward(batch), batch, total)

    def _losses(
        self, batches: Sequence[Batch], total: Denominators
    ) -> Iterator[dict[tuple[str, str], Tensor]]:
        """Each micro-batch's losses; those on weights come once, with the first, and ranks share them."""
        for place, batch in enumerate(batches):
            found = self._forward(batch.to(self.device), total)
            if place == 0:
                found |= weight_losses(self.terms, self._parts.weights, 1 / self._world())
            yield found

    def _weighted(
        self, found: Mapping[tuple[str, str], Tensor], weights: Mapping[str, float]
    ) -> dict[tuple[str, str], Tensor]:
        """Times weight and role's factor; DDP averages gradients over ranks, which `_world` undoes."""
        return {k: v * (weights[k[0]] * self._factor(*k) * self._world()) for k, v in found.items()}

    def _tools(
        self,
        optimizer: Any,
        batches: Sequence[Batch],
        total: Denominators,
        weights: Mapping[str, float],
        step: int,
    ) -> StepTools:
        def evaluate() -> dict[tuple[str, str], float]:
            values: dict[tuple[str, str], float] = {}
            with evaluating(self.student), torch.no_grad():
                for found in self._losses(batches, total):
                    for key, value in found.items():
                        factor = weights[key[0]] * self._factor(*key)
                        values[key] = values.get(key, 0.0) + factor * float(value)
            return self._reduce(values)

        return StepTools(step, self.seed, self.trainable, optimizer, self._backward, ranks.average, evaluate)

    def _backward(self, loss: Tensor) -> None:
        """Backward pass of this rank's rows; gradients are those of all ranks before `finish`."""
        self._engine.backward(loss)

    def _keep_apart(
        self, apart: dict[tuple[str, str], list[Tensor | None]], weighted: Mapping[tuple[str, str], Tensor]
    ) -> None:
        """Adds each (term, role)'s own gradient of a micro-batch; graph and `.grad` stay as they are."""
        found = gradients({loss_name(*k): v for k, v in weighted.items()}, self.trainable)
        for key in weighted:
            apart[key] = add(apart.get(key), found[loss_name(*key)])

    def _cosines(self, apart: Mapping[tuple[str, str], list[Tensor | None]]) -> dict[str, float]:
        for gradient in apart.values():
            ranks.average([g for g in gradient if g is not None])
        found = pairwise({loss_name(*k): g for k, g in apart.items()}, [TOTAL] * len(self.trainable))[TOTAL]
        return {f"cosine/{a}|{b}": v for (a, b), v in found.items() if math.isfinite(v)}

    def _factor(self, name: str, role: str) -> float:
        return next(t.roles.get(role, 1.0) for t in self.terms if t.name == name)

    def _world(self) -> int:
        return int(self.trainer.world_size)

    def _gradient_scale(self) -> float | None:
        """What `trainer.precision=16-mixed` multiplies gradients by; None in other precisions."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return None if scaler is None else float(scaler.get_scale())

    def _reduce(self, total: Denominators) -> Denominators:
        """Sums denominators or losses over ranks."""
        if self._world() == 1:
            return total
        # every (term, role) of the method: a rank without a row of one still has a place for it
        keys = sorted({(t.name, role) for t in self.terms for role in (t.roles or [NO_ROLE])} | set(total))
        found = ranks.summed([*(total.get(k, 0.0) for k in keys), *(float(k in total) for k in keys)])
        return {k: v for k, v, n in zip(keys, found, found[len(keys) :], strict=False) if n}

    def _refuse(
        self, raw: Mapping[tuple[str, str], float], batches: Sequence[Batch], total: Denominators, step: int
    ) -> None:
        if (teacher := self._parts.forward.teacher) is not None:
            teacher.check()
        bad = [loss_name(*key) for key, v in raw.items() if not math.isfinite(v)]
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
        for found in self._losses(batches, total):
            for key, loss in found.items():
                gradients = torch.autograd.grad(loss, self.trainable, retain_graph=True, allow_unused=True)
                if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
                    bad[loss_name(*key)] = None
        return list(bad)

    def _due(self, step: int) -> bool:
        """Whether a step is logged: every so many, and the first."""
        return step == 0 or (step + 1) % self._log_every == 0

    def _report(
        self,
        raw: Mapping[tuple[str, str], float],
        weights: Mapping[str, float],
        norm: float,
        optimizer: Any,
        step: int,
    ) -> None:
        weighted = {k: v * weights[k[0]] * self._factor(*k) for k, v in raw.items()}
        self.log("loss", sum(weighted.values()), prog_bar=True, logger=False, batch_size=1)
        if self._log is None or not self._due(step):
            return
        done = step + 1
        now = time.perf_counter()
        metrics = {"train/loss": sum(weighted.values()), "train/grad_norm": norm}
        metrics["train/lr"] = float(optimizer.param_groups[0]["lr"])
        metrics["train/tokens_per_s"] = self._timer.tokens / max(1e-9, now - self._timer.since)
        self._timer.tokens, self._timer.since = 0, now
        metrics |= self._parts.forward.figures()
        if torch.cuda.is_available() and self.device.type == "cuda":
            metrics["train/peak_memory_bytes"] = float(torch.cuda.max_memory_allocated(self.device))
        for key, value in raw.items():
            metrics[f"term/{loss_name(*key)}"] = value
            metrics[f"term_weighted/{loss_name(*key)}"] = weighted[key]
        for name, figures in weight_figures(self.terms, self._parts.weights).items():
            metrics |= {f"term_figure/{name}/{figure}": value for figure, value in figures.items()}
        for name, weight in weights.items():
            metrics[f"weight/{name}"] = weight
        self._log(metrics, done)
