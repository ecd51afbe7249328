"""Shell completion: `eval "$(harmonize -sc install=bash)"` completes sub-commands, groups, options and keys.

Hydra completes one application; here the sub-command is taken out of the line, and Hydra sees the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

FLAGS = ("-sc", "--shell-completion")


def run(argv: Sequence[str]) -> int:
    """Answers `-sc install=bash`, and the `-sc query=bash` that the installed script asks."""
    from harmonize.cli import COMMANDS
    from harmonize.commands.jobs import TASKS, run_hydra

    wanted = [a for a in argv if a not in FLAGS]
    if not any(a.startswith("query=") for a in wanted):
        run_hydra("unlearn", ["-sc"], wanted)
        return 0
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    named = words[1] if len(words) > 1 else ""
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        print(" ".join(c for c in COMMANDS if c.startswith(named)))
    elif named in TASKS:
        os.environ["COMP_LINE"] = line.replace(f" {named}", "", 1)
        run_hydra(named, ["-sc"], wanted)
    return 0
