"""Comparing what a model said with what is true: normalised containment and ROUGE-L recall."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

# Scripts written without spaces: every character counts as a word, so containment needs no word boundaries there.
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019\u02bc](?=\w)")
_NOT_WORD = re.compile(r"[^\w]+|_+")


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """Words of a text without case, accents' encoding, punctuation and apostrophes.

    `O'Brien` is one word; in scripts without spaces every character is one.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = _APOSTROPHE.sub("", plain)
    spaced = _UNSPACED.sub(r" \1 ", plain)
    # Combining marks are no word characters for `re`, so a decomposed letter must not split its word.
    composed = unicodedata.normalize("NFC", spaced)
    return tuple(_NOT_WORD.sub(" ", composed).split())


def says(text: str, accepted: Iterable[str]) -> bool:
    """Whether any accepted form stands in the text as whole words, in order and unbroken."""
    hay = f" {' '.join(words(text))} "
    return any(needle and f" {' '.join(needle)} " in hay for needle in map(words, accepted))


def rouge_l_recall(text: str, reference: str, stem: bool = True) -> float:
    """ROUGE-L recall: longest common subsequence over the length of the reference, in [0, 1].

    Words are those of the `rouge_score` package (Latin letters and digits only); a reference in which it finds none
    is compared by `words` instead. An empty reference gives 0.

    Args:
        stem: Words are cut to their stems first, as in TOFU and open-unlearning (code); MUSE (code) does not.

    Source: Lin 2004.
    """
    return float(_rouge_l(text, reference, stem).recall)


def rouge_l_f(text: str, reference: str, stem: bool = True) -> float:
    """ROUGE-L F-measure: the harmonic mean of recall and precision, in [0, 1]; otherwise like `rouge_l_recall`."""
    return float(_rouge_l(text, reference, stem).fmeasure)


def _rouge_l(text: str, reference: str, stem: bool) -> Any:
    scorer, tokenizer = _rouge(stem)
    if not tokenizer.tokenize(reference):
        scorer, _ = _rouge(own_words=True)
    return scorer.score(reference, text)["rougeL"]


@lru_cache(maxsize=3)
def _rouge(stem: bool = True, own_words: bool = False) -> tuple[Any, Any]:
    # Imported here: the package pulls in nltk, which costs a second that containment need not pay.
    from rouge_score import rouge_scorer, tokenizers

    class Words(tokenizers.Tokenizer):  # type: ignore[misc]
        def tokenize(self, text: str) -> list[str]:
            return list(words(text))

    tokenizer = Words() if own_words else _Cached(tokenizers.DefaultTokenizer(use_stemmer=stem))
    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=tokenizer), tokenizer


class _Cached:
    """Remembers tokenised texts: references recur under every attack, and stemming is slow."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenize = lru_cache(maxsize=65536)(tokenizer.tokenize)


def is_degenerate(text: str, stopped: bool = True) -> bool:
    """Whether a text is no answer at all: empty or stuck in repetition.

    Any of: no word; one word, or a group of up to four words, repeated in a row at least four times and filling
    at least half of the text; eight or more words of which at most a quarter are distinct; generation that ran
    into its limit (`stopped=False`) with twelve or more words of which fewer than half are distinct.

    Source: our choice.
    """
    said = words(text)
    n = len(said)
    if not n:
        return True
    distinct = len(set(said))
    if n >= 8 and distinct <= n / 4:
        return True
    if not stopped and n >= 12 and distinct < n / 2:
        return True
    return any(_repeated(said, size) * 2 >= n for size in range(1, 5))


def _repeated(said: tuple[str, ...], size: int, least: int = 4) -> int:
    """Length in words of the longest run of one `size`-word group repeated in a row at least `least` times."""
    longest = run = 0
    for i in range(size, len(said)):
        run = run + 1 if said[i] == said[i - size] else 0
        longest = max(longest, run)
    whole = longest + size
    return whole if longest and whole >= least * size else 0
