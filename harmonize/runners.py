"""Which function runs a job of which command; found by name, so that naming a command imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

RUNNERS: dict[str, str] = {
    "unlearn": "harmonize.unlearning.run:run",
    "evaluate": "harmonize.unlearning.measure:run",
    "finetune": "harmonize.unlearning.finetune:run",
    "diagnose": "harmonize.unlearning.diagnose:run",
    "sequence": "harmonize.unlearning.sequence:run",
}


def runner(command: str) -> Callable[[Any, Path], Any]:
    """What runs one checked configuration of a command in its folder."""
    module, _, name = RUNNERS[command].partition(":")
    found: Callable[[Any, Path], Any] = getattr(import_module(module), name)
    return found
