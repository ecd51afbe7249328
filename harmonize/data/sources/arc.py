"""ARC (arXiv 1803.05457): grade-school science, multiple choice, in the three layouts it goes round in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harmonize.data.example import Role
from harmonize.data.jsonl import kind_of
from harmonize.data.records import Record
from harmonize.data.sources.fields import choice, fail, index_of, letters, optional, text, texts
from harmonize.data.sources.files import listing, missing, resolve_root
from harmonize.data.sources.rows import Row, rows
from harmonize.data.sources.source import Source
from harmonize.errors import ConfigError, DataError, did_you_mean

ORIGIN = "https://allenai.org/data/arc"
SUBSETS = ("easy", "challenge")
SPLITS = {"train": "train", "dev": "val", "validation": "val", "val": "val", "test": "test"}
SUFFIXES = (".jsonl", ".json", ".parquet")
_SPLIT = re.compile(rf"(?:^|[-_/ ])({'|'.join(SPLITS)})(?=[-_./]|$)", re.IGNORECASE)


def read(
    *,
    name: str = "arc",
    root: str | None = None,
    subset: str | None = None,
    splits: Sequence[str] | None = None,
) -> Source:
    """Reads ARC as general multiple choice; every question is a subject of its own.

    Layouts: AI2's {id, question: {stem, choices: [{text, label}]}, answerKey}, the hub's {question, choices: {text,
    label}, answerKey}, and {query, choices, gold} of in-context-learning suites (its `Question: ` is taken off). The
    split of a file is read off its name and kept in `meta.benchmark_split`.

    Args:
        name: Of the source.
        root: A folder or file, or hf:allenai/ai2_arc.
        subset: easy or challenge, as file or folder names say; null takes all files.
        splits: Of train, val, test, as file names say; null takes all files.

    Raises:
        ConfigError: No root, an unknown subset or split.
        DataError: Missing or malformed files.
    """
    if subset is not None and subset not in SUBSETS:
        raise ConfigError(f"{name}: subset={subset} is unknown. {did_you_mean(subset, SUBSETS)}")
    for split in splits or ():
        if split not in SPLITS.values():
            raise ConfigError(
                f"{name}: splits: unknown split '{split}'. {did_you_mean(split, SPLITS.values())}"
            )
    base = resolve_root(root, name, ORIGIN)
    paths = [base] if base.is_file() else sorted(base / n for n in listing(base))
    found = [
        (p, _split(p, base))
        for p in paths
        if p.suffix in SUFFIXES
        and (subset is None or subset in str(p.relative_to(base.parent)).lower())
        and (splits is None or _split(p, base) in splits)
    ]
    if not found:
        raise DataError(
            missing(base, [f"ARC-{(subset or 'Easy').title()}-Test"], "ARC's questions", SUFFIXES)
        )

    def stream() -> Iterator[Record]:
        for file, split in found:
            stem = "-".join(file.relative_to(base.parent if base.is_file() else base).with_suffix("").parts)
            for row in rows(file):
                question, options, index = _parts(file, row)
                identity = f"{name}-{stem}-{row.number}"
                meta: dict[str, Any] = {"benchmark_split": split} if split else {}
                if given := optional(file, row, "id"):
                    meta["benchmark_id"] = given
                yield choice(
                    identity,
                    Role.GENERAL,
                    question,
                    options,
                    index,
                    subject=identity,
                    source=f"arc/{stem}",
                    meta=meta,
                )

    return Source(name, stream, tuple(f for f, _ in found), licence="CC-BY-SA-4.0", origin=ORIGIN)


def _split(file: Path, base: Path) -> str:
    match = _SPLIT.search(str(file.relative_to(base.parent)))
    return SPLITS[match[1].lower()] if match else ""


def _parts(file: Path, row: Row) -> tuple[str, tuple[str, ...], int]:
    """Question, options and the index of the right one."""
    data = row.data
    if "gold" in data:
        options = texts(file, row, "choices", 2)
        question = text(file, row, "query").removeprefix("Question: ")
        return question, options, index_of(file, row, "gold", letters(options))
    asked = data.get("question")
    if isinstance(asked, dict):
        row = row._replace(data={**data, "question": asked.get("stem"), "choices": asked.get("choices")})
    offered = row.data.get("choices")
    if isinstance(offered, list) and all(isinstance(c, dict) for c in offered):
        offered = {key: [c.get(key) for c in offered] for key in ("text", "label")}
    if not isinstance(offered, dict):
        fail(file, row, "choices", f"expected texts with labels, found {kind_of(offered)}")
    nested = row._replace(data={**offered, "answerKey": data.get("answerKey")})
    options, labels = texts(file, nested, "text", 2), texts(file, nested, "label", 2)
    if len(labels) != len(options):
        fail(file, row, "choices", f"{len(options)} options but {len(labels)} labels")
    return text(file, row, "question"), options, index_of(file, nested, "answerKey", labels)
