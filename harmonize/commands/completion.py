"""Shell completion: `eval "$(harmonize -sc install=bash)"` completes sub-commands, groups, options and keys.

Hydra completes one application; here the sub-command is taken out of the line, and Hydra sees the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Installs or answers completion requests of Hydra's scripts."""
    from harmonize.cli import COMMANDS
    from harmonize.commands.jobs import TASKS, run_hydra

    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    flags = [*argv]
    action = next((a for a in flags if "=" in a and not a.startswith("-")), "")
    if not action:
        flag = next(i for i, a in enumerate(flags) if a.startswith(("-sc", "--shell-completion")))
        flags[flag] = "-sc"
    if "query" not in " ".join(argv):
        run_hydra("unlearn", ["-sc"], _values(argv))
        return 0
    named = words[1] if len(words) > 1 else ""
    complete = len(words) > 2 or (len(words) == 2 and line.endswith(" "))
    if not complete:
        print(" ".join(c for c in COMMANDS if c.startswith(named)))
        return 0
    if named in TASKS:
        os.environ["COMP_LINE"] = shortened = line.replace(f" {named}", "", 1)
        os.environ["COMP_POINT"] = str(len(shortened))
        run_hydra(named, ["-sc"], _values(argv))
    return 0


def _values(argv: Sequence[str]) -> list[str]:
    joined = [a.split("=", 1)[1] if a.startswith(("-sc=", "--shell-completion=")) else a for a in argv]
    return [a for a in joined if not a.startswith("-")]
