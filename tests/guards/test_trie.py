"""Forbidden sequences: by hand, and against a search through all of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonize.guards.trie import Trie, ngrams

spans = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=6)
said = st.lists(st.integers(0, 3), max_size=8)


def test_by_hand() -> None:
    trie = Trie([(1, 2, 3), (2, 4), (7,), (1, 2)])
    assert trie.longest == 3
    assert trie.forbidden([]) == {7}
    assert trie.forbidden([1]) == {7, 2}
    assert trie.forbidden([1, 2]) == {7, 3, 4}
    assert trie.forbidden([2]) == {7, 4}
    assert trie.forbidden([2, 1]) == {7, 2}
    assert trie.forbidden([1, 2, 9]) == {7}
    assert Trie([]).forbidden([1, 2]) == set()
    with pytest.raises(ValueError, match="no token"):
        Trie([()])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(spans=spans, said=said)
def test_equals_a_search_through_all_sequences(spans: list[list[int]], said: list[int]) -> None:
    expected = {t for t in range(5) if any([*said, t][-len(s) :] == s for s in spans)}
    assert Trie(spans).forbidden(said) == expected


def test_long_sequences_are_cut_into_runs() -> None:
    assert ngrams((1, 2, 3, 4), 2) == [(1, 2), (2, 3), (3, 4)]
    assert ngrams((1, 2), 2) == ngrams((1, 2), 5) == [(1, 2)]
    assert ngrams((), 2) == []
