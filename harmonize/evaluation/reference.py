"""The record of a reference model: the rows of a suite's parts, as a run's results.json keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonize.errors import RunError
from harmonize.evaluation.suite import Part, Series
from harmonize.tracking.results import RESULTS, read_results

ROWS = "rows"
DATA, FIGURES = "data", "figures"


def record_of(rows: Mapping[str, Series], keys: Mapping[str, str]) -> dict[str, Any]:
    """What `results.json` keeps (`extra.rows`): for each part the content key of its data, and its rows."""
    return {name: {DATA: keys[name], FIGURES: found} for name, found in rows.items()}


def read_reference(path: str | Path, parts: Mapping[str, Part], keys: Mapping[str, str]) -> dict[str, Series]:
    """Rows of the parts that compare.

    Args:
        path: A run folder, or its results.json.
        parts: Of the suite. keys: Content keys of their data (`Part.check`).

    Raises:
        RunError: No such file, none of the parts' rows in it, or rows of other data.
    """
    place = Path(path).expanduser()
    place = place / RESULTS if place.is_dir() else place
    if not place.is_file():
        raise RunError(
            f"suite.reference={path}: there is no {RESULTS}. Name the run folder of the reference model's evaluation: "
            "harmonize evaluate suite=<the same> model.name_or_path=<a model that never saw the forget set>."
        )
    kept = read_results(place).extra.get(ROWS)
    kept = kept if isinstance(kept, Mapping) else {}
    found: dict[str, Series] = {}
    for name, part in parts.items():
        if not part.compares:
            continue
        if name not in kept:
            holds = (
                f"It holds: {', '.join(sorted(map(str, kept)))}." if kept else "It holds no rows of any part."
            )
            raise RunError(
                f"suite.reference={path}: no rows of the part '{name}'. {holds} Measure the reference model with the "
                "same suite."
            )
        found[name] = _series(kept[name], keys[name], name, str(path))
    return found


def _series(kept: Any, key: str, name: str, path: str) -> Series:
    if not isinstance(kept, Mapping) or not isinstance(kept.get(FIGURES), Mapping):
        raise RunError(
            f"suite.reference={path}: the rows of the part '{name}' are damaged. Measure it again."
        )
    if kept.get(DATA) != key:
        raise RunError(
            f"suite.reference={path} was measured on another data set: the part '{name}' scored other rows. Measure "
            "the reference model with the same data, suite and suite.max_examples."
        )
    for figure in kept[FIGURES].values():
        if not isinstance(figure, Mapping) or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
            for v in figure.values()
        ):
            raise RunError(
                f"suite.reference={path}: the rows of the part '{name}' are damaged. Measure it again."
            )
    return dict(kept[FIGURES])
