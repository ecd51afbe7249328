"""`harmonize unlearn`, `evaluate`, `finetune`: arguments in any order, everything checked first, then Hydra."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from harmonize.errors import ConfigError, HarmonizeError, RunError
from harmonize.warm import kept

# Hydra's flags that take a value; the others stand alone.
_WITH_VALUE = frozenset(
    {"--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--cfg", "-c"}
    | {"--experimental-rerun"}
)
_MULTIRUN = frozenset({"-m", "--multirun"})
_QUESTIONS = frozenset(
    {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "-sc", "--shell-completion"}
)
_OWN_PRIMARY = frozenset({"--config-path", "-cp", "--config-name", "-cn", "--experimental-rerun"})
_MOST_CHECKED = 200


@dataclass
class Arguments:
    """A command line taken apart: flags may stand anywhere, Hydra wants them first."""

    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)
    config_dirs: list[str] = field(default_factory=list)

    def has(self, names: frozenset[str]) -> bool:
        """Whether any of these flags was given."""
        return any(f.partition("=")[0] in names for f in self.flags)

    def grant(self) -> None:
        """Allows what `--allow` names, in this process and in those it starts."""
        if self.allow:
            granted = [*filter(None, [os.environ.get("HARMONIZE_ALLOW")]), *self.allow]
            os.environ["HARMONIZE_ALLOW"] = ",".join(granted)


def split_arguments(argv: Sequence[str]) -> Arguments:
    """Sorts a command line into Hydra's flags, overrides and our own `--allow`.

    Raises:
        HarmonizeError: A flag lacks its value.
    """
    found = Arguments()
    rest = list(argv)
    while rest:
        item = rest.pop(0)
        name, equals, value = item.partition("=")
        if not item.startswith("-"):
            found.overrides.append(item)
            continue
        if name == "--allow" or name in _WITH_VALUE:
            if not equals:
                if not rest:
                    raise HarmonizeError(f"{name} needs a value. Write {name} <value>.")
                value = rest.pop(0)
            if name == "--allow":
                found.allow += [v for v in value.split(",") if v]
                continue
            if name in ("--config-dir", "-cd"):
                found.config_dirs.append(value)
            found.flags += [name, value]
        elif name in ("--info", "-i") and not equals:
            found.flags.append("--info=all")
        else:
            found.flags.append(item)
    return found


def run(command: str, argv: Sequence[str]) -> int:
    """Runs one command, or a sweep of it.

    Returns:
        The exit status: 0, or 1 if any job failed.

    Raises:
        HarmonizeError: Refused before anything ran.
    """
    from hydra.errors import HydraException

    from harmonize.commands import jobs

    arguments = split_arguments(argv)
    arguments.grant()
    multirun = arguments.has(_MULTIRUN) or any(
        o.lstrip("+").startswith(("hparams_search=", "hydra.mode=")) for o in arguments.overrides
    )
    question = arguments.has(_QUESTIONS)
    if not question and not arguments.has(_OWN_PRIMARY):
        check_first(command, arguments, multirun)
    # Errors come to us, not into Hydra's shortened traceback.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    mask = os.umask(0o077)  # what a model says about forgotten things is for its owner alone
    try:
        with kept() if multirun and not question else nullcontext():  # what its jobs load alike
            jobs.run_hydra(command, arguments.flags, arguments.overrides)
    except jobs.JobFailed as error:
        if not jobs.failures:
            message, *where = map(str, error.args)  # of a job in another process
            jobs.failures.append((where[0] if where else "a job", message))
    except HydraException as error:
        raise _explained(command, arguments, error) from error
    except Exception as error:
        if not type(error).__module__.startswith("submitit."):
            raise
        raise RunError(
            f"SLURM has not taken the jobs: {' '.join(str(error).split())}. See the settings of hydra.launcher "
            "(partition, account, gpus_per_node, timeout_min, ...)."
        ) from error
    finally:
        os.umask(mask)
    if multirun and jobs.failures:
        print(f"\n{len(jobs.failures)} job(s) failed:", file=sys.stderr)
        for folder, message in jobs.failures:
            print(f"  {folder}: {message.splitlines()[0]}", file=sys.stderr)
    return 1 if jobs.failures else 0


def check_first(command: str, arguments: Arguments, multirun: bool) -> None:
    """Composes what is going to run, before any folder is made.

    One run is checked in full. Of a sweep every value is composed once, so that a misspelt name is told before the
    first job; values and combinations are checked by each job for itself, so that one bad pair stops no other.

    Raises:
        ConfigError: All problems found.
    """
    from harmonize.config.compose import compose_config
    from harmonize.config.compositions import Compositions
    from harmonize.config.plugins import plugin_problems

    if problems := plugin_problems(arguments.overrides, multirun, arguments.config_dirs):
        raise ConfigError(problems)
    if not multirun:
        compose_config(command, arguments.overrides, config_dirs=arguments.config_dirs)
        return
    compositions = Compositions(arguments.config_dirs)
    for overrides in expand(arguments.overrides):
        try:
            compositions.compose(command, overrides, check=False)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Override lists in which every value of a sweep occurs at least once (not every combination)."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    choices: list[list[str]] = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
            if override.is_sweep_override() and override.is_discrete_sweep():
                key = override.get_key_element()
                choices.append([f"{key}={value}" for value in override.sweep_string_iterator()] or [text])
                continue
            if override.is_sweep_override():  # an interval or glob: its sweeper knows the values
                continue
        except HydraException:
            pass
        choices.append([text])
    first = [values[0] for values in choices]
    lists = [first]
    for i, values in enumerate(choices):
        lists += [[*first[:i], value, *first[i + 1 :]] for value in values[1:]]
    return lists[:_MOST_CHECKED]


def _explained(command: str, arguments: Arguments, error: Exception) -> HarmonizeError:
    """Our own words for a mistake that Hydra found, where we have any."""
    from harmonize.config.compose import compose_config

    try:
        for overrides in expand(arguments.overrides):
            compose_config(command, overrides, config_dirs=arguments.config_dirs, check=False)
    except HarmonizeError as better:
        return better
    lines = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
    return ConfigError(" ".join(" ".join(lines).split()))
