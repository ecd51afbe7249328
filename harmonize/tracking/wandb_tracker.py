"""Weights & Biases through its own client."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, get_args

from harmonize.errors import ConfigError, RunError
from harmonize.tracking.files import disk_error, make_folder
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import RESULTS, SAMPLES, plain, read_results
from harmonize.tracking.run_folder import WANDB
from harmonize.tracking.tracker import STEP, Tracker, number, without_home
from harmonize.tracking.uploads import AXES_COLUMNS, axes_rows, copies, references, sample_rows

log = logging.getLogger(__name__)

Mode = Literal["offline", "online", "disabled"]
WANDB_MODES = get_args(Mode)
_DATA_DIR = "WANDB_DATA_DIR"  # where the client keeps what it uploads as an artifact
_ROOM = 2**20  # bytes
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class WandbTracker(Tracker):
    """Weights & Biases through its own client, offline unless put online; one W&B run for each job.

    Private by design: no console capture, code, git, requirements, host or user name, and no system metrics;
    the configuration's paths lose the home directory. When a run has ended it gets the five axes as a table beside
    the references, a table of samples, and its configuration and results as an artifact. What was asked and said is
    in that table, and `samples.jsonl` uploaded, only if `upload_samples`. Everything stays below the run folder.

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
        except OSError as error:
            raise disk_error(self.folder / WANDB, error) from error
        except wandb.errors.Error as error:
            raise RunError(
                f"W&B could not start in mode {mode}: {error}. Log in with `wandb login` "
                "(or set WANDB_API_KEY), or stay offline with logger.wandb.mode=offline"
            ) from error
        self._taking = True
        self._ended = False
        self._step = 0
        self.run_id = str(self._run.id)
        self._directory = Path(str(self._run.settings.sync_dir))
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers; a client that has died is reported once and left out from there on."""
        self._step = max(self._step, int(step))
        row = {name: number(value) for name, value in metrics.items()}
        self._guarded(lambda: self._run.log({**row, STEP: int(step)}))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final numbers; a `Metric` is recorded as its value, None is left out."""
        numbers = {name: v.value if isinstance(v, Metric) else v for name, v in values.items()}
        kept = {name: plain(v) for name, v in numbers.items() if isinstance(v, bool | int | float)}
        self._guarded(lambda: self._run.summary.update(kept))
        self._ended = True

    def close(self) -> list[str]:
        """Finishes the W&B run. Returns the `wandb sync` line of an offline run."""
        if self._run is None:
            return []
        run = self._run
        samples = self.folder / SAMPLES
        if self.upload_samples and samples.is_file():
            self._guarded(lambda: run.save(str(samples), base_path=str(self.folder), policy="now"))
        if self._ended and (self.folder / RESULTS).is_file():  # those of an earlier run are not this one's
            self._guarded(self._hand_over)
        try:
            run.finish()
        except Exception as error:  # the run's own results are safe; tracking must not undo them
            log.warning("W&B could not finish: %s", error)
        self._run = None
        if self.mode != "offline":
            return []
        lines = [f"W&B is offline. To upload: wandb sync {shlex.quote(str(self._directory))}"]
        # The client drops what it cannot write without a word; its folder may lie on a disk of its own.
        if shutil.disk_usage(self.folder / WANDB).free < _ROOM:
            lines.append(
                f"The disk of {self.folder / WANDB} is full: what W&B kept may be cut short. The run's own files are "
                "whole or missing."
            )
        return lines

    def _hand_over(self) -> None:
        """Axes and samples as tables, the references in the summary, configuration and results as an artifact."""
        import wandb

        results = read_results(self.folder / RESULTS)
        self._run.summary.update(references(results))
        tables = {
            "five_axes": wandb.Table(
                columns=list(AXES_COLUMNS), data=axes_rows(results), allow_mixed_types=True
            )
        }
        if (self.folder / SAMPLES).is_file():
            columns, rows = sample_rows(self.folder / SAMPLES, self.upload_samples)
            tables["samples"] = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        with _kept_below(self.folder / WANDB / "data"):
            self._run.log({**tables, STEP: self._step})
            artifact = wandb.Artifact(f"results-{_NO_NAME.sub('-', self.run_id)}", type="results")
            for path in copies(self.folder, self.folder / WANDB / "artifact"):
                artifact.add_file(str(path), name=path.name, policy="immutable", skip_cache=True)
            self._run.log_artifact(artifact)

    def _guarded(self, action: Callable[[], Any]) -> None:
        if self._run is None or not self._taking:
            return
        try:
            action()
        except Exception as error:
            log.warning("W&B stopped taking numbers (%s); the run goes on without it.", error)
            self._taking = False


@contextmanager
def _kept_below(folder: Path) -> Iterator[None]:
    """The client stages artifacts in the user's data directory unless it is told another place."""
    before = os.environ.get(_DATA_DIR)
    os.environ[_DATA_DIR] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_DATA_DIR, None)
        else:
            os.environ[_DATA_DIR] = before
