"""Makes a language model forget something on purpose, and shows that it did.

The names below are the Python interface; they load their modules on first use, so that the command line
starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "compose_config": "harmonize.config.compose:compose_config",
    "evaluate": "harmonize.api:evaluate",
    "load": "harmonize.api:load",
    "read_run": "harmonize.api:read_run",
    "read_sequence": "harmonize.tracking.sequence:read_sequence",
    "sequence": "harmonize.api:sequence",
    "unlearn": "harmonize.api:unlearn",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'harmonize' has no attribute '{name}'")
    module, _, attribute = _LAZY[name].partition(":")
    return getattr(import_module(module), attribute)
