"""Hydra's jobs as Ray tasks: on a cluster of this machine that ends with them, or on one that is there already.

Hydra's own launcher holds back cloudpickle and brings a cloud provider's client; this needs ray alone.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonize.errors import ConfigError, RunError

_PATIENCE_SECONDS = 5.0
_PASSED_ON = ("HARMONIZE_", "HYDRA_", "WANDB_", "HF_", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")


def launch(
    parts: tuple[Any, Any, Any],
    job_overrides: Sequence[Sequence[str]],
    first: int,
    *,
    address: str | None = None,
    num_cpus: int | None = None,
    cpus_per_job: float = 1,
    gpus_per_job: float = 0,
) -> list[Any]:
    """Runs jobs and waits for them all; a job that fails stops no other.

    Args:
        parts: Hydra's context, the task function and the configuration.
        job_overrides: Of each job.
        first: Number of the first job.
        address: Of a cluster (`auto`, `ray://host:10001`), where the package is installed and the study's folder is
            shared; None starts one on this machine.
        num_cpus: Cores of a cluster on this machine; None = all. Not for a cluster that is there already.
        cpus_per_job, gpus_per_job: What Ray sets aside for a job.

    Returns:
        Hydra's `JobReturn` of each job, in order.

    Raises:
        ConfigError: Ray is not installed, or a job asks for more than the cluster has.
        RunError: The cluster cannot be reached.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers otherwise
        import ray
    except ImportError as error:
        raise ConfigError(
            "hydra/launcher=ray needs ray. Install it: pip install 'harmonize[ray]'."
        ) from error
    from hydra.core.singleton import Singleton

    _reach(address)
    environment = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
    local: dict[str, Any] = {} if address else {"num_cpus": num_cpus, "include_dashboard": False}
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": environment},
            logging_level=logging.ERROR,
            log_to_driver=True,
            **local,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unreachable(address, error) from error
    try:
        must_fit(ray.cluster_resources(), cpus_per_job, gpus_per_job)
        run = ray.remote(_job).options(num_cpus=cpus_per_job, num_gpus=gpus_per_job, max_retries=0)
        state, here = Singleton.get_state(), str(Path.cwd())
        tasks = [run.remote(parts, list(o), first + i, state, here) for i, o in enumerate(job_overrides)]
        return [_result(ray, task) for task in tasks]
    finally:
        ray.shutdown()


def must_fit(has: Mapping[str, float], cpus: float, gpus: float) -> None:
    """A job that no machine can take would wait for ever.

    Raises:
        ConfigError: It asks for more than the cluster has in all.
    """
    if cpus > has.get("CPU", 0) or gpus > has.get("GPU", 0):
        raise ConfigError(
            f"hydra.launcher: a job asks for {cpus:g} cores and {gpus:g} GPUs, and the cluster has "
            f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}. Lower hydra.launcher.cpus_per_job or gpus_per_job."
        )


def _reach(address: str | None) -> None:
    """Looks whether anything answers: Ray itself would ask again for many minutes."""
    host, _, port = (address or "").rpartition("://")[2].partition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str | None, error: Exception) -> RunError:
    return RunError(
        f"hydra.launcher.address={address}: no Ray cluster answers there ({str(error).splitlines()[0]}). Start one "
        "(ray start --head), or leave the address out for one on this machine."
    )


def _job(parts: tuple[Any, Any, Any], overrides: list[str], number: int, singletons: Any, folder: str) -> Any:
    """One job, in a process of the cluster."""
    from hydra.core.singleton import Singleton
    from hydra.core.utils import run_job, setup_globals
    from omegaconf import open_dict

    os.umask(0o077)  # what a model says about forgotten things is for its owner alone
    os.chdir(folder)
    context, task, config = parts
    setup_globals()
    Singleton.set_state(singletons)
    job = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    return run_job(
        hydra_context=context,
        task_function=task,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _result(ray: Any, task: Any) -> Any:
    """What a job returned; a process that was lost counts as a job that failed."""
    from hydra.core.utils import JobReturn, JobStatus

    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        lost = JobReturn(status=JobStatus.FAILED, working_dir="")
        lost.return_value = RunError(f"Ray lost the job: {str(error).splitlines()[0]}")
        return lost
