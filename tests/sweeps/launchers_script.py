"""A sweep whose jobs only say where they ran, for the launchers. A script, as a user has one; not collected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

from harmonize.commands import jobs
from harmonize.config.paths import conf_dir


def task(cfg: Any) -> int:
    assert jobs.TASKS  # what a job needs is imported where it runs
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "ran").write_text(f"{os.getpid()}")
    if cfg.seed == 13:
        raise jobs.JobFailed("unlucky")
    return int(cfg.seed)


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"
    hydra.main(config_path=str(conf_dir()), config_name="unlearn", version_base="1.3")(task)()
