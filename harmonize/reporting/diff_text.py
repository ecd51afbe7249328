"""A comparison of two runs in the terminal (80 columns), as JSON Lines and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from harmonize.evaluation.paired import ALPHA
from harmonize.evaluation.pairing import CORRECT, KINDS, LEAKED, Pair, counts
from harmonize.evaluation.proof import UNPROVEN
from harmonize.reporting.columns import GAP, bracketed, fixed
from harmonize.reporting.diff import AxisRow, Diff
from harmonize.reporting.escape import clean, markdown
from harmonize.tracking.results import Run

if TYPE_CHECKING:
    from rich.console import Console

_MOST_KEYS = 12
_SHOWN = 220  # characters of an answer in the terminal; files have all
_AXES = "Axes: B - A on the questions that both were asked (95% interval over subjects)"


def label(run: Run) -> str:
    """What a run is, in a few words."""
    method = (run.config.get("method") or {}).get("name")
    name = method or f"evaluated: {(run.config.get('model') or {}).get('name_or_path', '?')}"
    return clean(f"{name}, seed {run.results.seed}")


def p_text(p: float | None) -> str:
    """A p value as printed: `.034`, `<.001`."""
    if p is None:
        return GAP
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def axis_cells(row: AxisRow) -> list[str]:
    """Metric, A, B, difference (of the questions that both were asked), interval, n, p, who is better."""
    found = row.paired
    figures = [GAP if v is None else bracketed(fixed(v), not row.proves) for v in (row.a, row.b)]
    if found is None:
        plain = None if row.a is None or row.b is None else row.b - row.a
        return [
            f"{row.name} {row.better.symbol}",
            *figures,
            GAP if plain is None else signed(plain),
            *[GAP] * 4,
        ]
    between = GAP
    if found.low is not None and found.high is not None:
        between = f"{signed(found.low)} {signed(found.high)}"
    return [
        f"{row.name} {row.better.symbol}",
        *figures,
        signed(found.difference),
        between,
        str(found.n),
        p_text(found.p),
        (found.better(row.better) if row.proves else None) or GAP,
    ]


def signed(value: float) -> str:
    """A difference with its sign; none where it rounds to nothing."""
    text = fixed(value)
    return f"+{text}" if float(text) > 0 else text


HEADS = ("metric", "A", "B", "B-A", "interval", "n", "p", "better")


def tests_made(diff: Diff) -> list[str]:
    """Which tests were made, what their p is not, and what proves nothing."""
    tests = sorted({row.paired.test for row in diff.axes if row.paired})
    unproven = [] if all(row.proves for row in diff.axes) else [UNPROVEN]
    if not tests:
        return unproven
    return [
        *unproven,
        f"p: {'; '.join(tests)}. Not corrected for the number of rows. Better: p < {ALPHA:g} and an interval without 0 "
        "(it takes subjects, not questions, as independent).",
    ]


def print_diff(
    diff: Diff, console: Console, chosen: Sequence[Pair], limit: int | None, with_text: bool
) -> None:
    """Prints everything: configuration, axes, prior strength, changes by role, single answers.

    Args:
        chosen: The pairs to list. limit: How many of them; None = all. with_text: Whether their text is shown.
    """
    from rich.text import Text

    for letter, run in (("A", diff.a), ("B", diff.b)):
        console.print(Text(f"{letter}  {label(run)}  {clean(run.path)}", style="bold"), soft_wrap=True)
    console.print()
    _print_config(diff, console)
    _print_rows(console, _AXES, HEADS, [axis_cells(row) for row in diff.axes])
    for note in (*tests_made(diff), *diff.notes):
        console.print(Text(clean(note), style="dim"))
    console.print()
    _print_strata(diff, console)
    if diff.pairs is None:
        return
    _print_counts(diff.pairs, console)
    _print_pairs(console, chosen, limit, with_text)


def _print_config(diff: Diff, console: Console) -> None:
    from rich.text import Text

    if not diff.config:
        console.print(Text("Configuration: no difference.\n"))
        return
    shown = diff.config[:_MOST_KEYS]
    rows = [[clean(key, 34), clean(a, 20), clean(b, 20)] for key, a, b in shown]
    _print_rows(console, "Configuration", ("key", "A", "B"), rows, left=3)
    if len(diff.config) > len(shown):
        console.print(Text(f"and {len(diff.config) - len(shown)} more keys (see config.yaml)", style="dim"))
    console.print()


def strata_cells(diff: Diff) -> list[list[str]]:
    """Metric, quartile, its limits, A, B, difference, n."""
    return [
        [
            row.name,
            f"{row.quartile + 1}",
            f"{row.low:.3f} {row.high:.3f}",
            fixed(row.paired.a),
            fixed(row.paired.b),
            signed(row.paired.difference),
            str(row.paired.n),
        ]
        for row in diff.strata
    ]


STRATA = "By prior strength (quartile of the start model's log-probability per token)"
STRATA_HEADS = ("metric", "quartile", "log-prob.", "A", "B", "B-A", "n")


def _print_strata(diff: Diff, console: Console) -> None:
    if diff.strata:
        _print_rows(console, STRATA, STRATA_HEADS, strata_cells(diff))
        console.print()


def count_cells(pairs: Iterable[Pair]) -> list[list[str]]:
    """Role and how it was asked, answers, and in each way how many are new in B and how many are so no longer."""
    return [
        [
            f"{clean(role, 12)}, {how}",
            str(row["pairs"]),
            *(f"+{row[kind]} -{row[f'gone {kind}']}" for kind in KINDS),
        ]
        for (role, how), row in sorted(counts(pairs).items())
    ]


COUNTS = "Answers: + newly so in B, - no longer so"
COUNT_HEADS = ("answers to", "n", "leaked", "refused", "wrong", "correct")


def _print_counts(pairs: Sequence[Pair], console: Console) -> None:
    _print_rows(console, COUNTS, COUNT_HEADS, count_cells(pairs))
    console.print()


def _print_rows(
    console: Console, title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i < left else "right", no_wrap=i > 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    console.print(Text(title, style="italic"))
    console.print(table)


def _print_pairs(console: Console, chosen: Sequence[Pair], limit: int | None, with_text: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    shown = chosen if limit is None else chosen[:limit]
    for number, pair in enumerate(shown, 1):
        console.print(Text(f"{number}  {_head(pair)}", style="bold"))
        if not with_text:
            console.print(Text(clean("; ".join(f"{x}: {s.get('verdict')}" for x, s in _sides(pair)))))
            continue
        for line in _lines(pair):
            console.print(Padding(Text(clean(line, _SHOWN)), (0, 0, 0, 3)))
    if len(shown) < len(chosen):
        console.print(Text(f"{len(chosen) - len(shown)} more; --limit {len(chosen)} shows all.", style="dim"))
    if shown and not with_text:
        console.print(
            Text("What was asked and said is shown in a terminal alone; --out FILE writes it, for you alone.")
        )
    if not chosen:
        console.print(Text("No single answer to show."))


def _head(pair: Pair) -> str:
    a = pair.a
    facts = [a.get("role"), "" if a.get("attack") in ("none", "options") else a.get("attack")]
    if a.get("depth") is not None:
        facts.append(f"depth {a['depth']:g}")
    facts += [a.get("variant"), "" if a.get("trained") or a.get("role") == "general" else "held out"]
    said = ", ".join(str(f) for f in facts if f)
    kinds = [
        k for k in pair.kinds if k != CORRECT or LEAKED not in pair.kinds
    ]  # of a forget question the same
    return clean(f"{', '.join(kinds)}: {a.get('example_id')} ({said})")


def _sides(pair: Pair) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("A", pair.a), ("B", pair.b)


def _lines(pair: Pair) -> list[str]:
    a = pair.a
    lines = [f"Q: {a.get('asked') or a.get('question')}"]
    if a.get("prefill"):
        lines.append(f"answer opened with: {a['prefill']}")
    lines.append(f"true: {a.get('reference')}")
    return lines + [f"{x} ({s.get('verdict')}): {s.get('output')}" for x, s in _sides(pair)]


def to_jsonl(pairs: Iterable[Pair]) -> str:
    """One object a pair: what was asked, how it changed, both answers. Text as it is, JSON escapes it."""
    shared: tuple[str, ...] = (
        "example_id",
        "role",
        "subject",
        "split",
        "trained",
        "attack",
        "view",
        "opener",
        "depth",
        "variant",
    )
    shared += ("draw", "question", "asked", "prefill", "reference", "prior")
    own = ("output", "verdict", "score", "said")
    lines = []
    for pair in pairs:
        row: dict[str, Any] = {"changes": list(pair.kinds)}
        row |= {name: pair.a[name] for name in shared if name in pair.a}
        row |= {x.lower(): {name: s.get(name) for name in own} for x, s in _sides(pair)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def to_markdown(diff: Diff, chosen: Iterable[Pair]) -> str:
    """Everything that is printed, with full answers."""
    lines = ["# Two runs compared", ""]
    lines += [
        f"- {x}: {markdown(label(run))}, {markdown(run.path)}" for x, run in (("A", diff.a), ("B", diff.b))
    ]
    lines += ["", "## Configuration", "", *_grid(("key", "A", "B"), diff.config)]
    lines += ["## Axes", "", *_grid(HEADS, [axis_cells(row) for row in diff.axes])]
    lines += [f"- {markdown(note)}" for note in (*tests_made(diff), *diff.notes)] + [""]
    if diff.strata:
        lines += [f"## {STRATA}", "", *_grid(STRATA_HEADS, strata_cells(diff))]
    if diff.pairs is not None:
        lines += [f"## {COUNTS}", "", *_grid(COUNT_HEADS, count_cells(diff.pairs))]
        lines += ["## Answers", ""]
        for pair in chosen:
            lines += [f"- {markdown(_head(pair))}", *(f"    - {markdown(line)}" for line in _lines(pair))]
    return "\n".join(lines).rstrip() + "\n"


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    found = [f"| {' | '.join(markdown(cell) for cell in row)} |" for row in rows]
    if not found:
        return ["None.", ""]
    return [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *found, ""]
