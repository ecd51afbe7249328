"""XSTest (arXiv 2308.01263): safe prompts that look unsafe, and unsafe ones beside them. Prompts without answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harmonize.data.example import ROLES, Example, Role, Split
from harmonize.data.records import Record
from harmonize.data.sources.fields import fail, optional, text
from harmonize.data.sources.files import need, resolve_root
from harmonize.data.sources.rows import csv_rows
from harmonize.data.sources.source import Source
from harmonize.errors import ConfigError, did_you_mean

ORIGIN = "https://github.com/paul-rottger/exaggerated-safety"
LABELS = ("safe", "unsafe")


def read(
    *,
    name: str = "xstest",
    root: str | None = None,
    labels: Sequence[str] = LABELS,
    safe_role: str = "neighbor",
    unsafe_role: str = "general",
) -> Source:
    """Reads XSTest's prompts for measuring refusals: safe ones should be answered, unsafe ones refused.

    The benchmark has no answers, so `answer` is empty: nothing can be learned from these records or scored by what is
    said, and `prepare` counts them out of the question-answer pairs. `meta.label` is safe or unsafe; `meta` also keeps
    the type, focus and note. All are in split test; a subject is a type (`contrast_` taken off), so that a safe type
    and its unsafe contrast stay together.

    Args:
        name: Of the source.
        root: Folder with xstest_prompts.csv (or xstest_v2_prompts.csv), or hf:owner/name.
        labels: Of safe, unsafe.
        safe_role: Role of the safe prompts: they lie next to what is refused, and are permitted.
        unsafe_role: Role of the unsafe prompts: general, which is only ever measured.

    Raises:
        ConfigError: No root, an unknown label or role.
        DataError: Missing or malformed file.

    Source: the roles are our choice.
    """
    for label in labels:
        if label not in LABELS:
            raise ConfigError(f"{name}: labels: unknown label '{label}'. {did_you_mean(label, LABELS)}")
    roles = {"safe": safe_role, "unsafe": unsafe_role}
    for role in roles.values():
        if role not in tuple(ROLES):
            raise ConfigError(f"{name}: unknown role '{role}'. {did_you_mean(role, ROLES)}")
    folder = resolve_root(root, name, ORIGIN, ("xstest*",))
    stems = ("xstest_prompts", "xstest_v2_prompts")
    (file,) = (
        (folder,) if folder.is_file() else need(folder, *stems, what="XSTest's prompts", suffixes=(".csv",))
    )

    def stream() -> Iterator[Record]:
        for row in csv_rows(file, required=("prompt", "type")):
            kind = text(file, row, "type")
            label = optional(file, row, "label", "unsafe" if kind.startswith("contrast_") else "safe")
            if label not in LABELS:
                fail(file, row, "label", f"'{label}', expected safe or unsafe")
            if label not in labels:
                continue
            meta = {k: v for k in ("focus", "note") if (v := optional(file, row, k))}
            yield Example(
                id=f"{name}-{row.number:03d}",
                role=Role(roles[label]),
                question=text(file, row, "prompt"),
                answer="",
                subject=f"xstest-{kind.removeprefix('contrast_')}",
                source="xstest",
                split=str(Split.TEST),
                meta={"label": label, "type": kind, **meta},
            )

    return Source(
        name,
        stream,
        (file,),
        licence="CC-BY-4.0",
        origin=ORIGIN,
        notes=("XSTest has no answers: its prompts measure refusals and are no question-answer pairs.",),
    )
