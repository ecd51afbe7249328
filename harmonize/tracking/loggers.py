"""Where numbers go while a run is on: a CSV file, TensorBoard, Weights & Biases, several or none.

One small interface (`log`, `summary`, `close`). Only numbers and the resolved configuration are ever passed
on; what a model says stays in the run folder, unless the user asks for the samples to be uploaded.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonize.console import warn
from harmonize.errors import RunError
from harmonize.tracking.files import PRIVATE_FILE, DiskError, disk_error, make_folder, write_text
from harmonize.tracking.run_folder import METRICS_CSV, TENSORBOARD, WANDB
from harmonize.tracking.tracker import STEP, Tracker, number, without_home
from harmonize.tracking.wandb_tracker import WANDB_MODES, Mode, WandbTracker

__all__ = ["STEP", "WANDB_MODES", "CSVTracker", "Mode", "Tracker", "Trackers", "WandbTracker", "build_tracker",
           "read_metrics", "without_home"]  # fmt: skip


class CSVTracker(Tracker):
    """`metrics.csv` in long form (`step,name,value`): append-only, so that a killed run leaves a readable
    file.

    In pandas: `read_csv(path).pivot_table(index="step", columns="name", values="value")`.

    Args:
        path: The file.
        resume_step: Keep the rows of an earlier run up to this step and drop the later ones, which the
            resumed run computes again; None starts a new file.

    Raises:
        RunError: The disk is full or the folder unwritable.
    """

    def __init__(self, path: str | Path, resume_step: int | None = None) -> None:
        self.path = Path(path)
        make_folder(self.path.parent)
        kept = (
            [] if resume_step is None else [row for row in read_metrics(self.path) if row[0] <= resume_step]
        )
        write_text(self.path, _csv([("step", "name", "value"), *kept]))
        try:
            flags = os.O_WRONLY | os.O_APPEND
            self._file: io.FileIO | None = io.FileIO(os.open(self.path, flags, PRIVATE_FILE), "a")
        except OSError as error:
            raise disk_error(self.path, error) from error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Appends the rows of one call in one write.

        Raises:
            RunError: The disk is full.
        """
        if self._file is None:
            raise RunError(f"{self.path}: logged to after it was closed.")
        try:
            self._file.write(_csv([(step, name, number(value)) for name, value in metrics.items()]).encode())
        except OSError as error:
            raise disk_error(self.path, error) from error

    def close(self) -> list[str]:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        return []


def _csv(rows: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_metrics(path: str | Path) -> list[tuple[int, str, float]]:
    """(step, name, value) rows of a `metrics.csv`; a last line cut short by a kill is left out."""
    path = Path(path)
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.endswith("\n"):  # cut short: "0.12" may be the start of "0.123"
        text = text[: text.rfind("\n") + 1]
    rows = []
    for row in csv.reader(io.StringIO(text)):
        try:
            step, name, value = row
            rows.append((int(step), name, float(value)))
        except ValueError:
            continue
    return rows


class Trackers(Tracker):
    """Several loggers as one."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers in every logger."""
        for tracker in self.trackers:
            tracker.log(metrics, step)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Records final numbers in every logger."""
        for tracker in self.trackers:
            tracker.summary(values)

    def close(self) -> list[str]:
        """Finishes every logger, also when one of them fails."""
        lines: list[str] = []
        for tracker in self.trackers:
            lines += tracker.close()
        return lines


def build_tracker(
    config: Mapping[str, Any],
    folder: str | Path,
    *,
    job_type: str = "unlearn",
    resume_step: int | None = None,
) -> Trackers:
    """The loggers a run's `logger` settings ask for.

    Args:
        config: The whole resolved configuration as plain containers (`logger`, `study`, `job`, ...).
        folder: The run folder.
        job_type: W&B's job type: the command.
        resume_step: Step a resumed run continues after, or None.

    Raises:
        ConfigError: An unknown W&B mode.
        RunError: A logger cannot start.
    """
    folder = Path(folder)
    settings = config.get("logger") or {}
    trackers: list[Tracker] = []
    if settings.get("csv", True):
        trackers.append(CSVTracker(folder / METRICS_CSV, resume_step=resume_step))
    if settings.get("tensorboard", False):
        from harmonize.tracking.tensorboard import TensorBoardTracker

        trackers.append(TensorBoardTracker(folder / TENSORBOARD, resume_step=resume_step))
    wandb_settings = settings.get("wandb") or {}
    if wandb_settings.get("enabled", False) and wandb_settings.get("mode", "offline") != "disabled":
        try:
            trackers.append(_wandb(config, wandb_settings, folder, job_type, resume_step))
        except DiskError as error:
            if wandb_settings.get("mode", "offline") != "offline":
                Trackers(trackers).close()
                raise
            warn(f"The run goes on without W&B: {error}")
        except BaseException:
            Trackers(trackers).close()
            raise
    return Trackers(trackers)


def _wandb(
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    folder: Path,
    job_type: str,
    resume_step: int | None,
) -> WandbTracker:
    """One W&B run for each job; a resumed job goes on in its own."""
    id_file = folder / WANDB / "run_id"
    earlier = id_file.read_text().strip() if resume_step is not None and id_file.is_file() else None
    tracker = WandbTracker(
        folder,
        config,
        mode=settings.get("mode", "offline"),
        project=settings.get("project", "harmonize"),
        entity=settings.get("entity"),
        group=settings.get("group") or config.get("study"),
        job_type=job_type,
        name=config.get("job") or folder.name,
        tags=_tags(config),
        run_id=earlier or None,
        upload_samples=settings.get("upload_samples", False),
    )
    try:
        write_text(id_file, tracker.run_id + "\n")
    except BaseException:
        tracker.close()
        raise
    return tracker


def _tags(config: Mapping[str, Any]) -> list[str]:
    """Method, data set and model, then the user's own."""
    named = [
        (config.get("method") or {}).get("name"),
        (config.get("dataset") or {}).get("name"),
        Path(str((config.get("model") or {}).get("name_or_path") or "")).name,
    ]
    own = ((config.get("logger") or {}).get("wandb") or {}).get("tags") or []
    return list(dict.fromkeys(str(tag) for tag in [*named, *own] if tag))
