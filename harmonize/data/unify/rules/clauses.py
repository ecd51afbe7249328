"""Clauses with a known subject and verb, and whether the words after them make sense on their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harmonize.data.unify.rules import lexicon as lex
from harmonize.data.unify.rules.names import Names, Phrase, asks_for, gender_of, noun_phrase
from harmonize.data.unify.rules.sentences import Token, tokens
from harmonize.data.unify.rules.times import after_time
from harmonize.data.unify.rules.verbs import AUXILIARIES, PAST

_HARD = frozenset([";", ":", "--", "---", "—", "–", ".", "!", "?", "(", ")"])
_JOINERS = frozenset("and but so for while when because until till yet".split())
# After a comma these start something that can be left out.
_DROPPABLE = frozenset(
    """
    and but for so while when as which who where whose until till because though although if unless that
    before after since with without however yet or nor however instead perhaps having being
    """.split()
)
_OPENERS = frozenset(
    """
    then so but and now again still yet however suddenly presently soon finally once meanwhile instead indeed
    afterward afterwards therefore besides thus also next later naturally fortunately immediately evidently
    even
    """.split()
)
_OPENER_PAIRS = frozenset(
    """
    at|last at|once at|first at|length just|then by|and after|this after|that of|course in|fact just|now
    for|once and|so
    """.split()
)
_UNREAL = frozenset("if unless whether neither suppose had were should perhaps".split())
_INTRODUCING = frozenset(
    """
    when as if at then so perhaps finally presently soon now after before although though while with in on for because
    """.split()
)
# Nouns that "it" hardly ever means.
_NO_ANTECEDENTS = frozenset(
    """
    head face eyes eye hand hands arm arms leg legs foot feet hair nose mouth body heart voice time hour minute moment
    night day morning evening year season spring summer autumn winter ground air earth way breakfast dinner supper
    """.split()
)
# Adverbs that tie a clause to the one before it, so that a question leaves them out.
_TIED = frozenset("now then again also too even still thus therefore instead".split())
# Participles that describe a subject, so that the real verb comes later.
_DESCRIBING = frozenset(
    """
    dressed seated named called covered filled surrounded carved painted made attached fastened tied known
    built placed set hung mounted clad armed
    """.split()
)


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause whose subject and verb are certain.

    Attributes:
        sentence: The whole sentence.
        toks: Its tokens.
        opener: Index of the first token of the sentence or clause, before any introduction.
        subject: Its subject.
        verb: Index of the auxiliary or verb.
        end: Index after its last token.
    """

    sentence: str
    toks: Sequence[Token]
    opener: int
    subject: Phrase
    verb: int
    end: int

    @property
    def auxiliary(self) -> bool:
        """Whether the verb is an auxiliary, which a question only has to move."""
        return self.toks[self.verb].lower in AUXILIARIES

    @property
    def adverb(self) -> str:
        """Adverbs between subject and verb."""
        words = self.slice(self.subject.last, self.verb).split()
        return " ".join(w for w in words if w.lower() not in _TIED)

    def slice(self, first: int, last: int) -> str:
        """The text of tokens `first` to `last` (exclusive), without marks at its end."""
        if last <= first:
            return ""
        return self.sentence[self.toks[first].start : self.toks[last - 1].end].rstrip(" ,;:-—–.!?")


def clauses(sentence: str, names: Names) -> Iterator[Clause]:
    """Every clause of a sentence whose subject is a name or a known noun."""
    toks = tokens(sentence)
    if not toks or toks[0].lower in _UNREAL or toks[-1].text == "?":
        return
    starts = [0, *_joints(toks)]
    found: list[tuple[int, Phrase, int]] = []
    for start in starts:
        parsed = _subject_and_verb(sentence, toks, start, names)
        if parsed is not None and not (found and found[-1][1].first == parsed[0].first):
            found.append((start, *parsed))
    for k, (start, subject, verb) in enumerate(found):
        end = found[k + 1][0] if k + 1 < len(found) else len(toks)
        yield Clause(sentence, toks, start, subject, verb, _hard_end(toks, verb, end))


def _hard_end(toks: Sequence[Token], verb: int, end: int) -> int:
    for j in range(verb, end):
        if toks[j].text in _HARD:
            return j
    return end


def _joints(toks: Sequence[Token]) -> list[int]:
    """Where a new clause may start: after a hard mark, or after a comma and a joining word."""
    found = []
    for j in range(1, len(toks) - 2):
        if (toks[j].text in _HARD and toks[j].text not in ".()") or (
            toks[j].text == "," and toks[j + 1].lower in _JOINERS
        ):
            found.append(j + 1)
    return found


