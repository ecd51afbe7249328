"""What question builders share: verbs and their base forms, inversion, noun phrases, phrases of place, gaps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harmonize.data.unify.rules import lexicon as lex
from harmonize.data.unify.rules import verbs
from harmonize.data.unify.rules.clauses import Clause
from harmonize.data.unify.rules.names import Names, Phrase, noun_phrase
from harmonize.data.unify.rules.sentences import Token
from harmonize.data.unify.rules.wording import Anchor, blank, closed, pair
from harmonize.data.unify.task import Pair

PLACE_FORMS = frozenset(form for form, base in verbs.PAST.items() if base in verbs.PLACE_VERBS) | frozenset(
    "sitting standing lying living staying resting sleeping hanging waiting going coming walking running riding".split()
)
# Words after a noun that describe how, not what.
_LOOSE = frozenset("close deep high low open loose shut good-bye goodbye free entitled titled full".split())
_ING_NOUNS = frozenset(
    "king ring wing string thing morning evening ceiling building clothing being spring railing".split()
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What builders may look at besides the clause.

    Attributes:
        names: What the passage shows about names.
        anchor: Which text is meant.
        counts: How often each word occurs in the passage, in small letters.
    """

    names: Names
    anchor: Anchor
    counts: dict[str, int]


def built(scene: Scene, clause: Clause, question: str, value: str, second: str, gapped: str) -> Pair:
    """A pair whose answer is the sentence, with a gap form (and `second`) as paraphrases."""
    others = [scene.anchor.ask(second)] if second else []
    if gapped:
        others.append(closed(f"What belongs in the gap{scene.anchor.origin}:", gapped))
    return pair(scene.anchor.ask(question), clause.sentence, value, clause.sentence, others)


def gap_sentence(clause: Clause, first: int, stop: int) -> str:
    """The clause from its subject on, with the tokens from `first` to `stop` replaced by a gap."""
    toks = clause.toks
    begin = clause.subject.first
    text = clause.sentence[toks[begin].start : toks[clause.end - 1].end]
    value = clause.slice(first, stop)
    gapped = blank(text, value, toks[first].start - toks[begin].start)
    gapped = gapped[:1].upper() + gapped[1:]
    return gapped if re.search(r"[.!?]$", gapped) else gapped.rstrip(" ,;:-—") + "."


def before_second_verb(clause: Clause, first: int, stop: int) -> int:
    """`stop`, or before a second verb ("and oiled ..."), which cannot stand in a question with "did"."""
    toks = clause.toks
    for j in range(first, stop - 1):
        if toks[j].lower in {"and", "but", "or", "then"} or toks[j].text == ",":
            near = [t.lower for t in toks[j + 1 : min(j + 4, stop)]]
            while near and (near[0] in lex.ADVERBS | {"and", "then", "but"} or near[0].endswith("ly")):
                near = near[1:]
            if near and (near[0] in verbs.PAST.keys() | verbs.AUXILIARIES or near[0].endswith("ed")):
                return j
    return stop


def telling(rest: Sequence[Token]) -> bool:
    """At least three words of content: without them nobody knows which event is meant."""
    content = [t for t in rest if t.word and t.lower not in lex.ENGLISH_STOP | lex.BREAKERS | lex.ADVERBS]
    return len(content) >= 3


def main_verb(clause: Clause) -> tuple[int | None, str]:
    """Index of the lexical verb: the verb itself, or the one after auxiliaries and adverbs."""
    toks, i = clause.toks, clause.verb
    if not clause.auxiliary:
        return i, ""
    i += 1
    while i < clause.end and (
        toks[i].lower in lex.ADVERBS | {"been", "have"} or toks[i].lower.endswith("ly")
    ):
        i += 1
    if i >= clause.end or not toks[i].word:
        return None, ""
    word = toks[i].lower
    if word in verbs.PAST or word in verbs.PARTICIPLES or word in verbs.BASES or word in PLACE_FORMS:
        return i, clause.slice(clause.verb, i)
    return None, ""


def base_of(clause: Clause, verb: int) -> str:
    """Base form of the verb at a token."""
    word = clause.toks[verb].lower
    return verbs.PAST.get(word, word)


