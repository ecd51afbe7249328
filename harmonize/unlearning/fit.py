"""Running the Lightning trainer for unlearning and fine-tuning alike: bar, graceful stop, exact resume."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader

from harmonize.console import progress_bar, say
from harmonize.errors import Interrupted, RunError
from harmonize.unlearning import ranks
from harmonize.unlearning.callbacks import ResumeCheckpoint
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.sharded import FSDP2, KeepTrained, fsdp2
from harmonize.unlearning.steps import StepLoader
from harmonize.unlearning.zero import STAGES, zero

# Lightning cannot load one file of optimizer states into shares: runs of other strategies start again
RESUMES = ("auto", "ddp")


class Bar(L.Callback):
    """A rich bar over optimizer steps with loss and ETA."""

    def __init__(self, title: str, max_steps: int) -> None:
        self.title, self.max_steps = title, max_steps
        self._bar: Any = None
        self._task: Any = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the bar where training stands."""
        self._bar = progress_bar(extra="loss {task.fields[loss]}")
        self._bar.start()
        self._task = self._bar.add_task(
            self.title, total=self.max_steps, completed=trainer.global_step, loss="-"
        )

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Moves it."""
        loss = trainer.callback_metrics.get("loss")
        shown = "-" if loss is None else f"{float(loss):.4f}"
        self._bar.update(self._task, completed=trainer.global_step, loss=shown)

    def on_train_end(self, *args: Any) -> None:
        """Closes it."""
        self._close()

    def on_exception(self, *args: Any) -> None:
        """Closes it on an error as well, so the message stands on a clean line."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class GracefulStop(L.Callback):
    """Turns the first Ctrl-C (or SIGTERM) into a stop after the current step; a second one is not caught."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, *args: Any) -> None:
        """Takes the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # started in the background: the shell's Ctrl-C is not meant for this process
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: signals are someone else's
                return

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Stops at a step boundary, where weights and optimizer agree."""
        # signals reach ranks at different steps; one that comes while they meet is heard at the next
        if ranks.any_of(self.asked):
            self.asked = trainer.should_stop = True

    def on_train_end(self, *args: Any) -> None:
        """Gives the signals back."""
        self._restore()

    def on_exception(self, *args: Any) -> None:
        """Gives the signals back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def fit(
    module: UnlearningModule,
    loader: Callable[[Callable[[], int]], StepLoader],
    settings: Any,
    *,
    title: str,
    checkpoints: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[L.Callback] = (),
) -> int:
    """Trains until `settings.max_steps` or an early stop.

    Args:
        module: What to train.
        loader: Given a function that says where training stands, makes the step loader.
        settings: The `trainer` configuration.
        title: Of the progress bar.
        checkpoints: Folder of `last.ckpt`, or None to write none.
        resume: Continue from `last.ckpt` if there is one.
        callbacks: Further callbacks.

    Returns:
        Optimizer steps taken in all, earlier sessions of a resumed run included.

    Raises:
        Interrupted: Ctrl-C; the checkpoint was written first.
        TrainingError: A loss that is not finite.
        RunError: The checkpoint cannot be read or written.
    """
    quiet()
    graceful = GracefulStop()
    everything: list[L.Callback] = [*callbacks]
    saver = None
    if checkpoints is not None and settings.strategy in RESUMES:
        saver = ResumeCheckpoint(checkpoints, settings.checkpoint_every)
        everything.append(saver)
    elif resume and ranks.is_first():
        say(f"trainer.strategy={settings.strategy} leaves nothing to resume from: training starts again.")
    if settings.enable_progress_bar and ranks.is_first():
        everything.append(Bar(title, settings.max_steps))
    if settings.strategy == FSDP2 and checkpoints is not None:
        everything.append(KeepTrained(checkpoints))
    # last, so that a look or a save of the same step is done before stopping
    everything.append(graceful)
    device = next(module.student.parameters()).device
    # the teacher's tensors are where the model is, so `auto` must not move the model away from them
    stay = settings.accelerator == "auto" and device.type == "cpu"
    trainer = L.Trainer(
        max_steps=settings.max_steps,
        max_epochs=-1,
        accelerator="cpu" if stay else settings.accelerator,
        devices=settings.devices if ranks.size() > 1 else 1,
        num_nodes=settings.num_nodes if ranks.size() > 1 else 1,
        strategy=strategy(settings.strategy, module, cpu=stay or settings.accelerator == "cpu"),
        use_distributed_sampler=False,
        precision=settings.precision,
        deterministic=settings.deterministic,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=everything,
    )
    steps = loader(lambda: trainer.global_step)
    found = saver.path if saver is not None and resume and saver.path.exists() else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice on workers and loops does not apply here
            trainer.fit(
                module,
                DataLoader(steps, batch_size=None),
                ckpt_path=None if found is None else str(found),
                weights_only=True,
            )
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"The checkpoint {found or checkpoints} cannot be read or written ({error}). What was already "
            "written is kept; free some space, or start anew with overwrite=true."
        ) from error
    finally:
        if not module.sharded and next(module.student.parameters()).device != device:
            module.student.to(device)  # Lightning leaves the model in main memory
    if graceful.asked:
        kept = "the state was saved" if saver is not None else "this part starts again"
        raise Interrupted(
            f"Interrupted after step {trainer.global_step} of {settings.max_steps} ({title}); {kept}. "
            "Continue with the same command and resume=true."
        )
    return int(trainer.global_step)


def strategy(name: str, module: UnlearningModule, cpu: bool) -> Any:
    """Lightning's strategy of that name, as we want it.

    Args:
        name: `trainer.strategy`.
        module: What it is to train.
        cpu: Whether the ranks train on processors.
    """
    if name == FSDP2:
        return fsdp2(ranks.size())
    if name in STAGES:
        return zero(STAGES[name], module, cpu)
    return "ddp" if name == "auto" and ranks.size() > 1 else name


def resumed_step(checkpoints: Path, resume: bool) -> int | None:
    """Step that a resumed run continues after, or None where it starts from the beginning.

    Raises:
        RunError: The checkpoint cannot be read.
    """
    path = checkpoints / "last.ckpt"
    if not (resume and path.exists()):
        return None
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])
    except Exception as error:  # any unreadable file: torch raises many kinds
        raise RunError(f"{path} cannot be read ({error}). Start anew with overwrite=true.") from error


def quiet() -> None:
    """Silences Lightning's greetings; errors still show."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
