"""Phrases that say when: dates, years, times of day."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harmonize.data.unify.rules import lexicon as lex
from harmonize.data.unify.rules.sentences import Token

if TYPE_CHECKING:
    from harmonize.data.unify.rules.clauses import Clause

_MONTH = "(?:" + "|".join(sorted(lex.MONTHS)) + ")"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = (
    rf"(?:{_MONTH} {_DAY}(?:, \d{{4}})?|\d{{1,2}} {_MONTH}(?: \d{{4}})?|{_MONTH}(?:,? \d{{4}})?"
    r"|\d{4}|the (?:\d{2})?\d0s)"
)
_DATED = re.compile(
    rf"(?:[Ii]n|[Oo]n|[Bb]y|[Ss]ince|[Uu]ntil) (?:early |late |mid-)?{_DATE}\b(?! (?:and|or|to) \d|[-–]\d)"
)
_TIME = re.compile(
    rf"(?:(?:[Ii]n|[Oo]n|[Bb]y|[Ss]ince|[Uu]ntil) (?:early |late |mid-)?{_DATE}\b(?! (?:and|or|to) \d|[-–]\d)"
    r"|[Tt]he (?:next|same|following|very) (?:morning|day|evening|night|afternoon|week|year)\b"
    r"|(?:[Ii]n|[Dd]uring) the (?:early |late )?(?:morning|evening|afternoon|night)\b"
    r"|[Aa]t (?:noon|night|midnight|dawn|daybreak|sunset|sunrise|dusk|twilight|breakfast|dinner|supper)\b"
    r"|[Tt]owards? (?:evening|night|morning|noon|sunset)\b"
    r"|[Aa]fter (?:breakfast|dinner|supper|lunch|luncheon|tea)\b"
    r"|[Ee]arly (?:the )?(?:next|in the) morning\b)"
)


def after_time(sentence: str, toks: Sequence[Token], i: int) -> int:
    """Index after a phrase of time that starts at token `i` and needs no comma ("At noon Dorothy ..."), or `i`."""
    match = _TIME.match(sentence[toks[i].start :])
    if match is None:
        return i
    end = toks[i].start + match.end()
    return next((k for k in range(i, len(toks)) if toks[k].start >= end), i)


def time_spans(clause: Clause) -> Iterator[tuple[int, int]]:
    """Token ranges that say when, each with its preposition."""
    toks = clause.toks
    for i in range(clause.opener, clause.end):
        text = clause.sentence[toks[i].start :]
        if i > clause.opener and toks[i - 1].lower in {"of", "than", "a", "the"}:
            continue
        match = _TIME.match(text)
        if match is None:
            continue
        stop = next(
            (k for k in range(i, len(toks)) if toks[k].start >= toks[i].start + match.end()), len(toks)
        )
        early = i == clause.opener and stop <= clause.subject.first
        if early or (clause.verb < i and _DATED.match(text)):
            yield i, stop
