"""The section of the questions that fail most."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harmonize.reporting.columns import fixed
from harmonize.reporting.markup.elements import join, tag, words
from harmonize.reporting.markup.tables import plain
from harmonize.reporting.page.worst import Asked, Worst

MOST_WORST = 20


def questions(found: Worst, with_text: bool) -> Markup:
    """The questions that fail most, by role."""
    told = [f"Samples of runs: {found.read}."]
    if found.lacking:
        told.append(f"Runs without (purged, or never written): {found.lacking}.")
    if found.beyond:
        told.append(f"Runs whose samples were not read, for their size: {found.beyond}.")
    if found.broken:
        told.append(f"Files with lines that are no samples, which were passed over: {len(found.broken)}.")
    if not with_text:
        told.append(
            "What was asked and said is withheld: it is what was to be forgotten. See it with --samples."
        )
    parts = [tag("p", " ".join(told), class_="note")]
    for role, title in (
        ("forget", "Forget, still leaking"),
        *((r, f"{r}, lost") for r in found.asked if r != "forget"),
    ):
        rows = [a for a in found.asked.get(role, []) if _is_bad(a)][:MOST_WORST]
        if rows:
            total = sum(map(_is_bad, found.asked[role]))
            first = f", the first {len(rows)} are shown" if total > len(rows) else ""
            told_of = f"{total} of {len(found.asked[role])} questions{first}"
            head = tag("summary", f"{title[0].upper()}{title[1:]}: {told_of}")
            table = _forget_table(rows, with_text) if role == "forget" else _other_table(rows, with_text)
            parts.append(tag("details", head, table, open="" if role == "forget" else None))
        elif role in found.asked:
            parts.append(tag("p", f"{role}: none failed."))
    return join(parts)


def _is_bad(asked: Asked) -> bool:
    return (
        asked.leaked > 0 if asked.role == "forget" else (asked.accuracy or 0.0) < 1 and asked.plain_runs > 0
    )


def _forget_table(rows: Sequence[Asked], with_text: bool) -> Markup:
    heads = [("question", False), ("used in unlearning", False), ("leaks in", True), ("answered plainly", True),
             ("attacks that reach it most", False), *([("as it was said", False)] if with_text else [])]  # fmt: skip
    body = []
    for a in rows:
        by = ", ".join(f"{name} ({n})" for name, n in a.attacks.most_common(3))
        share = a.leaked / max(1, a.runs)
        plainly = ("–", None) if a.accuracy is None else (fixed(a.accuracy), f"{a.accuracy:.4f}")
        body.append([words(a.example, 60), "yes" if a.trained else "held out",
                     (f"{a.leaked} of {a.runs} runs", f"{share:.4f}"), plainly, words(by, 120),
                     *([_said(a)] if with_text else [])])  # fmt: skip
    return plain(heads, body)


def _other_table(rows: Sequence[Asked], with_text: bool) -> Markup:
    heads = [("question", False), ("accuracy", True), ("refused", True), ("runs", True),
             *([("as it was said", False)] if with_text else [])]  # fmt: skip
    body = [
        [words(a.example, 60), (fixed(a.accuracy or 0.0), f"{a.accuracy or 0.0:.4f}"),
         (fixed(a.refusals), f"{a.refusals:.4f}"), str(a.runs), *([_said(a)] if with_text else [])]
        for a in rows
    ]  # fmt: skip
    return plain(heads, body)


def _said(asked: Asked) -> Markup:
    """One failure as it was said; every text is escaped."""
    if not asked.by:
        return tag("span", "–")
    lines = [
        ("Q", asked.question),
        ("opened with", asked.prefill),
        ("true", asked.reference),
        (asked.by, asked.output),
    ]
    return tag(
        "dl",
        *(join([tag("dt", words(k, 60)), tag("dd", words(v, 400), dir="auto")]) for k, v in lines if v),
        class_="said",
    )
