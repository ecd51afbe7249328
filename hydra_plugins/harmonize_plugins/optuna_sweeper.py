"""`hydra/sweeper=optuna`: a search over several objectives, on the optuna library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Hands Hydra's jobs to `harmonize.sweeps.search`.

    Args:
        n_trials, n_jobs, sampler, seed, storage, objectives: See `harmonize.sweeps.search.Search`.
        params: The space, as overrides; those of the command line win.
    """

    def __init__(self, params: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self.params, self.settings = dict(params or {}), settings
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra gives."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the search; returns the trials of the front.

        Raises:
            ConfigError: No trial could run: one in the middle of the space is checked first.
        """
        from pathlib import Path

        from harmonize.sweeps.search import Search
        from harmonize.sweeps.space import middle, written

        assert self.config is not None
        given = {text.partition("=")[0].lstrip("+") for text in arguments}
        own = [f"{key}={value}" for key, value in self.params.items() if str(key) not in given]
        search = Search(Path(str(self.config.hydra.sweep.dir)), [*own, *arguments], **self.settings)
        self._check([*search.fixed, *written(middle(search.space))])

        def launch(batch: Sequence[Sequence[str]], first: int) -> Any:
            self.validate_batch_is_legal(batch)
            jobs = self.launcher.launch(batch, initial_job_idx=first)
            return [None if j.hydra_cfg is None else Path(j.hydra_cfg.hydra.runtime.output_dir) for j in jobs]

        return search.run(launch)

    def _check(self, overrides: Sequence[str]) -> None:
        """Checks a job as it would check itself.

        Raises:
            ConfigError: What is wrong with it.
        """
        from harmonize.config.checks import check_config
        from harmonize.errors import ConfigError

        assert self.config is not None and self.hydra_context is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        if problems := check_config(cfg, str(self.config.hydra.job.config_name)):
            raise ConfigError(problems)
