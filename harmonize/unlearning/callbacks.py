"""Callbacks: resume checkpoints, looks at the val axes with keep-best and early stop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors.torch import load_file, save_file

from harmonize.errors import Rejected, TrainingError
from harmonize.unlearning import ranks

Look = Callable[[], Mapping[str, float]]
Score = Callable[[Mapping[str, float]], tuple[bool, float]]


class ResumeCheckpoint(L.Callback):
    """Writes `last.ckpt` every so many steps, atomically: a kill leaves the previous one whole.

    Args:
        folder: Where `last.ckpt` lives.
        every: Steps between two; 0 = only when training ends.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    @property
    def path(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "last.ckpt"

    def save(self, trainer: L.Trainer) -> None:
        """Writes the checkpoint now."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.folder / "last.ckpt.partial"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.chmod(partial, 0o600)
            os.replace(partial, self.path)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Saves when due."""
        if self.every and trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """A loss that is not finite stops before the update: the state before it is worth keeping."""
        if isinstance(exception, TrainingError) and not self.path.exists():
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Saves the end state, so that a resumed run that was done does nothing again."""
        self.save(trainer)


class ValAxes(L.Callback):
    """Looks at the val axes during training; keeps the best state and stops early.

    Rule: among looks that satisfy the floors, the lowest score wins; a tie goes to the later state, which has seen
    more of what must stay.

    Args:
        look: Measures the axes on val.
        score: Val metrics to (floors satisfied, score); lower is better.
        every: Steps between looks; the last step is always looked at. 0 = never.
        max_steps: Last step.
        folder: Where the best trained weights are kept, or None to keep none.
        patience: Looks without improvement before stopping; 0 = never.
        record: Receives `val/...` metrics.
        below: Val metrics to how far utility lies below its floor; None = no floor.
        floor_patience: Looks in a row below it before the run is given up; 0 = never.

    Raises:
        Rejected: The run was given up.
    """

    def __init__(
        self,
        look: Look,
        score: Score,
        *,
        every: int,
        max_steps: int,
        folder: Path | None,
        patience: int = 0,
        record: Callable[[dict[str, float], int], None] | None = None,
        below: Callable[[Mapping[str, float]], float] | None = None,
        floor_patience: int = 0,
    ) -> None:
        self.below, self.floor_patience, self.low = below, floor_patience, 0
        self.look, self.score, self.every, self.max_steps = look, score, every, max_steps
        self.folder, self.patience, self.record = folder, patience, record
        self.best_step, self.best_score, self.best_ok, self.stale = -1, float("inf"), False, 0
        self.history: list[dict[str, float]] = []

    @property
    def path(self) -> Path | None:
        """File of the best trained weights."""
        return self.folder / "best.safetensors" if self.folder else None

    def state_dict(self) -> dict[str, Any]:
        """For the resume checkpoint."""
        return {
            "best_step": self.best_step,
            "best_score": self.best_score,
            "best_ok": self.best_ok,
            "stale": self.stale,
            "low": self.low,
            "history": self.history,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the resume checkpoint."""
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        """A run that had stopped early before it was resumed has nothing left to train."""
        if self.patience and self.stale >= self.patience:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """Looks when due."""
        step = trainer.global_step
        if not self.every or (step % self.every and step != self.max_steps):
            return
        metrics = dict(self.look()) if ranks.is_first() else {}
        # decided once, for all
        metrics, (ok, score), short = ranks.of_first(
            (metrics, self.score(metrics), self.below(metrics) if self.below else 0.0)
        )
        self.history.append({"step": step, "ok": float(ok), "score": score, **metrics})
        if self.record:
            shown = {f"val/{k}": v for k, v in metrics.items()}
            self.record({**shown, "val/score": score, "val/floors_ok": float(ok)}, step)
        better = ok and (not self.best_ok or score < self.best_score)
        if better or (ok and score == self.best_score):
            self.best_step, self.best_score, self.best_ok = step, score, True
            if self.path is not None and (ranks.is_first() or module.sharded):
                keep(module, self.path)
        self.stale = 0 if better else self.stale + 1
        self._reject(metrics, short, step)
        if self.patience and self.stale >= self.patience:
            trainer.should_stop = True

    def _reject(self, metrics: dict[str, float], short: float, step: int) -> None:
        self.low = self.low + 1 if short > 0 else 0
        if self.floor_patience and self.low >= self.floor_patience:
            raise Rejected(
                f"Given up at step {step}: utility lies {short:.3f} below its floor on val, at {self.low} look(s) in a "
                "row (trainer.utility_floor, trainer.floor_patience).",
                {**metrics, "shortfall": short},
            )


def keep(module: Any, path: Path) -> None:
    """Writes the trained weights of `module.student` to a safetensors file, atomically."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = {}
    for name, parameter in module.student.named_parameters():
        if parameter.requires_grad:
            found = whole(parameter.detach())  # of a sharded student every rank has to help
            if ranks.is_first():
                state[name] = found.to("cpu", copy=True).contiguous()
    if not ranks.is_first():
        return
    partial = path.with_suffix(".partial")
    save_file(state, partial)
    os.chmod(partial, 0o600)
    os.replace(partial, path)


def whole(tensor: Any) -> Any:
    """A tensor, gathered where every rank holds a share of it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def restore(module: Any, path: Path) -> None:
    """Puts weights written by `keep` back into the student, in place."""
    state = load_file(path)
    with torch.no_grad():
        for name, parameter in module.student.named_parameters():
            if name in state:
                parameter.copy_(state[name])
