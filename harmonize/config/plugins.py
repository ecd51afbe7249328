"""Hydra's launchers and sweepers that a command names: what is not installed, or not here, is told first."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from harmonize.errors import did_you_mean

# (group, option): the module that it needs, and the extra that brings it
_NEEDS = {
    ("hydra/sweeper", "optuna"): ("optuna", "optuna"),
    ("hydra/launcher", "joblib"): ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    ("hydra/launcher", "submitit_local"): ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    ("hydra/launcher", "submitit_slurm"): ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    ("hydra/launcher", "ray"): ("ray", "ray"),
}
_ANSWERS = 30  # seconds for SLURM's controller
_GROUPS = ("hydra/launcher", "hydra/sweeper")
_MULTIRUN = "{group}={option} is for many runs. Add -m: harmonize <command> -m {group}={option} ..."


def plugin_problems(
    overrides: Sequence[str], multirun: bool, config_dirs: Sequence[str | Path] = ()
) -> list[str]:
    """What stands in the way of the launchers and sweepers that a command line names.

    Args:
        overrides: Of the command line.
        multirun: Whether it starts many runs.
        config_dirs: The user's own configuration folders, whose options count as ours.
    """
    problems = []
    for text in overrides:
        group, _, option = text.lstrip("+").partition("=")
        if group not in _GROUPS:
            continue
        module, extra = _NEEDS.get((group, option), ("", ""))
        if not module and option not in (known := _options(group, config_dirs)):
            problems.append(f"{group}={option}: no such {group}. {did_you_mean(option, known)}")
        elif module and not _found(module):
            problems.append(
                f"{group}={option} needs a package that is not installed. Install it: pip install 'harmonize[{extra}]'."
            )
        elif option == "submitit_slurm" and (wrong := _slurm_problem()):
            problems.append(
                f"hydra/launcher=submitit_slurm: {wrong}. Start the command on a machine of the cluster from which "
                "sbatch works, or use hydra/launcher=submitit_local."
            )
        elif not multirun:
            problems.append(_MULTIRUN.format(group=group, option=option))
    return problems


def _options(group: str, config_dirs: Sequence[str | Path]) -> set[str]:
    """What the group offers: ours, installed or not, those of every plugin that Hydra finds, and the user's own."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # looks for plugins, which name their options
    kind = group.partition("/")[2]
    stored = ConfigStore.instance().repo.get("hydra", {}).get(kind, {})
    own = [path.name for folder in config_dirs for path in Path(folder, group).glob("*.yaml")]
    return {o for g, o in _NEEDS if g == group} | {n.removesuffix(".yaml") for n in (*stored, *own)}


def _slurm_problem() -> str:
    """What keeps jobs from being handed to SLURM from here; empty if nothing does."""
    missing = [tool for tool in ("srun", "sbatch") if shutil.which(tool) is None]
    if missing:
        return f"SLURM's {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on this machine"
    if shutil.which("sinfo") is None:
        return ""
    try:  # asks the controller, as sbatch will
        asked = ["sinfo", "--noheader", "--format=%P"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=_ANSWERS, check=False)
    except subprocess.TimeoutExpired:
        return f"SLURM's controller has not answered sinfo within {_ANSWERS} seconds"
    except OSError as error:
        return f"SLURM's sinfo cannot be run ({error.strerror})"
    said = (answer.stderr.strip() or "without a word").splitlines()[-1]
    return f"SLURM cannot be reached (sinfo failed: {said})" if answer.returncode else ""


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
