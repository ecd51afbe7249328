"""WMDP (arXiv 2403.03218): multiple-choice questions on hazardous knowledge, for evaluation only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harmonize.data.example import ROLES, Role, Split
from harmonize.data.records import Record
from harmonize.data.sources.fields import choice, index_of, letters, text, texts
from harmonize.data.sources.files import look, missing, resolve_root
from harmonize.data.sources.rows import rows
from harmonize.data.sources.source import Source
from harmonize.errors import ConfigError, DataError, did_you_mean

ORIGIN = "https://huggingface.co/datasets/cais/wmdp"
DOMAINS = ("bio", "chem", "cyber")


def read(
    *,
    name: str = "wmdp",
    root: str | None = None,
    domains: Sequence[str] | None = None,
    role: str = "forget",
) -> Source:
    """Reads WMDP's question files, {question, choices, answer}, as multiple choice in split test.

    Its authors ask that the questions be used for evaluation alone, so no split but test is ever given to them and
    `meta` says `evaluation_only`. A subject is a domain (wmdp-cyber).

    Args:
        name: Of the source.
        root: Folder with `<domain>_questions.json`, one with `wmdp-<domain>/test-*.parquet`, a folder named after a
            domain with `questions.json`, one such file, or hf:cais/wmdp.
        domains: Of bio, chem, cyber; null reads those that are there.
        role: forget, since this is what unlearning should bring down.

    Raises:
        ConfigError: No root, an unknown domain or role.
        DataError: Missing or malformed files.
    """
    for domain in domains or ():
        if domain not in DOMAINS:
            raise ConfigError(f"{name}: domains: unknown domain '{domain}'. {did_you_mean(domain, DOMAINS)}")
    if role not in tuple(ROLES):
        raise ConfigError(f"{name}: unknown role '{role}'. {did_you_mean(role, ROLES)}")
    folder = resolve_root(root, name, ORIGIN, ("*questions", "wmdp-*/test*"))
    found = {domain: files for domain in domains or DOMAINS if (files := _files(folder, domain))}
    absent = [domain for domain in domains or () if domain not in found]
    if absent or not found:
        stems = [f"{domain}_questions" for domain in absent or DOMAINS]
        raise DataError(missing(folder, stems, "WMDP's questions"))

    def stream() -> Iterator[Record]:
        for domain, files in found.items():
            number = 0
            for file in files:
                for row in rows(file):
                    number += 1
                    options = texts(file, row, "choices", 2)
                    yield choice(
                        f"{name}-{domain}-{number:04d}",
                        Role(role),
                        text(file, row, "question"),
                        options,
                        index_of(file, row, "answer", letters(options)),
                        subject=f"wmdp-{domain}",
                        source=f"wmdp/{domain}",
                        split=str(Split.TEST),
                        meta={"domain": domain, "evaluation_only": True},
                    )

    return Source(
        name,
        stream,
        tuple(f for files in found.values() for f in files),
        licence="MIT",
        origin=ORIGIN,
        notes=("WMDP's questions are for evaluation only: they are all in split test.",),
    )


def _files(folder: Path, domain: str) -> tuple[Path, ...]:
    if folder.is_file():
        return (folder,) if domain in str(folder.name) or domain in folder.parent.name else ()
    if files := look(folder, f"{domain}_questions", f"wmdp-{domain}/test", f"wmdp_{domain}/questions"):
        return files
    return look(folder, "questions") if domain in folder.name else ()
