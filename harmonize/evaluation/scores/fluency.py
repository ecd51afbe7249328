"""Is what a model says still language? Pure functions of texts, without a classifier that would have to be fetched."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from harmonize.evaluation.text import is_degenerate, words

_ORDERS = ((2, 2 / 3), (3, 4 / 3))
_LATIN = re.compile(r"^[a-z]+$")
_VOWELS = re.compile(r"[aeiouy]")
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{5,}")
_LONGEST_WORD = 24
_WORDLESS = 0.5
_SYMBOLS = 0.3


def ngram_entropy(text: str) -> float:
    """Mean of 2/3 of the bigram entropy and 4/3 of the trigram entropy of the words, in bits; low = repetitive.

    It grows with the text: n different bigrams have log2 n bits. A text of one word has 0.

    Source: ROME, arXiv 2202.05262, as in RWKU's evaluator (code), which cuts words with nltk; here they are those of
        `harmonize.evaluation.text.words`.
    """
    said = words(text)
    return sum(weight * _entropy(_ngrams(said, n)) for n, weight in _ORDERS) / len(_ORDERS)


def repetition(text: str, n: int = 3) -> float:
    """Share of the n-grams that were said before, in [0, 1]; 0 for a text of fewer than n words.

    Source: Welleck et al. 2020, arXiv 1908.04319 (there over tokens, and called seq-rep-n).
    """
    grams = _ngrams(words(text), n)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def is_gibberish(text: str, stopped: bool = True) -> bool:
    """Whether a text is no language, by rules that can be read.

    Any of: `is_degenerate` (empty or stuck in repetition); half or more of its Latin words are none (without a vowel
    and more than three letters long, five consonants in a row, or longer than 24 letters); 30 % or more of its
    characters are neither letters, digits, spaces nor common punctuation.

    Word salad of real words passes: tests/evaluation/test_fluency.py measures what is found and what is not.

    Source: our choice; peers ask a classifier.
    """
    if is_degenerate(text, stopped):
        return True
    visible = [c for c in text if not c.isspace()]
    odd = sum(
        not (c.isalnum() or c in ".,;:!?'\"()-\u2013\u2014\u2018\u2019\u201c\u201d%$&/") for c in visible
    )
    if visible and odd / len(visible) >= _SYMBOLS:
        return True
    latin = [w for w in words(text) if _LATIN.match(w)]
    broken = sum(_broken(w) for w in latin)
    return bool(latin) and broken / len(latin) >= _WORDLESS


def _broken(word: str) -> bool:
    if len(word) > _LONGEST_WORD:
        return True
    return bool(_CONSONANTS.search(word)) or (len(word) > 3 and not _VOWELS.search(word))


def _ngrams(said: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


def _entropy(grams: Sequence[tuple[str, ...]]) -> float:
    total = len(grams)
    return -sum(c / total * math.log2(c / total) for c in Counter(grams).values()) if total else 0.0
