"""Rows that parts score: of the data set, of a benchmark's reader, or of a file of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from harmonize.data.corpus import Corpus, content_hash
from harmonize.data.example import ROLES, Example, Role, Split
from harmonize.data.prefill import unit_hash
from harmonize.data.records import Passage, Record
from harmonize.errors import DataError, HarmonizeError, did_you_mean

T = TypeVar("T")
ANSWERED = tuple(str(r) for r in ROLES if r != Role.GENERAL)
"""Roles whose examples have an answer of their own to score."""


def content_key(*rows: object) -> str:
    """The content key of some rows (examples, passages, or plain values)."""
    return content_hash(*(asdict(r) if isinstance(r, Example | Passage) else r for r in rows))


def limited(rows: Sequence[T], limit: int | None, name: Callable[[T], str]) -> list[T]:
    """At most `limit` rows, chosen by a hash of their name and kept in order: the same for every model and seed."""
    if limit is None or len(rows) <= limit:
        return list(rows)
    chosen = {name(r) for r in sorted(rows, key=lambda r: (unit_hash("evaluated", name(r)), name(r)))[:limit]}
    return [r for r in rows if name(r) in chosen]


def role_problems(at: str, roles: Iterable[str]) -> list[str]:
    """Roles with answers.

    Args:
        at: Such as `suite.parts.memorization.roles`.
    """
    return [
        f"{at}: unknown role '{r}'. {did_you_mean(str(r), ANSWERED)} For example {at}=[forget]."
        for r in roles
        if r not in ANSWERED
    ]


def shown_facts(corpus: Corpus, suite: Any, role: str) -> list[Example]:
    """Forget facts that unlearning is shown; of the other roles facts of held-out subjects."""
    split = Split.TRAIN if role == Role.FORGET else Split.TEST
    return limited(corpus.facts(role, split), suite.max_examples, lambda e: e.fact_id)


def root_problems(at: str, root: str | None, what: str, instead: str = "") -> list[str]:
    """A part that reads files needs a folder that is there.

    Args:
        at: Such as `suite.parts.tofu`. what: What the folder holds.
        instead: Another way, as a clause.
    """
    if not root:
        return [f"{at}.root is missing: the folder with {what}. Type {at}.root=<folder>{instead}."]
    if root.startswith("hf:") or Path(root).expanduser().exists():
        return []
    return [f"{at}.root={root}: there is no such folder with {what}. Correct it: {at}.root=<folder>."]


def sets_of(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by the benchmark's own set (`meta.set`, with `meta.part` where there is one)."""
    found: dict[str, list[Record]] = {}
    for record in records:
        meta: Mapping[str, str] = record.meta
        key = str(meta.get("set", ""))
        part = meta.get("part")
        found.setdefault(f"{key}/{part}" if part else key, []).append(record)
    return found


def examples_in(records: Iterable[Record], where: str) -> list[Example]:
    """Records that are questions.

    Raises:
        DataError: One that is not.
    """
    return _all_of(Example, records, where, "question with an answer")


def passages_in(records: Iterable[Record], where: str) -> list[Passage]:
    """Records that are running text.

    Raises:
        DataError: One that is not.
    """
    return _all_of(Passage, records, where, "running text")


def _all_of(kind: type[T], records: Iterable[Record], where: str, what: str) -> list[T]:
    found: list[T] = []
    for record in records:
        if not isinstance(record, kind):
            raise DataError(f"{where}: '{record.id}' is no {what}.")
        found.append(record)
    return found


def read_or_tell(read: Callable[[], T], at: str) -> T:
    """What a reader returns; its message names the part's key in place of the reader's own.

    Raises:
        DataError: What the reader says.
    """
    try:
        return read()
    except HarmonizeError as error:
        raise DataError(str(error).replace("source.root", f"{at}.root")) from None
