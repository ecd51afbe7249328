"""Who and what is named in a passage, and noun phrases around those names: the subjects and objects of questions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harmonize.data.unify.rules import lexicon as lex
from harmonize.data.unify.rules.sentences import Token, tokens
from harmonize.data.unify.rules.verbs import AUXILIARIES, PAST

_MALE = frozenset("he him his himself".split())
_FEMALE = frozenset("she her hers herself".split())
_MALE_WORDS = frozenset(
    """
    mr. mr sir king prince uncle father brother boy man husband lord master wizard lion rooster scarecrow
    woodman tiger soldier knight son lad emperor gentleman general captain hatter mester john henry david jack
    tom james colin dickon ben charles george robert william thomas peter paul joe jim bill bob frank fred
    arthur edward walter richard
    """.split()
)
_FEMALE_WORDS = frozenset(
    """
    mrs. mrs ms. miss lady queen princess aunt mother sister girl woman wife witch mistress hen maid maiden
    daughter duchess sorceress fairy dorothy alice mary martha anna anne betty clara ellen emily emma grace
    hannah helen jane julia kate laura lucy margaret nancy ruth sarah susan
    """.split()
)


@dataclass(frozen=True, slots=True)
class Names:
    """What one passage shows about names, without a model of the language.

    Attributes:
        words: Words capitalised in the middle of a sentence.
        small: Words that occur in small letters.
        gender: Name -> "m" or "f" where pronouns near it or its own words tell.
    """

    words: frozenset[str]
    small: frozenset[str]
    gender: dict[str, str]

    def known(self, token: Token) -> bool:
        """Whether a capitalised word names somebody or something even at the start of a sentence."""
        word = bare(token.text)
        if word in lex.NOT_NAMES or not token.capital:
            return False
        return (word in self.words and word.lower() not in self.small) or word in lex.FIRST_NAMES


def bare(word: str) -> str:
    """Without a possessive ending; of a contraction (I'll, Don't) what stands before the apostrophe."""
    return re.split(r"['’](?=s?$|ll$|ve$|m$|d$|re$|t$)", word)[0]


def find_names(texts: Iterable[str]) -> Names:
    """Names by evidence of this passage alone, so that the same passage gives the same questions anywhere.

    Args:
        texts: Its sentences, narration and speech alike.
    """
    words: set[str] = set()
    small: set[str] = set()
    votes: Counter[tuple[str, str]] = Counter()
    for text in texts:
        toks = tokens(text)
        named: list[str] = []
        for i, token in enumerate(toks):
            if not token.text[0].isalpha():
                continue
            if token.text[0].islower():
                small.add(bare(token.lower))
            elif i and toks[i - 1].word and token.capital and bare(token.text) not in lex.NOT_NAMES:
                words.add(bare(token.text))
            if (
                token.capital
                and bare(token.text) not in lex.NOT_NAMES
                and not (i == 0 and token.lower in lex.ADVERBS)
            ):
                named.append(bare(token.text))
        if len(set(named)) == 1:
            for token in toks:
                kind = "m" if token.lower in _MALE else "f" if token.lower in _FEMALE else ""
                if kind:
                    votes[named[0], kind] += 1
    gender = {}
    for name in {name for name, _ in votes}:
        men, women = votes[name, "m"], votes[name, "f"]
        if max(men, women) >= 2 * min(men, women) + 1:
            gender[name] = "m" if men > women else "f"
    return Names(frozenset(words), frozenset(small), gender)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase.

    Attributes:
        text: As written.
        first: Index of its first token.
        last: Index after its last token.
        head: The word that carries it, in small letters.
        named: Whether a name carries it.
        plural: Joined by "and", or a plural noun.
    """

    text: str
    first: int
    last: int
    head: str
    named: bool
    plural: bool = False

    @property
    def inside(self) -> str:
        """As it stands inside a sentence: its article in small letters."""
        return re.sub(
            r"^(The|A|An|One|Two|Three|Four|Five|Both|All|His|Her)\b", lambda m: m.group().lower(), self.text
        )


def noun_phrase(text: str, toks: Sequence[Token], i: int, names: Names, *, initial: bool) -> Phrase | None:
    """The noun phrase that starts at token `i`: a name, or an article with words up to a noun; joined by "and".

    Args:
        text: The text that `toks` was cut from.
        toks: Its tokens.
        i: Where to start.
        names: What the passage shows.
        initial: Whether token `i` starts a sentence, where a capital proves nothing.
    """
    first = _simple(text, toks, i, names, initial=initial)
    if first is None:
        return None
    last = first
    count = 1
    while last.last + 1 < len(toks):
        sep = toks[last.last]
        step = 1 if sep.lower == "and" else 0
        if sep.text == "," and count < 4:
            step = 2 if toks[last.last + 1].lower == "and" else 1
        if not step or last.last + step >= len(toks):
            break
        more = _simple(text, toks, last.last + step, names, initial=False)
        if more is None:
            break
        ended = step == 2 or sep.lower == "and"
        joined = Phrase("", i, more.last, more.head, first.named and more.named, True)
        if sep.text == "," and not ended and not _list_goes_on(toks, more.last):
            break
        last, count = joined, count + 1
        if ended:
            break
    if last is first:
        return first
    return Phrase(text[toks[i].start : toks[last.last - 1].end], i, last.last, last.head, last.named, True)


def _list_goes_on(toks: Sequence[Token], i: int) -> bool:
    return i + 1 < len(toks) and (toks[i].lower == "and" or toks[i].text == ",")


