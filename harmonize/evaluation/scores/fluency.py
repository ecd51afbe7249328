"""Is what a model says still language? Pure functions of texts, without a classifier that would have to be fetched."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from harmonize.evaluation.text import is_degenerate, words

_ORDERS = ((2, 2 / 3), (3, 4 / 3))
_LATIN = re.compile(r"^[a-z]{3,}$")
_LONGEST_WORD = 24
_FEWEST_WORDS = 3  # one name is no evidence
_BROKEN = 0.5
_SYMBOLS = 0.3
_PUNCTUATION = frozenset(".,;:!?'\"()-\u2013\u2014\u2018\u2019\u201c\u201d%$\u20ac\u00a3&/+=*\u00b0")
# After the first letter of each group those that English (almost) never puts behind it: letter pairs of less than
# 0.005 % in the distinct words of 6 novels in the public domain.
_NEVER = (
    "aq bghknpqvwxz cbfgjmnpvwxz dhkpqtxz fcghjkmnpqvwxz gbcdfjkmpqvwxz hcghjkpqvxz ihjqwy "
    "jbcdfghjklmnpqrstvwxyz kbcdghjkpqrtvxz lhjqxz mcdghjkqtvwxz nz oj pcdfgjmnqvwxz "
    "qabcdefghijklmnopqrstvwxyz rjqxz sjrvxz tbdgjkpqvxz uhjkquvwy vbcdfghjklmnpqstuvwxz wbcgjmpqvwxyz "
    "xbdfgjklmnqrswyz ydjkquvxyz zbcdfghjkmnopqrstuvwx"
)
# Words that running text cannot do without.
_COMMON = frozenset(
    "the of and a an to in is was for on with as by at from that this it its he his she her they their who which "
    "are were be has have had not or but i you my your me we our do did can will there when what if so "
    "le la les un une et de des du en est que qui dans pour il elle au "
    "der die das und ist von zu den ein eine nicht mit sich auf "
    "el los las y es por una del se con su al lo il di e che per non sono nel della o os as do da em um uma no".split()
)
_RUNNING = 12
_COMMON_SHARE = 0.05
_RARE = frozenset(f"{group[0]}{second}" for group in _NEVER.split() for second in group[1:])


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

    Any of: `is_degenerate` (empty or stuck in repetition); three or more Latin words of three or more letters, at least
    half of them with a pair of letters that English never puts together (or any words, half of them longer than 24
    letters); twelve or more Latin words, fewer than one in twenty of them among the commonest of English, French,
    German, Italian, Portuguese and Spanish; 30 % or more of the characters are neither letters, digits, spaces nor
    common punctuation.

    A true sentence with its words in another order passes, and a long list of names does not:
    tests/evaluation/test_fluency.py measures what is found and what is not.

    Source: our choice; peers ask a classifier.
    """
    if is_degenerate(text, stopped):
        return True
    visible = [c for c in text if not c.isspace()]
    odd = sum(not (c.isalnum() or c in _PUNCTUATION) for c in visible)
    if visible and odd / len(visible) >= _SYMBOLS:
        return True
    said = words(text)
    latin = [w for w in said if _LATIN.match(w)]
    enough = len(latin) >= _FEWEST_WORDS or any(len(w) > _LONGEST_WORD for w in latin)
    if enough and sum(map(_broken, latin)) / len(latin) >= _BROKEN:
        return True
    return len(latin) >= _RUNNING and sum(w in _COMMON for w in said) / len(said) < _COMMON_SHARE


def _broken(word: str) -> bool:
    return len(word) > _LONGEST_WORD or any(word[i : i + 2] in _RARE for i in range(len(word) - 1))


def _ngrams(said: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


def _entropy(grams: Sequence[tuple[str, ...]]) -> float:
    total = len(grams)
    return -sum(c / total * math.log2(c / total) for c in Counter(grams).values()) if total else 0.0
