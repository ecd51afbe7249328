"""The Hydra applications behind `unlearn`, `sequence`, `evaluate` and the like: one function call per job.

Launchers may run the functions below in other processes, so they depend on nothing but their module.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harmonize.config import compose
from harmonize.errors import ConfigError, HarmonizeError, Interrupted, Rejected
from harmonize.runners import runner

_BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"

# (folder, message) of the jobs of this process that failed, for the closing list.
failures: list[tuple[str, str]] = []

compose.register()


class JobFailed(Exception):
    """A job that failed and has already said why: its message, and its folder."""


def unlearn(cfg: Any) -> Any:
    """One job of `harmonize unlearn`."""
    return _job("unlearn", cfg)


def evaluate(cfg: Any) -> Any:
    """One job of `harmonize evaluate`."""
    return _job("evaluate", cfg)


def finetune(cfg: Any) -> Any:
    """One job of `harmonize finetune`."""
    return _job("finetune", cfg)


def diagnose(cfg: Any) -> Any:
    """One job of `harmonize diagnose`."""
    return _job("diagnose", cfg)


def sequence(cfg: Any) -> Any:
    """One job of `harmonize sequence`."""
    return _job("sequence", cfg)


def prepare(cfg: Any) -> Any:
    """`harmonize prepare`, which has no run folder."""
    from harmonize.commands.prepare import job

    return job(cfg)


TASKS: dict[str, Callable[[Any], Any]] = {
    "unlearn": unlearn,
    "evaluate": evaluate,
    "finetune": finetune,
    "prepare": prepare,
    "diagnose": diagnose,
    "sequence": sequence,
}


def _job(command: str, cfg: Any) -> Any:
    """Checks and runs one job in its folder; says on stderr why it failed.

    Raises:
        JobFailed: The message has been printed, and the folder's status says so too (only where a launcher or
            sweeper needs an exception to know; otherwise `failures` tells).
        KeyboardInterrupt: The user pressed Ctrl-C, which ends a sweep as well.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    sweep = hydra.mode == RunMode.MULTIRUN
    if sweep:
        print(f"\n== {folder}", file=sys.stderr)
    with _own_command_line(command, hydra.overrides, folder):
        try:
            _check(cfg, command, folder)
            return runner(command)(cfg, folder)
        except Interrupted as error:
            print(error, file=sys.stderr)
            raise KeyboardInterrupt from error
        except Rejected as error:
            message = f"Rejected: {error}"
            print(message, file=sys.stderr)
            if sweep:  # an outcome like another, and no failure
                return None
        except HarmonizeError as error:
            message = str(error)
            print(f"Error: {message}", file=sys.stderr)
            for note in getattr(error, "__notes__", ()):
                print(note, file=sys.stderr)
        except Exception as error:  # our own bug: it keeps its traceback, and the sweep goes on
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
    failures.append((str(folder), message))
    if sweep and not (
        hydra.launcher._target_ == _BASIC_LAUNCHER and hydra.sweeper._target_ == _BASIC_SWEEPER
    ):
        raise JobFailed(message, str(folder))
    # In this process the list of failures says it all; an exception would only add Hydra's own words.
    return None


def _check(cfg: Any, command: str, folder: Path) -> None:
    from harmonize.config.checks import check_config

    status = folder / "status.json"
    _forget_rejection(status)
    problems = compose.structural_problems(cfg) + check_config(cfg, command)
    if problems:
        error = ConfigError(problems)
        if not status.exists():
            from harmonize.tracking.run_folder import RunFolder

            RunFolder(folder).mark("rejected", error=str(error))
        raise error


def _forget_rejection(status: Path) -> None:
    """A job that was refused wrote nothing but its status, which must not occupy the folder."""
    from harmonize.tracking.run_folder import OWN_ENTRIES, RunFolder

    folder = status.parent
    alone = not any((folder / name).exists() for name in OWN_ENTRIES if name != status.name)
    if alone and RunFolder(folder).read_status().get("state") == "rejected":
        status.unlink(missing_ok=True)


@contextmanager
def _own_command_line(command: str, asked: Any, folder: Path) -> Iterator[None]:
    """Shows each job the command that would run it alone, which is what its status file and hints repeat."""
    overrides = [f"job={folder.name}" if o.lstrip("+").startswith("job=") else o for o in asked.task]
    overrides = [o for o in overrides if o.partition("=")[0] not in ("resume", "overwrite")]
    if any(o.lstrip("+").startswith(("hydra.run.dir=", "hydra.sweep.")) for o in asked.hydra):
        overrides.append(f"hydra.run.dir={folder}")
    before = sys.argv
    sys.argv = [before[0] if before else "harmonize", command, *overrides]
    try:
        yield
    finally:
        sys.argv = before


def run_hydra(command: str, flags: list[str], overrides: list[str], program: str = "harmonize") -> None:
    """Hands a command to Hydra, flags before overrides.

    Raises:
        SystemExit: Hydra answered a question of its own (`--help`, `--cfg`) or found a mistake.
        JobFailed: A job failed.
    """
    import hydra

    from harmonize.config.paths import conf_dir

    before = sys.argv
    sys.argv = [program, *flags, *overrides]
    failures.clear()
    try:
        hydra.main(config_path=str(conf_dir()), config_name=command, version_base="1.3")(TASKS[command])()
    finally:
        sys.argv = before
