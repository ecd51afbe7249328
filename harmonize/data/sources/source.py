"""What every reader returns: a lazy stream of records and where they came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harmonize.data.records import Record


@dataclass(frozen=True)
class Source:
    """One corpus, opened but not read.

    Readers are functions of keyword-only settings that check that their files exist and return this. `read` may be
    called again and again; it yields records in a fixed order and holds no more than one file's current part.

    Attributes:
        name: Name of the reader or of the user's data.
        read: Streams the records.
        files: Every file that `read` opens, for provenance (checksums are taken by `prepare`).
        licence: SPDX name or a sentence; empty if unknown.
        origin: Where the corpus is published.
        verified: Whether the layout was checked against the published files, not only against its documentation.
        refusals: Refusal texts that come with the corpus.
        instructions: Teacher instructions that fit it.
        notes: What a user should know, in sentences.
    """

    name: str
    read: Callable[[], Iterator[Record]]
    files: tuple[Path, ...] = ()
    licence: str = ""
    origin: str = ""
    verified: bool = True
    refusals: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
