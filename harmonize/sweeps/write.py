"""What tuning chose, as options of the group `tuned`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harmonize.tracking.files import make_folder, write_text


def write_tuned(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes one file for each method: its chosen overrides, and where they come from.

    Args:
        record: Of `choose.record`.
        folder: Such as `conf/tuned/sandbox`.

    Returns:
        The files.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    make_folder(folder)
    written = []
    for method, chosen in sorted(record["chosen"].items()):
        nested: dict[str, Any] = {}
        for override in OverridesParser.create().parse_overrides([str(o) for o in chosen["overrides"]]):
            place = nested
            *parents, last = override.key_or_group.split(".")
            for part in parents:
                place = place.setdefault(part, {})
            place[last] = override.value()
        head = [
            "# @package _global_",
            f"# Chosen by: harmonize sweep {record['sweep']} (commit {str(record['commit'])[:7]}).",
            f"# On val, {_runs(chosen['runs'])} of the last round: "
            f"forget + ASR {_shown(chosen['score'])}, shortfall below the floors {_shown(chosen['shortfall'])}.",
        ]
        body = yaml.safe_dump(nested, sort_keys=True, default_flow_style=False) if nested else ""
        written.append(write_text(folder / f"{method}.yaml", "\n".join(head) + "\n" + body))
    return written


def _runs(n: int) -> str:
    return "the run" if n == 1 else f"mean over {n} runs"


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
