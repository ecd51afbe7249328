"""Errors meant for the person at the keyboard, and the nearest-name helper they use.

Every error here says what was wrong, what was expected and what to type. The command line prints the
message without a traceback; anything that is not a `HarmonizeError` is our own bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class HarmonizeError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(HarmonizeError):
    """One or more problems in the configuration, reported together.

    Args:
        problems: One sentence each, ending with the override that mends it.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            message = self.problems[0]
        else:
            lines = "\n".join(f"  {i}. {p}" for i, p in enumerate(self.problems, 1))
            message = f"{len(self.problems)} problems in the configuration:\n{lines}"
        super().__init__(message)


class DataError(HarmonizeError):
    """Missing, empty or malformed data; names file, line and field where there is one."""


class ModelError(HarmonizeError):
    """A model or tokenizer that cannot be found, loaded or used as asked."""


class RunError(HarmonizeError):
    """A run folder that is occupied, unreadable or unwritable."""


class TrainingError(HarmonizeError):
    """Training that had to stop (for example a loss that is not finite)."""


class Rejected(HarmonizeError):
    """A run that was given up because it fell below a floor: an outcome, not a fault.

    Args:
        message: What fell below what.
        found: The figures on val that decided it, with `shortfall`, how far below the floors they lie.
    """

    def __init__(self, message: str, found: Mapping[str, float]) -> None:
        self.found = dict(found)
        super().__init__(message)


class Interrupted(HarmonizeError):
    """The user pressed Ctrl-C; what was computed so far is kept and can be resumed."""


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option closest in spelling to `name`, or None if nothing is close."""
    found = difflib.get_close_matches(name, sorted(options), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(name: str, options: Iterable[str], limit: int = 20) -> str:
    """A sentence for an unknown name: the nearest option, then the list (cut at `limit`)."""
    known = sorted(options)
    close = nearest(name, known)
    shown = ", ".join(known[:limit]) + (", ..." if len(known) > limit else "")
    hint = f"Did you mean '{close}'? " if close else ""
    return f"{hint}Available: {shown or 'none'}."
