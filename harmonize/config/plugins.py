"""Hydra's launchers and sweepers that a command names: what is not installed, or not here, is told first."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec

# (group, option): the module that it needs, and the extra that brings it
_NEEDS = {
    ("hydra/sweeper", "optuna"): ("optuna", "optuna"),
    ("hydra/launcher", "joblib"): ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    ("hydra/launcher", "submitit_local"): ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    ("hydra/launcher", "submitit_slurm"): ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    ("hydra/launcher", "ray"): ("ray", "ray"),
}
_GROUPS = ("hydra/launcher", "hydra/sweeper")
_MULTIRUN = "{group}={option} is for many runs. Add -m: harmonize <command> -m {group}={option} ..."


def plugin_problems(overrides: Sequence[str], multirun: bool) -> list[str]:
    """What stands in the way of the launchers and sweepers that a command line names."""
    problems = []
    for text in overrides:
        group, _, option = text.lstrip("+").partition("=")
        if group not in _GROUPS:
            continue
        module, extra = _NEEDS.get((group, option), ("", ""))
        if module and not _found(module):
            problems.append(
                f"{group}={option} needs a package that is not installed. Install it: pip install 'harmonize[{extra}]'."
            )
        elif option == "submitit_slurm" and shutil.which("srun") is None:
            problems.append(
                "hydra/launcher=submitit_slurm: SLURM's srun is not on this machine. Start the command on a machine of "
                "the cluster, or use hydra/launcher=submitit_local."
            )
        elif not multirun:
            problems.append(_MULTIRUN.format(group=group, option=option))
    return problems


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
