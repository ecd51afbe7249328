"""The figures of one run in the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harmonize.evaluation.proof import UNPROVEN, ineffective
from harmonize.reporting.columns import GAP, bracketed, fixed
from harmonize.reporting.escape import clean
from harmonize.reporting.table import value_of
from harmonize.tracking.metric import METRIC_NAMES, direction_of
from harmonize.tracking.results import Results

if TYPE_CHECKING:
    from rich.console import Console


_WIDE = 100


def run_table(results: Results, console: Console | None = None) -> None:
    """Prints the figures of one run: a line a metric, the references beside, with interval and n."""
    from rich.console import Console as RichConsole
    from rich.table import Table as RichTable
    from rich.text import Text

    console = console or RichConsole()
    named = (
        ("target", results.target_metrics),
        ("teacher", results.teacher_metrics),
        ("gold", results.gold_metrics),
    )
    columns = [(name, block) for name, block in named if block]
    columns.append(("after" if results.target_metrics else "value", results.metrics))
    between = 2 if console.width >= _WIDE else 1
    table = RichTable(box=None, padding=(0, between, 0, 0), pad_edge=False)
    table.add_column("metric", overflow="fold")  # no name is cut
    for name, _ in columns:
        table.add_column(name, justify="right")
    table.add_column("interval", justify="right")
    table.add_column("n", justify="right")
    names = [name for name in METRIC_NAMES if any(name in block for _, block in columns)]
    names += sorted({name for _, block in columns for name in block} - set(names), key=_natural)
    weak = set(ineffective(results.target_metrics))
    for name in names:
        own = results.metrics.get(name)
        better = own.direction if own is not None else direction_of(name)
        values = [value_of(block, name) for _, block in columns]
        low, high = (own.ci_low, own.ci_high) if own is not None else (None, None)
        interval = (
            GAP if low is None or high is None else f"{fixed(low)}{' to ' if low < 0 else '-'}{fixed(high)}"
        )
        table.add_row(
            Text(f"{clean(name)} {better.symbol}"),
            *(GAP if v is None else bracketed(fixed(v), name in weak) for v in values),
            interval,
            GAP if own is None else str(own.n),
        )
    console.print(table)
    if weak:
        console.print(Text(UNPROVEN, style="dim"))
    _strata(results, console)
    _stability(results, console)
    for note in results.notes:
        console.print(Text(f"Note: {clean(note)}"))


def _natural(name: str) -> list[tuple[bool, float, str]]:
    """An order in which `@5` comes before `@10`."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(i % 2 == 0, float(p) if i % 2 else 0.0, p) for i, p in enumerate(parts)]


def _strata(results: Results, console: Console) -> None:
    """Forgetting by prior strength: a line a metric, the quartile that the start model knew least first."""
    found = results.extra.get("prior_strength")
    if not isinstance(found, dict) or not found:
        return
    rows = [
        [f"{name} ↓", *(GAP if s["value"] is None else f"{fixed(s['value'])} ({s['n']})" for s in strata)]
        for name, strata in found.items()
    ]
    title = "By prior strength: quartiles of the target's log-probability of the answer (n)"
    _print(console, title, ["metric", "weakest", "2", "3", "strongest"], rows)


def _stability(results: Results, console: Console) -> None:
    """What probes saw on the way."""
    for name, report in (results.extra.get("callbacks") or {}).items():
        metrics = report.get("metrics") if isinstance(report, dict) else None
        if not metrics:
            continue
        rows = [
            [
                f"{metric} {METRIC_NAMES[metric].symbol}",
                fixed(g["start"]),
                f"{fixed(g['minimum'])} @{g['minimum_step']}",
                f"{fixed(g['maximum'])} @{g['maximum_step']}",
                fixed(g["final"]),
                fixed(g["drop"]),
                fixed(g["recovery"]),
            ]
            for metric, g in metrics.items()
            if metric in METRIC_NAMES
        ]
        title = f"On the way ({clean(name)}): value @step; drop within {report.get('window')} steps"
        _print(console, title, ["metric", "start", "minimum", "maximum", "final", "drop", "recovery"], rows)


def _print(console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    console.print(Text(title, style="italic"))
    console.print(table)
