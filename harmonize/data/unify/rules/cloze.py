"""Cloze questions from whole sentences and speeches: a name, number, place or closing noun is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harmonize.data.unify.rules import lexicon as lex
from harmonize.data.unify.rules.names import Names, bare
from harmonize.data.unify.rules.sentences import Token, is_whole, sentences, tokens
from harmonize.data.unify.rules.speech import Turn, broken
from harmonize.data.unify.rules.verbs import AUXILIARIES, BASES, PAST
from harmonize.data.unify.rules.wording import Anchor, blank, closed, pair, quote, sentence
from harmonize.data.unify.task import Pair

# A sentence that starts with one of these points back at the sentence before it.
_POINTING = frozenset(
    """
    he she it they his her its their this that these those him them such here there both neither either others
    another which who what why how where or nor
    """.split()
)


def gaps(text: str, names: Names) -> list[tuple[int, str, str]]:
    """Places of a text that may be left out, best first: (rank of kind as offset, kind, words) by token order.

    Returns:
        (character offset, kind, words): kind is number, name, place or noun.
    """
    toks = tokens(text)
    found: list[tuple[int, int, str, str]] = []
    i = 0
    while i < len(toks):
        token = toks[i]
        if token.lower in lex.NUMBERS or re.fullmatch(r"\d[\d,.]*", token.text):
            if _plain(toks, i) and toks[max(0, i - 1)].text not in lex.MONTHS:
                found.append((0, token.start, "number", token.text))
            i += 1
            continue
        if i and token.capital and _gap_name(token, names):
            j = i + 1
            while j < len(toks) and _goes_on(toks[j - 1], toks[j]):
                j += 1
            before = toks[i - 1]
            start = before.start if before.capital and before.lower.strip(".") in lex.TITLES else token.start
            found.append((1, start, "name", bare(text[start : toks[j - 1].end])))
            i = j
            continue
        i += 1
    for noun in _nouns(toks):
        found.append((2, noun.start, "noun", noun.text))
    return [(start, kind, words) for _, start, kind, words in sorted(found, key=lambda f: (f[0], f[1]))]


def _goes_on(last: Token, token: Token) -> bool:
    named = token.capital and token.text[0].isalpha() and bare(token.text) not in lex.NOT_NAMES
    return named and last.text == bare(last.text)


def _plain(toks: list[Token], i: int) -> bool:
    """Not part of a larger number or of "one or two"."""
    around = {toks[k].lower for k in (i - 2, i - 1, i + 1, i + 2) if 0 <= k < len(toks)}
    return not around & (lex.NUMBERS | {"or"})


def _gap_name(token: Token, names: Names) -> bool:
    word = bare(token.text)
    if word != token.text and not re.search(r"['’]s?$", token.text):
        return False
    return word not in lex.NOT_NAMES and word in names.words and token.text[0].isalpha() and len(word) > 1


def _nouns(toks: list[Token]) -> Iterator[Token]:
    """Nouns that end a phrase: after "the", "a" or a possessive and up to two words, before a mark or a preposition."""
    for i in range(2, len(toks)):
        token = toks[i]
        if not token.text[0].islower() or len(token.text) < 3 or token.lower in lex.BREAKERS:
            continue
        if (
            token.lower in PAST
            or token.lower in AUXILIARIES
            or token.lower.endswith(("ly", "ing", "'s", "’s"))
        ):
            continue
        ended = _ends_phrase(toks, i)
        begins = any(
            toks[k].lower in lex.DETERMINERS
            and not (toks[k].lower == "her" and any(t.lower in BASES for t in toks[k + 1 : i + 1]))
            and all(_between(t) for t in toks[k + 1 : i])
            for k in range(max(0, i - 3), i)
        )
        faint = toks[i - 1].lower == "little" and token.lower not in lex.PERSONS | lex.THINGS
        if ended and begins and not faint and token.lower not in _EMPTY_NOUNS:
            yield token


def _ends_phrase(toks: list[Token], i: int) -> bool:
    """Whether a mark, a preposition or a joining word follows, and not a second adjective ("a small, square hole")."""
    if i + 1 >= len(toks):
        return True
    after = toks[i + 1]
    if after.text == "," and i + 2 < len(toks) and toks[i - 1].lower in lex.DETERMINERS:
        return (
            toks[i + 2].lower in lex.BREAKERS
            or toks[i + 2].capital
            or toks[i + 2].lower.endswith(("ing", "ly"))
        )
    if not after.word:
        return after.text[0] in ".,;:!?)(-—"
    return after.lower in lex.PREPOSITIONS - {"of"} | {"and", "that", "which"}


_EMPTY_NOUNS = frozenset(
    """
    ago somewhere anywhere different better mind piece way thing things time times moment lot bit kind sort
    rest other others one ones deal same while matter part place side end minute minutes first last least most
    more little great number fact good course whole next second instant
    """.split()
)


def _between(token: Token) -> bool:
    return (
        token.word
        and token.lower not in {"one", "ones"}
        and token.lower not in lex.BREAKERS
        and token.lower not in AUXILIARIES
    )


def narration(text: str, names: Names, anchor: Anchor, taken: set[str], most: int) -> Iterator[Pair]:
    """Clozes of one narration sentence, not for words that another question about it already asks for.

    Args:
        text: The sentence.
        names: What the passage shows.
        anchor: Which text is meant.
        taken: Values already asked for, in small letters.
        most: How many at the most.
    """
    if not is_whole(text) or not 7 <= len(text.split()) <= 40 or text.endswith("?") or not _stands(text):
        return
    yield from _clozes(text, names, taken, most, text, f"Complete the sentence{anchor.origin}:", anchor)


def spoken(said: Turn, names: Names, anchor: Anchor, most: int) -> Iterator[Pair]:
    """Clozes of what a known speaker says: `Complete what the Lion says: "..."`."""
    speaker = said.speaker.inside if said.speaker is not None else ""
    if speaker:
        lead = f"Complete what {speaker} says{_in(anchor)}:"
    else:
        lead = f"Complete this line of dialogue{anchor.origin}:"
    done = 0
    for part, evidence in said.parts:
        for one in sentences(part):
            if done >= most:
                return
            if (
                not 6 <= len(one.split()) <= 32
                or not one[0].isupper()
                or broken(one)
                or not one.endswith((".", "!", "?", ","))
            ):
                continue
            for made in _clozes(sentence(one), names, {speaker.lower()}, 1, evidence, lead, anchor):
                done += 1
                yield made


def _in(anchor: Anchor) -> str:
    return f' in "{anchor.title}"' if anchor.title else ""


def _clozes(
    text: str, names: Names, taken: set[str], most: int, evidence: str, lead: str, anchor: Anchor
) -> Iterator[Pair]:
    made = 0
    small = text.lower()
    for start, _, words in gaps(text, names):
        if made >= most:
            return
        if words.lower() in taken or any(words.lower() in t.split() for t in taken):
            continue
        if len(re.findall(rf"(?<!\w){re.escape(words.lower())}(?!\w)", small)) != 1:
            continue
        if re.match(r"['’](?!s\b)\w", text[start + len(words) :]):
            continue
        gapped = quote(blank(text, words, start))
        made += 1
        taken.add(words.lower())
        yield pair(
            f"{lead} {gapped}",
            text,
            words,
            evidence,
            (
                closed(f"What belongs in the gap{anchor.origin}:", blank(text, words, start)),
                f"Fill in the gap{_in(anchor)}: {gapped}",
            ),
        )


def _stands(text: str) -> bool:
    """Whether a sentence makes sense without the one before it: no pointing word first, no pronoun before a noun."""
    toks = tokens(text)
    if toks[0].lower in {"and", "but", "so", "then"}:
        toks = toks[1:]
    if toks[0].lower in _POINTING:
        return False
    for token in toks[:6]:
        if token.lower in {"he", "she", "it", "they", "him", "them", "his", "her", "their"}:
            return False
        if token.capital and token.start:
            break
    return True
