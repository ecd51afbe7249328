"""Names of run folders, derived from what was asked for, and the resolvers that Hydra uses for them.

The same overrides give the same folder, alone or in a sweep, so a job of a sweep can be resumed by itself; other
overrides give another folder, so two sweeps of one study never overwrite each other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonize.config.paths import cache_dir

_UNSAFE = re.compile(r"[^A-Za-z0-9.+_-]+")
_LONGEST = 100

# Where and how a run goes, but not what it computes.
_NOT_NAMED = ("study", "job", "resume", "overwrite", "allow", "paths", "hydra", "logger", "save_model")
# Named at the front, in this order.
_HEAD = {
    "unlearn": ("method", "dataset", "seed"),
    "evaluate": ("dataset", "split", "seed"),
    "finetune": ("dataset", "seed"),
    "diagnose": ("dataset", "seed"),
    "sequence": ("method", "dataset", "seed"),
}


def register() -> None:
    """Registers the resolvers `harmonize.job_name`, `folder`, `study_folder` and `cache_dir`."""
    from omegaconf import OmegaConf

    resolvers: dict[str, Any] = {
        "job_name": lambda *, _root_: _job(_root_, sweep=True),
        "folder": lambda *, _root_: str(Path(_study(_root_)) / _job(_root_)),
        "study_folder": lambda *, _root_: _study(_root_),
        "cache_dir": lambda: str(cache_dir()),
    }
    for name, function in resolvers.items():
        OmegaConf.register_new_resolver(f"harmonize.{name}", function, replace=True)


def head(command: str) -> tuple[str, ...]:
    """What a command's folder names begin with."""
    return _HEAD[command]


def job_name(
    command: str, head: Sequence[str], overrides: Sequence[str], job: str | None = None, sweep: bool = False
) -> str:
    """A folder name of safe characters: the head values, then the other overrides.

    Args:
        command: unlearn, evaluate or finetune.
        head: Values that every name begins with (method, data set, seed).
        overrides: What the user asked for; keys that say nothing of the computation are left out.
        job: A name chosen by the user: the whole name of a single run, the beginning of those of a sweep.
        sweep: Whether it is one job of a sweep.

    Returns:
        At most about 110 characters; a short hash is added where characters were replaced or cut, so that
        different overrides never share a name.
    """
    if job and not sweep:
        return _safe(job)
    named = []
    for text in sorted(overrides):
        key, _, value = text.lstrip("+").partition("=")
        root = key.lstrip("~").split(".")[0].split("/")[0]
        if root in _NOT_NAMED or key in _HEAD.get(command, ()):
            continue
        named.append((key, value))
    short = [f"no-{_tail(key)}" if key.startswith("~") else f"{_tail(key)}-{value}" for key, value in named]
    return _safe("_".join([*filter(None, [job]), *head, *short]), [f"{k}={v}" for k, v in named])


def _tail(key: str) -> str:
    """The last two parts of a key tell what it is: `push.weight`, `prefill.mode`."""
    return ".".join(key.lstrip("~").split(".")[-2:])


def _safe(name: str, full: Sequence[str] = ()) -> str:
    clean = _UNSAFE.sub("-", name).strip("-.")
    if clean == name and len(clean) <= _LONGEST:
        return clean
    digest = hashlib.sha256("\0".join([name, *full]).encode()).hexdigest()[:8]
    return f"{clean[:_LONGEST]}-{digest}"


def _study(root: Any) -> str:
    return str(Path(str(root.paths.runs)) / _safe(str(root.study)))


def _job(root: Any, sweep: bool = False) -> str:
    from omegaconf import OmegaConf

    command = str(OmegaConf.select(root, "hydra.job.name", default="unlearn"))
    overrides = list(OmegaConf.select(root, "hydra.overrides.task", default=[]))
    chosen = OmegaConf.select(root, "hydra.runtime.choices", default={})
    head = []
    for key in _HEAD.get(command, ()):
        value = chosen.get(key) if key in chosen else OmegaConf.select(root, key)
        head.append(f"seed{value}" if key == "seed" else str(value))
    return job_name(command, head, overrides, OmegaConf.select(root, "job"), sweep)
