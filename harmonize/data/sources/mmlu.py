"""MMLU (arXiv 2009.03300): multiple choice on 57 subjects, one CSV a subject, with or without a header line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harmonize.data.example import Example, Role
from harmonize.data.records import Record
from harmonize.data.sources.fields import choice, fail, index_of, letters, text, texts
from harmonize.data.sources.files import look, missing, resolve_root
from harmonize.data.sources.rows import Row, csv_records, rows
from harmonize.data.sources.source import Source
from harmonize.errors import ConfigError, DataError, did_you_mean

ORIGIN = "https://github.com/hendrycks/test"
SPLITS = {"dev": ("dev",), "val": ("val", "validation"), "test": ("test",)}
COLUMNS = ("question", "A", "B", "C", "D", "answer")


def read(
    *,
    name: str = "mmlu",
    root: str | None = None,
    subjects: Sequence[str] | None = None,
    splits: Sequence[str] = ("test",),
) -> Source:
    """Reads MMLU as general multiple choice: question, four options, and the answer as a letter or an index from 0.

    A subject of ours is a subject of MMLU, so splits keep subjects whole; which of MMLU's own splits a question is
    from stands in `meta.benchmark_split`. dev holds the five examples a subject that few-shot prompts show.

    Args:
        name: Of the source.
        root: Folder with `<split>/<subject>_<split>.csv` (as published), `<subject>_<split>.csv`, or
            `<subject>/<split>-*.parquet`; or hf:cais/mmlu.
        subjects: Such as college_biology; null takes all that are there.
        splits: Of dev, val, test.

    Raises:
        ConfigError: No root, or an unknown split.
        DataError: A subject that is not there (the nearest is named), missing or malformed files.
    """
    for split in splits:
        if split not in SPLITS:
            raise ConfigError(f"{name}: splits: unknown split '{split}'. {did_you_mean(split, SPLITS)}")
    folder = resolve_root(root, name, ORIGIN, ("*dev*", "*val*", "*test*"))
    found = [
        (split, subject, file) for split in splits for subject, file in _files(folder, split, subjects, name)
    ]

    def stream() -> Iterator[Record]:
        for split, subject, file in found:
            reader = _csv if file.suffix == ".csv" else _rows
            yield from reader(file, f"{name}-{subject}-{split}", subject, split)

    return Source(name, stream, tuple(f for *_, f in found), licence="MIT", origin=ORIGIN)


def _files(folder: Path, split: str, subjects: Sequence[str] | None, name: str) -> Iterator[tuple[str, Path]]:
    there: dict[str, list[Path]] = {}
    for word in SPLITS[split]:
        for pattern in (f"{word}/*_{word}.csv", f"*_{word}.csv"):
            for file in sorted(folder.glob(pattern)):
                there.setdefault(file.stem.removesuffix(f"_{word}"), [file])
        for below in sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else ():
            # The hub's folder `all` repeats the others.
            if below.name not in ("all", "auxiliary_train") and (files := look(below, word)):
                there.setdefault(below.name, list(files))
    for subject in subjects if subjects is not None else sorted(there):
        if subject not in there:
            if there:
                raise DataError(
                    f"{name}: {folder} has no subject '{subject}' in split {split}. {did_you_mean(subject, there, 60)}"
                )
            break
        yield from ((subject, file) for file in there[subject])
    if not there:
        raise DataError(
            missing(folder, [f"{split}/<subject>_{split}"], f"MMLU's {split} questions", (".csv",))
        )


def _csv(file: Path, prefix: str, subject: str, split: str) -> Iterator[Example]:
    number = 0
    for line, record in csv_records(file):
        if len(record) != len(COLUMNS):
            raise DataError(
                f"{file}, line {line}: {len(record)} fields; expected {len(COLUMNS)}: question, four options, answer."
            )
        if not number and record[-1].strip().lower() == "answer":  # a header line
            continue
        number += 1
        row = Row(number, f"line {line}", dict(zip(COLUMNS, record, strict=True)))
        yield _example(file, row, prefix, subject, split, tuple(record[1:-1]))
    if not number:
        raise DataError(f"{file} is empty: it has no questions.")


def _rows(file: Path, prefix: str, subject: str, split: str) -> Iterator[Example]:
    for row in rows(file, required=("question", "choices", "answer")):
        yield _example(file, row, prefix, subject, split, texts(file, row, "choices", 2))


def _example(
    file: Path, row: Row, prefix: str, subject: str, split: str, options: tuple[str, ...]
) -> Example:
    if blank := [letter for letter, option in zip("ABCD", options, strict=False) if not option.strip()]:
        fail(file, row, blank[0], "is empty")
    return choice(
        f"{prefix}-{row.number}",
        Role.GENERAL,
        text(file, row, "question"),
        options,
        index_of(file, row, "answer", letters(options)),
        subject=subject,
        source=f"mmlu/{subject}",
        meta={"benchmark_split": split},
    )
