"""DeepSpeed's ZeRO: optimizer states (stage 1) and gradients (stage 2) in shares, weights whole on every rank.

Rajbhandari et al. 2020, arXiv 1910.02054. The engine is DeepSpeed's own, by way of Lightning's strategy; it clips, and
takes the step that the gradient combination asks for. Nothing of it is imported before a run wants it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor
from torch.nn import Parameter

from harmonize.errors import TrainingError
from harmonize.unlearning import ranks
from harmonize.unlearning.engine import Engine

STAGES = {"deepspeed_stage_1": 1, "deepspeed_stage_2": 2}
_BUCKET = (
    50_000_000  # gradients brought together at once, 200 MB of float32 (our choice; DeepSpeed's takes 2 GB)
)


def zero(stage: int, module: Any, cpu: bool) -> ZeroStrategy:
    """The strategy of a stage.

    Args:
        stage: 1 or 2.
        module: What it is to train; its `clip` and the size of `trainable` are read.
        cpu: Whether the ranks train on processors, whatever else the machine has.
    """
    if cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when DeepSpeed is imported
    bucket = min(_BUCKET, sum(p.numel() for p in module.trainable))
    config = {
        "train_micro_batch_size_per_gpu": 1,  # for its own log alone: losses are divided by what they count already
        "gradient_clipping": module.clip or 0.0,
        "zero_allow_untested_optimizer": True,  # torch's own, which needs nothing compiled
        "zero_optimization": {"stage": stage, "reduce_bucket_size": bucket},
    }
    return ZeroStrategy(config=config)


class Zero(Engine):
    """Gradients in DeepSpeed's hands.

    Stage 1 needs them whole until the step: they are brought together once, parameter by parameter, zeros where a rank
    has none. Stage 2 brings them together while a backward pass goes on and lets go of what is not its own, which
    takes ranks whose losses reach the same parameters in the same order: they compare that before each pass.
    """

    @contextmanager
    def accumulating(self, passes: int) -> Iterator[None]:
        """Around the backward passes of one step; after it, every rank holds its share of the gradients."""
        self._passes = self._left = passes
        if self._divides:
            yield
            return
        with self.wrapped.coalesce_grad_reduction():
            try:
                yield
            finally:  # all ranks bring together the same, even if one is about to raise
                self._fill()

    def backward(self, loss: Tensor) -> None:
        """Backward pass of this rank's rows."""
        if self._divides:
            self._compare(loss)
            self._left -= 1
            self.wrapped.set_gradient_accumulation_boundary(self._left == 0)
        self.module.manual_backward(loss)

    def clip(self, scale: float) -> float:
        """The gradient's norm; the optimizer's step is what clips."""
        norm = float(self.wrapped.optimizer.scaled_global_norm())
        self.wrapped.set_gradient_accumulation_boundary(True)
        return norm if norm >= 0 else math.inf  # it says -1 for what is not finite

    @property
    def _divides(self) -> bool:
        return bool(self.wrapped.zero_optimization_partition_gradients())

    def _fill(self) -> None:
        optimizer = self.wrapped.optimizer
        for parameter in self.module.trainable:
            if optimizer.get_gradient_for_reduction(parameter) is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.backward_epilogue()  # to where it accumulates in higher precision, if it does

    def _compare(self, loss: Tensor) -> None:
        own = (self._passes, reached(loss, self.module.trainable))
        if ranks.any_of(ranks.of_first(own) != own):
            raise TrainingError(
                "The ranks' losses reach different weights in this step, and deepspeed_stage_2 would wait for ever. "
                "Use trainer.strategy=deepspeed_stage_1. This step was not taken."
            )


def reached(loss: Tensor, parameters: Sequence[Parameter]) -> tuple[int, ...]:
    """Places of the parameters that a loss's backward pass reaches, in the order of its graph."""
    places = {id(p): n for n, p in enumerate(parameters)}
    found: list[int] = []
    open_, seen = [loss.grad_fn], {loss.grad_fn}
    while open_:
        node: Any = open_.pop()
        if node is None:
            continue
        place = places.get(id(getattr(node, "variable", None)))
        if place is not None:
            found.append(place)
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                open_.append(following)
    return tuple(found)


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's strategy, on processors as well, and with the module as it was once training ends."""

    engine = Zero

    def setup_environment(self) -> None:
        """Lightning's own refuses everything but CUDA."""
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Lightning's own wants the devices numbered, which processors are not."""
        if self.root_device.type != "cpu":
            super().setup_distributed()
            return
        import deepspeed

        # would compile a kernel for ranks of one machine, which takes a minute, and load it beside gloo
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(self, model: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
        """Lightning's own passes the device's number on; DeepSpeed takes LOCAL_RANK by itself."""
        import deepspeed

        engine, held, _, _ = deepspeed.initialize(
            config=self.config,
            model=model,
            model_parameters=list(model.trainable),
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, held

    def teardown(self) -> None:
        """Takes DeepSpeed's hooks off, and gives every trained weight its own memory again."""
        module, engine = self.lightning_module, self.model
        if not hasattr(engine, "destroy"):
            super().teardown()
            return
        engine.destroy()
        self.model: Any = module
        super().teardown()  # to main memory, of a GPU: one by one already
        for parameter in module.trainable:
            parameter.grad = None
            if parameter.untyped_storage().nbytes() > parameter.nbytes:
                parameter.data = parameter.data.clone()
