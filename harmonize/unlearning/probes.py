"""Small probes of the axes every few steps, so that a dip between two looks at val is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L

from harmonize.config.suite_checks import VAL_AXES
from harmonize.errors import ConfigError, did_you_mean
from harmonize.evaluation.stability import stability

Probe = Callable[[int, Sequence[str]], Mapping[str, float]]


class AxisProbes(L.Callback):
    """Asks a few val questions per axis before the first step, every so many steps, and after the last.

    Reports the minimum, windowed drop and recovery of each axis (`harmonize.evaluation.stability.gap`). It chooses
    nothing and changes nothing in training.

    Args:
        probe: Measures the model on so many val questions of these axes; supplied by the run.
        record: Receives `probe/...` metrics; supplied by the run.
        every_n_steps: Steps between probes.
        questions: Facts per axis and kind (used in unlearning, held out), the same in every probe.
        axes: Any of forget, retain, neighbor, asr, utility.
        window: Steps that a windowed drop may span.

    Raises:
        ConfigError: A setting out of range, or an unknown axis.
    """

    def __init__(
        self,
        probe: Probe,
        record: Callable[[dict[str, float], int], None] | None = None,
        *,
        every_n_steps: int = 10,
        questions: int = 16,
        axes: Sequence[str] = ("forget", "retain", "neighbor", "utility"),
        window: int = 50,
    ) -> None:
        problems = [
            f"callbacks.probes.{name}={value}: expected a whole number of at least 1."
            for name, value in (
                ("every_n_steps", every_n_steps),
                ("questions", questions),
                ("window", window),
            )
            if isinstance(value, bool) or not isinstance(value, int) or value < 1
        ]
        problems += [
            f"callbacks.probes.axes: {did_you_mean(str(a), VAL_AXES)}" for a in axes if a not in VAL_AXES
        ]
        if problems:
            raise ConfigError(problems)
        self.probe, self.record, self.every, self.questions = probe, record, every_n_steps, questions
        self.axes, self.window = tuple(axes), window
        self.history: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """For the resume checkpoint."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the resume checkpoint."""
        self.history = list(state_dict["history"])

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Before the first step."""
        if not self.history:
            self._ask(trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """When due."""
        if trainer.global_step % self.every == 0:
            self._ask(trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """After the last step, if that was not due."""
        self._ask(trainer.global_step)

    def _ask(self, step: int) -> None:
        if self.history and self.history[-1]["step"] == step:
            return
        found = dict(self.probe(self.questions, self.axes))
        self.history.append({"step": step, **found})
        if self.record is not None and found:
            self.record({f"probe/{name}": value for name, value in found.items()}, step)

    def report(self) -> dict[str, Any]:
        """For results.json: the gaps of each metric, and the points they come from."""
        return {
            "every_n_steps": self.every,
            "questions": self.questions,
            "window": self.window,
            "metrics": stability(self.history, {}, self.window),
            "points": self.history,
        }
