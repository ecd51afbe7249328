"""What is kept of a protocol's output: one small JSON file of rows, and where they were measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
ABOUT = ("machine", "torch", "transformers", "python")  # the same in every row of a run
_DULL = ("ms", "parameters", "padding", "attention", "optimizer")
_MOST = 12  # lines kept of a profile

Row = dict[str, Any]


def compact(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A run's rows without what repeats itself: `{"about": ..., "sections": ..., "rows": [...]}`.

    A section says its commit, how many pairs of arms were compared and their largest differences; peak memory becomes
    rows of ratios like the others.

    Raises:
        ValueError: Rows of several machines or versions. Sections measured at several commits may stand together.
    """
    given = [dict(row) for row in rows]
    about = {name: given[0][name] for name in ABOUT}
    if any(row.get(name) != about[name] for row in given for name in ABOUT):
        raise ValueError("rows of several machines or versions; keep one machine's")
    sections: dict[str, Row] = {}
    for row in given:
        found = sections.setdefault(
            row["section"], {"commit": row["commit"], "pairs": 0, "loss": 0.0, "gradient": 0.0}
        )
        if "parity" in row and "ok" in row:
            found["pairs"] += 1
            found |= {name: max(found[name], row[name]) for name in ("loss", "gradient")}
    kept: list[Row] = []
    memory: dict[str, dict[str, int]] = {}
    for row in given:
        row = {
            k: v
            for k, v in row.items()
            if k not in (*ABOUT, "commit") and (k not in _DULL or "kernels" in row)
        }
        if "parity" in row or "rounded to fp16" in row or "seconds" in row:
            continue
        if "memory" in row:
            sizes = {k: row.pop(k, 0) for k in ("before", "loss", "backward", "update", "peak")}
            memory = {} if row["memory"] == "bidirectional" else memory
            memory[row.pop("memory")] = sizes
            ours, theirs = memory["bidirectional"]["peak"], sizes["peak"]
            if len(memory) > 1:
                arms = {"arm_a": "bidirectional", "arm_b": list(memory)[-1], "of": "peak memory"}
                found = round(ours / theirs, 4)
                kept.append({**_first(row, arms, found), "bytes": [ours, theirs], **row})
            continue
        for name in ("kernels", "where a build goes", "where a live step goes"):
            if name in row:
                row[name] = row[name][:_MOST]
        kept.append(row)
    return {"about": about, "sections": sections, "rows": kept}


def merged(before: Mapping[str, Any] | None, found: Mapping[str, Any]) -> dict[str, Any]:
    """New rows, and those of sections that they do not measure; what another machine or version gave is dropped."""
    if before is None or before["about"] != found["about"]:
        return dict(found)
    sections = {**before["sections"], **found["sections"]}
    rows = [r for r in before["rows"] if r["section"] not in found["sections"]] + found["rows"]
    order = list(sections)
    return {**found, "sections": sections, "rows": sorted(rows, key=lambda r: order.index(r["section"]))}


def _first(row: Row, arms: Row, found: float) -> Row:
    return {"section": row.pop("section"), **arms, "ratio_median": found, "q1": found, "q3": found, "n": 1}


def save(found: Mapping[str, Any], path: Path) -> None:
    """Writes them, a row on a line."""
    head = {k: v for k, v in found.items() if k != "rows"}
    lines = ",\n".join(json.dumps(row) for row in found["rows"])
    path.write_text(json.dumps(head)[:-1] + f', "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    """The kept rows of `cpu`, `evaluating` or `gpu`."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found
