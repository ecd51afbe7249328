"""Where the shipped configuration, sweeps and experiments are: in a wheel or in a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from harmonize.errors import HarmonizeError

_PACKAGE = Path(__file__).resolve().parents[1]


def share(kind: str) -> Path:
    """The folder `conf`, `sweeps` or `experiments` that belongs to this installation.

    Raises:
        HarmonizeError: The installation is incomplete.
    """
    for folder in (_PACKAGE / "_share" / kind, _PACKAGE.parent / kind):
        if folder.is_dir():
            return folder
    raise HarmonizeError(
        f"This installation of harmonize lacks its {kind}/ folder. "
        "Reinstall it: pip install --force-reinstall harmonize"
    )


def conf_dir() -> Path:
    """The folder of the primary configs and their groups."""
    return share("conf")


def cache_dir() -> Path:
    """Where sandbox models, teacher caches and statistics go: HARMONIZE_CACHE, else the user's cache directory."""
    if named := os.environ.get("HARMONIZE_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "harmonize"
