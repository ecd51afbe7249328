"""Where numbers go while a run is on: a CSV file, Weights & Biases, both or neither.

One small interface (`log`, `summary`, `close`). Only numbers and the resolved configuration are ever passed
on; what a model says stays in the run folder, unless the user asks for the samples to be uploaded.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast, get_args

from harmonize.errors import ConfigError, RunError
from harmonize.tracking.files import PRIVATE_FILE, disk_error, make_folder, write_text
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import SAMPLES, plain
from harmonize.tracking.run_folder import METRICS_CSV, WANDB

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
Mode = Literal["offline", "online", "disabled"]
WANDB_MODES = get_args(Mode)


class Tracker:
    """Interface of a logger, and the logger that drops everything. Use as a context manager, or call
    `close`.
    """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers under stable names at optimizer step `step`."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Records a run's final numbers (a `Metric` counts as its value)."""

    def close(self) -> list[str]:
        """Finishes; safe to call twice. Returns the lines a user should see."""
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
            self._file.write(_csv([(step, name, _number(value)) for name, value in metrics.items()]).encode())
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


def _number(value: Any) -> float:
    return float(value.item() if hasattr(value, "item") else value)


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


class WandbTracker(Tracker):
    """Weights & Biases through its own client, offline unless put online; one W&B run for each job.

    Private by design: no console capture, code, git, requirements, host or user name, and no system metrics;
    the configuration's paths lose the home directory. Samples are uploaded only if `upload_samples`.

    Args:
        folder: The run folder; W&B writes to its `wandb/`.
        config: The resolved configuration (plain containers).
        mode: offline, online or disabled.
        project, entity, group, job_type, name, tags: W&B's own; group is the study, name the job.
        run_id: Stable over resumes, or None for a new one.
        upload_samples: Also upload `samples.jsonl` when the run closes.

    Raises:
        RunError: W&B is not installed or cannot start (for example online without a login).
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        mode: str = "offline",
        project: str = "harmonize",
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        run_id: str | None = None,
        upload_samples: bool = False,
    ) -> None:
        if mode not in WANDB_MODES:
            raise ConfigError(f"logger.wandb.mode={mode}: expected one of {', '.join(WANDB_MODES)}.")
        self.folder = Path(folder)
        self.mode = mode
        self.upload_samples = upload_samples
        try:
            import wandb
        except ImportError as error:
            raise RunError(
                "W&B is not installed. Install it with: pip install wandb, or turn it off with "
                "logger.wandb.enabled=false"
            ) from error
        make_folder(self.folder / WANDB)
        # A new Settings object for each run: wandb.init writes the run's id into the one it is given.
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            host="",
            username="",
            email="",
            program="",
            program_relpath="",
            program_abspath="",
            x_executable="",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            silent=True,
        )
        try:
            self._run: Any = wandb.init(
                dir=str(self.folder),
                mode=cast(Mode, mode),
                project=project,
                entity=entity,
                group=group,
                job_type=job_type,
                name=name,
                notes="",
                tags=[str(tag)[:64] for tag in tags or []],
                config=without_home(plain(config)),
                id=run_id,
                resume="allow" if run_id and mode == "online" else None,
                reinit="create_new",
                settings=settings,
            )
        except (wandb.errors.Error, OSError) as error:
            raise RunError(
                f"W&B could not start in mode {mode}: {error}. Log in with `wandb login` "
                "(or set WANDB_API_KEY), or stay offline with logger.wandb.mode=offline"
            ) from error
        self._taking = True
        self.run_id = str(self._run.id)
        self._directory = Path(str(self._run.settings.sync_dir))
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers; a client that has died is reported once and left out from there on."""
        row = {name: _number(value) for name, value in metrics.items()}
        self._guarded(lambda: self._run.log({**row, STEP: int(step)}))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final numbers; a `Metric` is recorded as its value, None is left out."""
        numbers = {name: v.value if isinstance(v, Metric) else v for name, v in values.items()}
        kept = {name: plain(v) for name, v in numbers.items() if isinstance(v, bool | int | float)}
        self._guarded(lambda: self._run.summary.update(kept))

    def close(self) -> list[str]:
        """Finishes the W&B run. Returns the `wandb sync` line of an offline run."""
        if self._run is None:
            return []
        run = self._run
        samples = self.folder / SAMPLES
        if self.upload_samples and samples.is_file():
            # `now` copies nothing outside the run folder (an artifact would be staged in the user's data
            # directory).
            self._guarded(lambda: run.save(str(samples), base_path=str(self.folder), policy="now"))
        try:
            run.finish()
        except Exception as error:  # the run's own results are safe; tracking must not undo them
            log.warning("W&B could not finish: %s", error)
        self._run = None
        if self.mode != "offline":
            return []
        return [f"W&B is offline. To upload: wandb sync {shlex.quote(str(self._directory))}"]

    def _guarded(self, action: Callable[[], Any]) -> None:
        if self._run is None or not self._taking:
            return
        try:
            action()
        except Exception as error:
            log.warning("W&B stopped taking numbers (%s); the run goes on without it.", error)
            self._taking = False


def without_home(value: Any) -> Any:
    """`value` with the home directory in its strings replaced by `~` (a home directory carries the user's
    name).
    """
    home = str(Path.home())
    if isinstance(value, str):
        return value.replace(home, "~") if len(home) > 1 else value
    if isinstance(value, Mapping):
        return {key: without_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_home(item) for item in value]
    return value


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
    wandb_settings = settings.get("wandb") or {}
    if wandb_settings.get("enabled", False) and wandb_settings.get("mode", "offline") != "disabled":
        id_file = folder / WANDB / "run_id"
        earlier = id_file.read_text().strip() if resume_step is not None and id_file.is_file() else None
        try:
            tracker = WandbTracker(
                folder,
                config,
                mode=wandb_settings.get("mode", "offline"),
                project=wandb_settings.get("project", "harmonize"),
                entity=wandb_settings.get("entity"),
                group=wandb_settings.get("group") or config.get("study"),
                job_type=job_type,
                name=config.get("job") or folder.name,
                tags=_tags(config),
                run_id=earlier or None,
                upload_samples=wandb_settings.get("upload_samples", False),
            )
            write_text(id_file, tracker.run_id + "\n")
        except BaseException:
            Trackers(trackers).close()
            raise
        trackers.append(tracker)
    return Trackers(trackers)


def _tags(config: Mapping[str, Any]) -> list[str]:
    """Method, data set and model, then the user's own."""
    named = [
        (config.get("method") or {}).get("name"),
        (config.get("dataset") or {}).get("name"),
        Path(str((config.get("model") or {}).get("name_or_path") or "")).name,
    ]
    own = ((config.get("logger") or {}).get("wandb") or {}).get("tags") or []
    return list(dict.fromkeys(str(tag) for tag in [*named, *own] if tag))
