"""Sweep files in the words of W&B, so that the same file serves `harmonize sweep`, `wandb sweep` and `wandb agent`.

    program: harmonize
    method: grid
    parameters: {optimizer.lr: {values: [1e-4, 1e-3]}, dataset: {value: sandbox}}
    command: [harmonize, unlearn, logger=wandb, logger.wandb.mode=online, "${args_no_hyphens}"]

The agent runs `command` with every parameter as `key=value`, which is what Hydra reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonize.errors import did_you_mean

ARGS = "${args_no_hyphens}"
KEYS = (
    "program",
    "method",
    "metric",
    "parameters",
    "command",
    "name",
    "description",
    "project",
    "entity",
    "run_cap",
)


def in_wandb_words(found: Mapping[str, Any]) -> bool:
    """Whether a sweep file is written for W&B."""
    return "parameters" in found


def translated(found: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """A W&B sweep as a file of our own words (`sweep`, `overrides`), and what is wrong with it.

    Settings of `logger` in the command are left out: they put the agent's runs online, and `harmonize sweep` goes on
    without W&B.

    Args:
        found: What the file says.
        path: Its name, for messages.

    Returns:
        (the file in our words, problems; none where it can be run)
    """
    problems = [f"{path}: unknown key '{k}'. {did_you_mean(str(k), KEYS)}" for k in found if k not in KEYS]
    if found.get("method") != "grid":
        problems.append(
            f"{path}: method: {found.get('method')} chooses its next run as it goes, which only a W&B agent does. "
            "Use method: grid, or hydra/sweeper=optuna for a search."
        )
    swept: dict[str, list[Any]] = {}
    fixed: list[str] = []
    given = found.get("parameters")
    for key, said in given.items() if isinstance(given, Mapping) else ():
        if isinstance(said, Mapping) and isinstance(said.get("values"), list) and said["values"]:
            swept[str(key)] = said["values"]
        elif isinstance(said, Mapping) and "value" in said:
            fixed.append(f"{key}={said['value']}")
        else:
            problems.append(f"{path}: parameters.{key} needs value, or values with a list.")
    for key, value in [*((k, v) for k, vs in swept.items() for v in vs), *_values(given)]:
        if value is None:
            problems.append(
                f"{path}: parameters.{key}: W&B writes null as None. Leave the key out, or say 'null'."
            )
    if not swept:
        problems.append(f"{path}: parameters must map each key to value or values, and sweep one of them.")
    command = found.get("command")
    if (
        not isinstance(command, Sequence)
        or isinstance(command, str)
        or list(command[:2]) != ["harmonize", "unlearn"]
    ):
        problems.append(f'{path}: command must be [harmonize, unlearn, ..., "{ARGS}"].')
    elif ARGS not in command:
        problems.append(f'{path}: command lacks "{ARGS}", so an agent\'s runs would all be the same.')
    else:
        own = [str(item) for item in command[2:] if item != ARGS]
        fixed = [o for o in own if o.split("=")[0].split(".")[0] != "logger"] + fixed
    kept = {k: found[k] for k in ("name", "description") if k in found}
    return {**kept, "study": str(found.get("name", path.stem)), "sweep": swept, "overrides": fixed}, problems


def _values(given: Any) -> list[tuple[str, Any]]:
    """Keys that are set once, with what they are set to."""
    if not isinstance(given, Mapping):
        return []
    return [(str(k), v["value"]) for k, v in given.items() if isinstance(v, Mapping) and "value" in v]
