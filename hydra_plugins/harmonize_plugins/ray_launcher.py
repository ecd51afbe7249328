"""`hydra/launcher=ray`: jobs on a Ray cluster, here or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RayLauncher(Launcher):
    """Hands Hydra's jobs to `harmonize.sweeps.ray_jobs`.

    Args:
        settings: See `harmonize.sweeps.ray_jobs.launch`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra gives."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a batch of jobs."""
        from harmonize.sweeps.ray_jobs import launch

        parts = (self.hydra_context, self.task_function, self.config)
        return launch(parts, job_overrides, initial_job_idx, **self.settings)