def invert(clause: Clause, verb: int, word: str, rest: str) -> str:
    """Question word + auxiliary + subject + verb + rest: moves the auxiliary, or brings in "did"."""
    toks = clause.toks
    subject = clause.subject.inside
    if (
        clause.subject.text[:1].isupper()
        and clause.subject.named
        and not clause.subject.text.startswith(("The ", "A "))
    ):
        subject = clause.subject.text
    adverb = clause.adverb
    if clause.auxiliary:
        moved = toks[clause.verb].lower
        if moved == "cannot":
            return ""
        between = clause.slice(clause.verb + 1, verb + 1) if verb > clause.verb else ""
        parts = [word, moved, subject, adverb, between, rest]
    else:
        base = verbs.PAST.get(toks[clause.verb].lower, "")
        if not base:
            return ""
        parts = [word, "did", subject, adverb, base, rest]
    return " ".join(p for p in parts if p)


def rare(clause: Clause, verb: int, scene: Scene) -> bool:
    """Whether this verb form occurs once in the passage, so that the question has one answer there."""
    return scene.counts.get(clause.toks[verb].lower, 0) <= 1


def phrase_at(clause: Clause, i: int) -> bool:
    """Whether a phrase of place may start at token `i`."""
    return i < clause.end and clause.toks[i].lower in lex.PLACE_PREPOSITIONS


def place_phrase(clause: Clause, first: int, scene: Scene) -> int | None:
    """Index after the prepositional phrase of place that starts at `first`, with "of ..." and one more inside."""
    toks = clause.toks
    if not phrase_at(clause, first) or first + 1 >= clause.end:
        return None
    i = first + 1
    if toks[i].lower in {"of", "the"} and toks[first].lower == "out":
        i += 1
    stop = noun_run(clause, i)
    while (
        stop is not None
        and stop < clause.end
        and (
            toks[stop].lower == "of"
            or (toks[stop].lower in lex.PLACE_PREPOSITIONS - {"to", "from"} and stop - first < 7)
        )
    ):
        more = noun_run(clause, stop + 1)
        if more is None:
            return None
        stop = more
    if stop is None or stop - first > 12:
        return None
    return stop if stop - first >= 2 else None


def noun_run(clause: Clause, i: int) -> int | None:
    """Index after a determiner and noun, or a name, starting at `i`."""
    toks = clause.toks
    if i >= clause.end:
        return None
    start = i
    if toks[i].lower in lex.DETERMINERS | lex.POSSESSIVES | {"this", "that", "another", "every", "each"}:
        i += 1
    elif not (toks[i].capital and toks[i].text not in lex.NOT_NAMES):
        return None
    while (
        i < clause.end
        and toks[i].word
        and toks[i].lower not in lex.BREAKERS
        and toks[i].lower not in verbs.AUXILIARIES
        and not (toks[i].lower.endswith("ing") and i > start + 1 and toks[i].lower not in _ING_NOUNS)
        and not (toks[i].lower.endswith("ly") and toks[i].lower not in lex.NOT_ADVERBS)
        and not (i > start + 1 and toks[i].lower in verbs.PAST)
        and not (i > start + 1 and toks[i].lower in _LOOSE)
        and i - start <= 6
    ):
        i += 1
    return i if i > start + (0 if toks[start].capital else 1) else None


def object_of(clause: Clause, first: int, scene: Scene) -> tuple[int | None, Phrase | None]:
    """Index after the object that starts at `first`, and its phrase where it is a known one."""
    toks = clause.toks
    thing = (
        noun_phrase(clause.sentence, toks, first, scene.names, initial=False) if first < clause.end else None
    )
    stop = noun_run(clause, first)
    if thing is not None and (stop is None or thing.last >= stop):
        stop = thing.last
    if stop is None:
        return None, None
    while stop < clause.end and toks[stop].lower == "of":
        more = noun_run(clause, stop + 1)
        if more is None:
            return None, None
        stop = more
    if thing is not None and thing.last < stop and not thing.named:
        thing = None
    if thing is None:
        head = toks[stop - 1].lower
        if head in lex.PERSONS:
            thing = Phrase(clause.slice(first, stop), first, stop, head, False)
    return stop, thing


def clean_stop(clause: Clause, stop: int) -> bool:
    """Whether a phrase certainly ends at `stop`: at the clause's end, a mark, or a joining word."""
    if stop >= clause.end:
        return True
    token = clause.toks[stop]
    return not token.word or token.lower in lex.CONJUNCTIONS | {
        "to",
        "with",
        "for",
        "from",
        "by",
        "again",
        "at",
        "in",
    }