def _subject_and_verb(
    sentence: str, toks: Sequence[Token], start: int, names: Names
) -> tuple[Phrase, int] | None:
    i, moved = start, True
    while moved and i + 1 < len(toks):
        moved = False
        if toks[i].lower in _OPENERS or (i == start and i > 0 and toks[i].lower in _JOINERS):
            i, moved = i + 1, True
        elif f"{toks[i].lower}|{toks[i + 1].lower}" in _OPENER_PAIRS:
            i, moved = i + 2, True
        if moved and i < len(toks) and toks[i].text == ",":
            i += 1
    found = _at(sentence, toks, i, names, initial=i == 0)
    if found is not None:
        return found
    after = after_time(sentence, toks, i) if i < len(toks) else i
    if after > i and toks[after].text != ",":
        found = _at(sentence, toks, after, names, initial=False)
        if found is not None:
            return found
    # An introduction up to a comma: "When the sun rose, Dorothy ..."
    if i < len(toks) and (
        toks[i].lower in lex.PREPOSITIONS | lex.CONJUNCTIONS or toks[i].lower.endswith("ing")
    ):
        if toks[i].lower in _UNREAL | {"that", "than"}:
            return None
        for j in range(i + 1, min(i + 22, len(toks) - 2)):
            if toks[j].text in _HARD:
                return None
            if toks[j].text == ",":
                found = _at(sentence, toks, j + 1, names, initial=False)
                if found is not None:
                    return found
    return None


def _at(
    sentence: str, toks: Sequence[Token], i: int, names: Names, *, initial: bool
) -> tuple[Phrase, int] | None:
    subject = noun_phrase(sentence, toks, i, names, initial=initial)
    if subject is None:
        return None
    verb = subject.last
    while verb < len(toks) and (toks[verb].lower in lex.ADVERBS or adverb_like(toks[verb])):
        verb += 1
    if verb >= len(toks) - 1:
        return None
    word = toks[verb].lower
    if word not in AUXILIARIES and word not in PAST:
        return None
    if any(t.lower in {"both", "neither", "each", "all"} for t in toks[subject.last : verb]):
        return None
    if word == "left" and toks[verb + 1].lower.endswith("ing"):
        return None
    if word in _DESCRIBING and toks[verb + 1].lower in lex.PREPOSITIONS:
        return None
    return subject, verb


def adverb_like(token: Token) -> bool:
    """Whether a word in small letters ends like an adverb and is none of the known exceptions."""
    return token.lower.endswith("ly") and token.lower not in lex.NOT_ADVERBS and token.text[0].islower()


def ends(clause: Clause, first: int, minimum: int, maximum: int) -> list[int]:
    """Where the words from token `first` may stop, longest first: at the clause's end or before something droppable.

    What brings in another subject (", so she ...", "and Dorothy put ...") always ends them.

    Args:
        clause: The clause.
        first: Index of the first token.
        minimum: Least number of words.
        maximum: Greatest number of words.
    """
    toks = clause.toks
    last = next((j for j in range(first + 1, clause.end) if new_subject(toks, j)), clause.end)
    stops = {last}
    for j in range(first + 1, last):
        if toks[j].text == ",":
            after = toks[j + 1].lower if j + 1 < last else ""
            if after in _DROPPABLE or after.endswith("ing") or after in lex.PREPOSITIONS:
                stops.add(j)
    kept = []
    for stop in sorted(stops, reverse=True):
        words = sum(t.word for t in toks[first:stop])
        tail = [t.lower for t in toks[max(first, stop - 3) : stop]]
        stub = "," in tail and tail[tail.index(",") + 1 :][:1] in (
            ["but"],
            ["so"],
            ["for"],
            ["and"],
            ["however"],
            ["then"],
        )
        tied = tail[-2:-1] != [] and tail[-2] in lex.CONJUNCTIONS - {"and", "or", "but"}
        tied = tied or bool({"when", "that", "which", "if", "because", "where", "while"} & set(tail[:-1]))
        if (
            not tied
            and minimum <= words <= maximum
            and not stub
            and tail[-1:] not in (["and"], ["but"], ["or"])
        ):
            kept.append(stop)
    return kept


