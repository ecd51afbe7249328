"""Forbidden token sequences as a trie, and what a sequence that is being said must not go on with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Node = dict[int, Any]
_END = -1  # no token has this id; marks where a sequence ends


class Trie:
    """A set of token sequences.

    Args:
        spans: Sequences of at least one id; one that another one ends in, or begins with, is kept all the same.

    Attributes:
        longest: Ids of the longest sequence; 0 where there is none.
    """

    def __init__(self, spans: Iterable[Sequence[int]]) -> None:
        self._root: Node = {}
        self.longest = 0
        for span in spans:
            if not span:
                raise ValueError("a forbidden sequence has no token")
            node = self._root
            for token in span:
                node = node.setdefault(int(token), {})
            node[_END] = True
            self.longest = max(self.longest, len(span))

    def forbidden(self, said: Sequence[int]) -> set[int]:
        """Tokens with which some suffix of `said` would complete a sequence; of single-token ones, always all."""
        found: set[int] = set()
        for start in range(max(0, len(said) - self.longest + 1), len(said) + 1):
            node: Node | None = self._root
            for token in said[start:]:
                node = node.get(int(token)) if node else None
            found.update(token for token, child in (node or {}).items() if token != _END and _END in child)
        return found


def ngrams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """All runs of n ids, in order; the sequence itself if it is no longer than that, nothing if it is empty."""
    if len(ids) <= n:
        return [tuple(ids)] if ids else []
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
