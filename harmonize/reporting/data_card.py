"""The card of a prepared data set: what is in it, where it came from, what was left out, and a few examples to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harmonize.data.example import Example, Role
from harmonize.reporting.escape import clean, markdown

_LONGEST = 240


def data_card(facts: Mapping[str, Any], samples: Mapping[str, Sequence[Example]]) -> str:
    """Markdown; every text of the data is escaped. Utility items are counted, never shown.

    Args:
        facts: What `dataset.json` holds.
        samples: File name to examples.
    """
    rewriter = facts["rewriter"]
    lines = [
        f"# {markdown(facts['name'])}",
        "",
        "Prepared by `harmonize prepare`; the same facts for programs are in `dataset.json`. These files tell what a "
        "model is to forget: they are readable by their owner only.",
        "",
        "## Examples",
        "",
        *_table(
            ("file", "examples", "subjects"),
            [(name, f["examples"], f["subjects"]) for name, f in facts["files"].items()],
        ),
        "",
        "## Sources",
        "",
        *_table(
            ("source", "records", "files", "licence", "published at"),
            [
                (
                    source["name"],
                    ", ".join(f"{n} {form}" for form, n in source["records"].items()),
                    len(source["files"]),
                    source["licence"] or "unknown",
                    source["origin"] or "unknown",
                )
                for source in facts["sources"]
            ],
        ),
        "",
        *(
            f"- {markdown(source['name'])}: {markdown(note)}"
            for source in facts["sources"]
            for note in source["notes"]
        ),
        "",
        "## How they were made",
        "",
        f"- Rewriter: {markdown(rewriter['name'])}, fingerprint `{rewriter['fingerprint'][:16]}`",
        f"- Tasks: {facts['tasks']}; pairs returned: {facts['pairs']}; kept: {facts['kept']}",
        *([f"- Tokens: {_tokens(rewriter)}"] if rewriter["tokens"] else []),
        "",
    ]
    for title, counts in (("Rejected", facts["rejected"]), ("Failed", facts["failed"])):
        if counts:
            lines += [f"## {title}", "", *_table(("reason", "number"), list(counts.items())), ""]
    if facts["anchors"]["kind"] != "none":
        a = facts["anchors"]
        lines += [
            "## Anchors",
            "",
            f"{a['linked']} for {a['forget']} forget questions, {markdown(a['kind'])}.",
            "",
        ]
    lines += ["## Overlap", "", *_overlap(facts["overlap"]), "", "## Samples", ""]
    for name, examples in samples.items():
        shown = [e for e in examples if e.role != Role.GENERAL]
        if shown:
            lines += [f"### {name}", "", *_table(("question", "answer", "scored"), map(_sample, shown)), ""]
    return "\n".join(lines)


def overlap_lines(overlap: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the parts share, in sentences for the terminal."""
    names = {"subjects": "subject(s)", "questions": "question(s)", "near_duplicates": "near-duplicate(s)"}
    return [
        f"{' and '.join(row['between'])} share "
        + ", ".join(f"{row[kind]} {name}" for kind, name in names.items() if row.get(kind))
        for row in overlap
    ]


def _overlap(overlap: Sequence[Mapping[str, Any]]) -> list[str]:
    if not overlap:
        return ["No two parts share a subject, a question or a near-duplicate."]
    return [f"- {markdown(line)}" for line in overlap_lines(overlap)]


def _sample(example: Example) -> tuple[str, str, str]:
    return (
        clean(example.question, _LONGEST),
        clean(example.answer, _LONGEST),
        clean(example.value or "all of it", _LONGEST),
    )


def _tokens(rewriter: Mapping[str, Any]) -> str:
    counts = f"{rewriter['tokens']['prompt']} in prompts, {rewriter['tokens']['reply']} in replies"
    return counts if rewriter["cost"] is None else f"{counts}; cost {rewriter['cost']:.4f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    body = [f"| {' | '.join(markdown(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body]