def new_subject(toks: Sequence[Token], j: int) -> bool:
    """Whether another clause with its own subject starts at token `j`."""
    nxt = toks[j + 1] if j + 1 < len(toks) else None
    if nxt is None:
        return False
    if toks[j].text == ",":
        if nxt.lower in {"so", "but", "yet", "for", "while", "nor", "then", "however"}:
            return not (nxt.lower == "while" and j + 2 < len(toks) and toks[j + 2].lower.endswith("ing"))
        if nxt.lower == "and" and j + 2 < len(toks):
            return toks[j + 2].text == "," or _starts_clause(toks, j + 2)
        if nxt.lower in {"the", "only"} or nxt.capital:
            return nxt.lower == "only" or _starts_clause(toks, j + 1)
        return nxt.lower in {"he", "she", "it", "they", "there", "i", "we", "you"}
    return toks[j].lower in {"and", "but", "so"} and _starts_clause(toks, j + 1)


def _starts_clause(toks: Sequence[Token], i: int) -> bool:
    """A pronoun, or a phrase of up to four words, right before a verb; or an introduction closed by a comma."""
    if toks[i].lower in {"he", "she", "they", "it", "there", "i", "we", "you", "this", "that"}:
        return True
    if toks[i].lower in _INTRODUCING or toks[i].lower.endswith("ing"):
        return True
    if not (
        toks[i].capital
        or toks[i].lower
        in lex.DETERMINERS | lex.POSSESSIVES | {"all", "both", "each", "every", "one", "no", "another"}
    ):
        return False
    for k in range(i + 1, min(i + 7, len(toks))):
        if not toks[k].word:
            return False
        if toks[k].lower in AUXILIARIES or (
            toks[k].lower in PAST and toks[k - 1].lower not in {"the", "a", "an"}
        ):
            return True
        if toks[k].lower in lex.CONJUNCTIONS or toks[k].lower == "to":
            return False
    return False


def stands_alone(toks: Sequence[Token], names: Names, subject: Phrase | None) -> bool:
    """Whether every pronoun among the tokens has something to refer to: the subject, or a noun before it.

    Our choice, on the strict side: pronouns of two genders, or of another gender than the subject's, count as dangling,
    and so do all of the first and second person.

    Args:
        toks: The tokens of a predicate or question, in order, without the subject.
        names: What the passage shows.
        subject: Whom pronouns may refer to.
    """
    own = gender_of(subject, names) if subject is not None else ""
    seen: set[str] = set()
    things = people = False
    for i, token in enumerate(toks):
        word = token.lower
        after = toks[i + 1] if i + 1 < len(toks) else None
        if word in {
            "i",
            "me",
            "my",
            "we",
            "us",
            "our",
            "you",
            "your",
            "mine",
            "yours",
            "ours",
            "myself",
            "yourself",
        }:
            return False
        if word in {"this", "that", "these", "those"} and _bare_pronoun(word, after):
            return False
        if word in {"these", "those", "such"} and not things:
            return False
        if word in {"he", "him", "his", "himself", "she", "her", "hers", "herself"}:
            kind = "m" if word[0] == "h" and word not in {"her", "hers", "herself"} else "f"
            objective = word == "him" or (word == "her" and not _possessive(after))
            if objective and not people:
                return False
            if own and own != kind and not people:
                return False
            if subject is not None and (subject.plural or asks_for(subject) == "What") and not people:
                return False
            seen.add(kind)
        elif word in {"they", "them", "their", "themselves", "theirs"}:
            plural = subject is not None and subject.plural
            if word == "them" and not things:
                return False
            if not plural and not things:
                return False
        elif word in {"it", "its", "itself"}:
            if word == "it" and not things:
                return False
            if subject is not None and gender_of(subject, names) and not things:
                return False
        elif token.capital and names.known(token):
            people = True
        elif word in lex.PERSONS:
            people = things = True
        elif word in lex.THINGS - _NO_ANTECEDENTS or (token.capital and i):
            things = True
        elif word == "other" or word == "others" or word in {"former", "latter"}:
            return False
    return len(seen) < 2 or people


def _possessive(after: Token | None) -> bool:
    return (
        after is not None
        and after.word
        and after.lower not in lex.BREAKERS
        and after.lower not in lex.ADVERBS
        and not adverb_like(after)
    )


def _bare_pronoun(word: str, after: Token | None) -> bool:
    if word == "that":
        return after is None or not after.word
    return after is None or not after.word or after.lower in lex.BREAKERS or after.lower in AUXILIARIES
