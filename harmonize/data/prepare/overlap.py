"""What the parts of a data set share: subjects, questions, and questions with their answers in other words."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from itertools import combinations

from harmonize.data.example import ROLES, Example
from harmonize.data.split import SPLITS
from harmonize.data.unify.validate import words

_ARTICLES = frozenset(("a", "an", "the"))


def _subject(e: Example) -> str:
    return e.subject


def _question(e: Example) -> str:
    """Case, punctuation and articles do not tell questions apart; options do."""
    options = (" ".join(words(choice)) for choice in e.choices)
    return "\n".join([" ".join(w for w in words(e.question) if w not in _ARTICLES), *sorted(options)])


def _fact(e: Example) -> str:
    """The words of the question in any order, with the answer's scored words."""
    asked = sorted(set(words(e.question)) - _ARTICLES)
    return "\n".join([" ".join(asked), " ".join(words(e.value or e.answer)), *sorted(e.choices)])


KINDS: dict[str, Callable[[Example], str]] = {
    "subjects": _subject,
    "questions": _question,
    "near_duplicates": _fact,
}


class Overlap:
    """Compares every two cells (role and split), with 8 bytes for each example and kind."""

    def __init__(self) -> None:
        self._hashes: dict[tuple[str, str, str], array[int]] = {}

    def add(self, example: Example) -> None:
        """Counts an example, whose split is assigned."""
        for kind, text in KINDS.items():
            digest = hashlib.blake2b(text(example).encode(), digest_size=8).digest()
            cell = (kind, str(example.role), example.split)
            self._hashes.setdefault(cell, array("Q")).append(int.from_bytes(digest, "big"))

    def found(self) -> list[dict[str, object]]:
        """Pairs of cells that share anything, with the number of different things shared of each kind."""
        import numpy as np

        cells = [(str(role), str(split)) for role in ROLES for split in SPLITS]
        unique = {key: np.unique(np.frombuffer(held, dtype=np.uint64)) for key, held in self._hashes.items()}
        rows: list[dict[str, object]] = []
        for a, b in combinations(cells, 2):
            shared = {
                kind: int(np.intersect1d(unique[kind, *a], unique[kind, *b], assume_unique=True).size)
                for kind in KINDS
                if (kind, *a) in unique and (kind, *b) in unique
            }
            if any(shared.values()):
                rows.append({"between": [".".join(a), ".".join(b)], **shared})
        return rows
