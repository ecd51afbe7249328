"""The shape of a question: its words with names, subjects, numbers and quotations masked."""

from __future__ import annotations

import re

SUBJECT, NAME, NUMBER, QUOTE = "<subject>", "<name>", "<number>", "<quote>"

_QUOTED = re.compile(r"\"[^\"]+\"|“[^”]+”|«[^»]+»")
_TOKEN = re.compile(r"<subject>|<quote>|\w+(?:[.,]\d+)*|[.?!:]")
_SENTENCE_END = frozenset(".?!:")
_POSSESSIVE = re.compile(r"['’]s\b")
# Words that tell nothing about whom a subject is.
_COMMON = frozenset(
    "the a an of and in on at to for by with from de la von van der chapter book part".split()
)
# Capitalised at the head of a sentence without being a name.
_OPENING = frozenset(
    "who whom whose what which when where why how is are was were do does did has have had can could may might will "
    "would shall should must in on at of by for from to with about the a an name tell complete fill according please "
    "if as it there this that these those i he she they we you his her their its".split()
)  # fmt: skip


def shape(question: str, subject: str = "") -> str:
    """The question with everything masked that says whom and what it is about, in lower case.

    Args:
        question: In any case; capitals inside a sentence count as names.
        subject: Masked as a phrase and word by word, whatever its case.
    """
    text = _POSSESSIVE.sub("", question)
    if subject.strip():
        text = _replace(text, [subject, *(w for w in re.findall(r"\w+", subject) if _telling(w))])
    tokens = _TOKEN.findall(_QUOTED.sub(f" {QUOTE} ", text))
    masked: list[str] = []
    head = True
    for i, token in enumerate(tokens):
        follows = tokens[i + 1] if i + 1 < len(tokens) else ""
        mask = _mask(token, head, follows)
        if not (masked and mask == masked[-1] and mask in (SUBJECT, NAME)):
            masked.append(mask)
        head = token in _SENTENCE_END
    return " ".join(masked)


def _telling(word: str) -> bool:
    return len(word) > 2 and word.casefold() not in _COMMON


def _replace(text: str, phrases: list[str]) -> str:
    for phrase in phrases:
        words = re.findall(r"\w+", phrase)
        if words:
            pattern = r"\b" + r"\W+".join(map(re.escape, words)) + r"\b"
            text = re.sub(pattern, f" {SUBJECT} ", text, flags=re.IGNORECASE)
    return text


def _mask(token: str, head: bool, follows: str) -> str:
    if token in (SUBJECT, QUOTE):
        return token
    if token[0].isdigit():
        return NUMBER
    name = token[0].isupper() and token != "I"
    if name and head:
        # At the head of a sentence every word is written so; only a second capital makes a name of it.
        name = token.casefold() not in _OPENING and follows[:1].isupper()
    return NAME if name else token.casefold()