def _simple(text: str, toks: Sequence[Token], i: int, names: Names, *, initial: bool) -> Phrase | None:
    if i >= len(toks):
        return None
    article = toks[i].lower in {"the", "a", "an"}
    j = i + 1 if article else i
    if article:
        while j < len(toks) and toks[j].text[0].islower() and _adjective_like(toks[j]) and j - i <= 4:
            j += 1
    named = (
        j < len(toks)
        and toks[j].capital
        and bare(toks[j].text) not in (lex.NOT_NAMES - {"Majesty", "Highness"})
    )
    if named:
        if not article and initial and not (names.known(toks[j]) or _title(toks, j)):
            return None
        if not article and toks[i].text[0].islower():
            return None
        end = _name_end(toks, j)
        if toks[end - 1].text.endswith(("'s", "’s")):
            return None
        if article and end < len(toks) and toks[end].lower in (lex.PERSONS | lex.THINGS):
            end += 1
        return _phrase(text, toks, i, end, named=True)
    if not article or j == i + 1:
        return None
    if toks[j - 1].lower not in (lex.PERSONS | lex.THINGS):
        return None
    end = j
    if end + 1 < len(toks) and toks[end].lower == "of":
        inner = _simple(text, toks, end + 1, names, initial=False)
        if inner is not None:
            return Phrase(
                text[toks[i].start : toks[inner.last - 1].end],
                i,
                inner.last,
                toks[end - 1].lower,
                False,
                _is_plural(toks[end - 1].lower),
            )
        return None
    return _phrase(text, toks, i, end, named=False)


def _phrase(text: str, toks: Sequence[Token], i: int, end: int, *, named: bool) -> Phrase:
    head = toks[end - 1].lower
    if named:
        # "Guardian of the Gates", "Wicked Witch of the West": the head stands before "of".
        for k in range(i + 1, end):
            if toks[k].lower in {"of", "the"} and k > i + 1:
                head = toks[k - 1].lower
                break
    return Phrase(text[toks[i].start : toks[end - 1].end], i, end, head, named, _is_plural(head))


def _is_plural(head: str) -> bool:
    if head in {"people", "children", "men", "women", "mice", "folk", "wolves", "feet"}:
        return True
    return (
        head.endswith("s")
        and not head.endswith("ss")
        and (head in lex.PERSONS or head in lex.THINGS)
        and (
            head[:-1] in lex.PERSONS
            or head[:-1] in lex.THINGS
            or head in {"winkies", "munchkins", "ladies", "gnomes"}
        )
    )


def _adjective_like(token: Token) -> bool:
    word = token.lower
    return (
        word not in lex.BREAKERS
        and word not in AUXILIARIES
        and not (word in PAST and word not in _ADJECTIVE_PASTS)
        and word not in _TIMES
        and "'" not in word
        and "’" not in word
        and word not in lex.ADVERBS
    )


_TIMES = frozenset(
    "morning day night evening afternoon minute moment instant time year week month hour next".split()
)
# Pasts that describe a noun more often than they end a subject.
_ADJECTIVE_PASTS = frozenset("frightened painted astonished crooked wounded surprised tired learned".split())


def _title(toks: Sequence[Token], i: int) -> bool:
    return toks[i].lower.strip(".") in lex.TITLES and i + 1 < len(toks) and toks[i + 1].capital


def _name_end(toks: Sequence[Token], i: int) -> int:
    """Index after the capitalised run that starts at `i`, with "of (the) X" and "the X" inside."""
    j = i + 1
    while j < len(toks):
        if toks[j - 1].text.endswith(("'s", "’s")):
            break
        if toks[j].capital and bare(toks[j].text) not in lex.NOT_NAMES and toks[j].text[0].isalpha():
            j += 1
        elif toks[j].lower == "of" and j + 1 < len(toks) and toks[j + 1].capital and _named_word(toks[j + 1]):
            j += 2
        elif (
            toks[j].lower == "of"
            and j + 2 < len(toks)
            and toks[j + 1].lower == "the"
            and _named_word(toks[j + 2])
        ):
            j += 3
        elif toks[j].text == "the" and j + 1 < len(toks) and _named_word(toks[j + 1]) and j == i + 1:
            j += 2
        else:
            break
    return j


def _named_word(token: Token) -> bool:
    return token.capital and bare(token.text) not in lex.NOT_NAMES


def gender_of(phrase: Phrase, names: Names) -> str:
    """`m`, `f`, or empty where the passage does not tell."""
    words = re.findall(r"[\w.]+", phrase.text.lower())
    for word in words:
        if word in _FEMALE_WORDS:
            return "f"
        if word in _MALE_WORDS:
            return "m"
    for word in re.findall(r"\w+", phrase.text):
        if word in names.gender:
            return names.gender[word]
    return ""


def asks_for(phrase: Phrase) -> str:
    """The question word for a noun phrase: Who, What, or Who or what where the lists do not tell."""
    heads = {phrase.head, phrase.text.split()[-1].lower()} if not phrase.named else {phrase.head}
    capital = phrase.head.capitalize()
    if heads & lex.PERSONS or (phrase.plural and phrase.named):
        return "Who"
    if phrase.named:
        if (
            capital in lex.PLACE_HEADS
            or capital in lex.THING_HEADS
            or capital in lex.PLACES
            or phrase.head in lex.THINGS
        ):
            return "What"
        return "Who" if not phrase.text.lower().startswith(("the ", "a ")) else "Who or what"
    return "What" if heads & lex.THINGS else "Who or what"
