"""What a table says of an experiment's claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harmonize.reporting.columns import fixed
from harmonize.reporting.table import Row, Table
from harmonize.tracking.direction import Direction


def compare(table: Table, metric: str, method: str, against: str, better: Direction) -> str:
    """Whether `method` is better than `against` on `metric`, in words with the seed deviations.

    A difference below twice its standard error over seeds counts as undecided (our choice).
    """
    rows = [_row(table, name, metric) for name in (method, against)]
    if rows[0] is None or rows[1] is None:
        lacking = method if rows[0] is None else against
        return f"not tested: no single row '{lacking}' with {metric}"
    left, right = rows[0].cells[metric], rows[1].cells[metric]
    assert left is not None and right is not None
    if rows[0].prefill != rows[1].prefill:
        return f"not tested: trained on different views ({rows[0].prefill} and {rows[1].prefill})"
    difference = better.merit(left.mean) - better.merit(right.mean)
    figures = f"{fixed(left.mean)} against {fixed(right.mean)}"
    if left.sd is None or right.sd is None:
        return f"undecided (one seed): {figures}"
    error = math.sqrt(left.sd**2 / left.n + right.sd**2 / right.n)
    if abs(difference) <= 2 * error or difference == 0:
        return f"undecided (within two standard errors): {figures}"
    return f"{'holds' if difference > 0 else 'does not hold'}: {figures}"


def claim_lines(experiment: Mapping[str, Any], tables: Sequence[Table]) -> list[str]:
    """What our tables say about the experiment's claims."""
    lines = []
    for table in tables:
        for claim in experiment.get("claims") or []:
            better = Direction.named(claim["better"])
            found = compare(table, claim["metric"], claim["method"], claim["against"], better)
            where = f" ({table.title})" if len(tables) > 1 else ""
            lines.append(f"Claim{where}: {claim['text']} On {claim['metric']}: {found}.")
    return lines


def _row(table: Table, method: str, metric: str) -> Row | None:
    """The one row of a method that has the figure, or of several the one without changes; None where there is none."""
    rows = [row for row in table.rows if row.method == method]
    rows = [row for row in rows if row.label == method] or rows
    return rows[0] if len(rows) == 1 and rows[0].cells.get(metric) is not None else None
