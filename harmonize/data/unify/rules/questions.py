"""Wh-questions from one clause with a known subject and verb. Each builder yields pairs or nothing; a table lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harmonize.data.unify.rules import lexicon as lex
from harmonize.data.unify.rules import verbs
from harmonize.data.unify.rules.clauses import Clause, ends, stands_alone
from harmonize.data.unify.rules.names import Names, Phrase, asks_for, noun_phrase
from harmonize.data.unify.rules.sentences import Token
from harmonize.data.unify.rules.wording import Anchor, blank, closed, pair
from harmonize.data.unify.task import Pair


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


def who(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """Who (or what) did it: the subject is asked for."""
    subject, toks = clause.subject, clause.toks
    if subject.head in _GENERIC and not subject.named:
        return
    word = asks_for(subject)
    first = subject.last
    for stop in ends(clause, first, 5, 22):
        rest = toks[first:stop]
        if not stands_alone(rest, scene.names, subject, asked=True) or not _telling(rest):
            continue
        predicate = f"{clause.adverb} {clause.slice(clause.verb, stop)}".strip()
        gapped = f"{blank(subject.text, subject.text, 0)} {predicate}."
        second = f"Which character {predicate}?" if word == "Who" and not subject.plural else ""
        yield _pair(scene, clause, f"{word} {predicate}?", subject.text, second, gapped)
        return


def where(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """Where somebody is or goes: the prepositional phrase right after a verb of place."""
    verb, particle = _main_verb(clause)
    if verb is None or clause.toks[verb].lower not in _PLACE_FORMS:
        return
    first = verb + 1
    while first < clause.end and clause.toks[first].lower in _PARTICLES and _phrase_at(clause, first + 1):
        first += 1
    stop = _place_phrase(clause, first, scene)
    if stop is None or not _clean_stop(clause, stop):
        return
    if not _rare(clause, verb, scene):
        return
    middle = clause.slice(verb + 1, first)
    if not middle and _base(clause, verb) in verbs.VAGUE_VERBS:
        return
    asked = _invert(clause, verb, "Where", middle)
    value = clause.slice(first, stop)
    if asked and stands_alone(clause.toks[first:stop], scene.names, clause.subject):
        yield _pair(scene, clause, f"{asked}?", value, "", _gap_sentence(clause, first, stop))


def what(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """What (or whom) somebody did something to: the object right after the verb."""
    verb, _ = _main_verb(clause)
    if verb is None or clause.toks[verb].lower not in _OBJECT_FORMS:
        return
    toks, first = clause.toks, verb + 1
    stop, thing = _object(clause, first, scene)
    if stop is None or stop > clause.end:
        return
    if toks[stop - 1].lower in _IDIOMS or toks[stop - 1].lower in lex.PREPOSITIONS:
        return
    word = "What"
    if thing is not None and asks_for(thing) != "What":
        word = "Whom" if asks_for(thing) == "Who" else "Who or what"
    rest = ""
    for end in ends(clause, first, 1, 26):
        if end >= stop and stands_alone(toks[stop:end], scene.names, clause.subject):
            rest = clause.slice(stop, _alone(clause, stop, end))
            break
    if rest and toks[stop].lower not in _ADJUNCTS:
        return
    base = _base(clause, verb)
    if len(rest.split()) < 2 and (base in verbs.VAGUE_VERBS or not _rare(clause, verb, scene)):
        return
    if rest and toks[stop].lower == "and":
        rest = ""
        if base in verbs.VAGUE_VERBS:
            return
    if not _clean_stop(clause, stop) and not rest:
        return
    asked = _invert(clause, verb, word, rest)
    value = clause.slice(first, stop)
    if asked and stands_alone(toks[first:stop], scene.names, clause.subject):
        yield _pair(scene, clause, f"{asked}?", value, "", _gap_sentence(clause, first, stop))


def that(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """What somebody found, knew or thought: the that-clause is asked for."""
    verb, _ = _main_verb(clause)
    if verb is None or _base(clause, verb) not in verbs.THAT_VERBS or verb + 2 >= clause.end:
        return
    toks = clause.toks
    if (
        toks[verb + 1].lower != "that"
        or toks[verb + 2].lower in lex.BREAKERS - lex.SUBJECT_PRONOUNS - _CLAUSE_STARTS
    ):
        return
    for stop in ends(clause, verb + 1, 4, 24):
        value = clause.slice(verb + 1, stop)
        asked = _invert(clause, verb, "What", "")
        if asked and _rare(clause, verb, scene):
            yield _pair(scene, clause, f"{asked}?", value, "", _gap_sentence(clause, verb + 1, stop))
        return


def to_do(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """What somebody decided, tried or refused to do: the infinitive is asked for."""
    verb, _ = _main_verb(clause)
    if verb is None or _base(clause, verb) not in verbs.TO_VERBS or verb + 3 >= clause.end:
        return
    if clause.toks[verb + 1].lower != "to" or clause.toks[verb + 2].lower in lex.BREAKERS - {"be", "have"}:
        return
    if not _rare(clause, verb, scene):
        return
    for stop in ends(clause, verb + 2, 3, 20):
        if not stands_alone(clause.toks[verb + 2 : stop], scene.names, clause.subject):
            continue
        value = clause.slice(verb + 2, stop)
        asked = _invert(clause, verb, "What", "to do")
        if asked:
            yield _pair(scene, clause, f"{asked}?", value, "", _gap_sentence(clause, verb + 2, stop))
        return


def why(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """Why: the words from "because" on."""
    toks, verb = clause.toks, clause.verb
    sentence_end = len(toks)
    for j in range(verb + 1, sentence_end - 3):
        if toks[j].text in ";:—" or toks[j].text.startswith("--"):
            return
        if toks[j].lower != "because" or toks[j + 1].lower == "of":
            continue
        cause = j
        end = next(
            (k for k in range(j, sentence_end) if toks[k].text in {";", ".", "!", "?", ":", "--", "—"}),
            sentence_end,
        )
        effect = toks[verb + 1 : cause]
        if toks[cause - 1].lower in {"just", "only", "simply", "not", "or", "and", "partly"}:
            return
        if not 2 <= sum(t.word for t in effect) <= 18 or end - cause < 4 or end - cause > 28:
            return
        if _alone(clause, verb + 1, cause) != cause or not stands_alone(effect, scene.names, clause.subject):
            return
        asked = _invert(clause, verb, "Why", clause.slice(verb + 1, cause))
        value = clause.slice(cause, end)
        if asked:
            yield _pair(scene, clause, f"{asked}?", value, "", "")
        return


def when(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """When: a time phrase at the start of the sentence, or a date or year in it."""
    toks = clause.toks
    for first, stop in _time_spans(clause):
        value = clause.sentence[toks[first].start : toks[stop - 1].end]
        if first < clause.subject.first:
            for end in ends(clause, clause.verb + 1, 2, 16):
                end = _alone(clause, clause.verb + 1, end)
                rest = toks[clause.verb + 1 : end]
                if sum(t.word for t in rest) < 2 or not stands_alone(rest, scene.names, clause.subject):
                    continue
                asked = _invert(clause, clause.verb, "When", clause.slice(clause.verb + 1, end))
                if asked:
                    gap = blank(clause.sentence[: toks[end - 1].end], value, toks[first].start)
                    yield _pair(scene, clause, f"{asked}?", value, "", gap + ".")
                return
        elif first > clause.verb + 1 and stop <= clause.end:
            rest = toks[clause.verb + 1 : first]
            if (
                _alone(clause, clause.verb + 1, first) != first
                or sum(t.word for t in rest) > 18
                or not stands_alone(rest, scene.names, clause.subject)
            ):
                return
            asked = _invert(clause, clause.verb, "When", clause.slice(clause.verb + 1, first))
            if asked:
                yield _pair(scene, clause, f"{asked}?", value, "", _gap_sentence(clause, first, stop))
            return


def how_many(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """How many: a number before a plural noun that is the verb's object."""
    verb, _ = _main_verb(clause)
    if verb is None or verb + 3 >= clause.end:
        return
    toks, first = clause.toks, verb + 1
    number = first
    if toks[number].lower not in lex.NUMBERS and not re.fullmatch(r"\d[\d,]*", toks[number].text):
        return
    noun = number + 1
    while (
        noun < clause.end and toks[noun].word and toks[noun].lower not in lex.BREAKERS and noun - number < 5
    ):
        noun += 1
    counted = toks[number + 1 : noun]
    if (
        not counted
        or not counted[-1].lower.endswith(("s", "men", "ren", "ple", "mice"))
        or counted[0].lower in lex.NUMBERS
    ):
        return
    if any(t.lower in {"or", "times", "o'clock"} for t in counted):
        return
    for stop in ends(clause, first, 2, 24):
        if stop < noun or not stands_alone(toks[noun:stop], scene.names, clause.subject):
            continue
        rest = clause.slice(noun, _alone(clause, noun, stop))
        if rest and toks[noun].lower not in _ADJUNCTS - {"and"}:
            return
        things = clause.slice(number + 1, noun)
        asked = _invert(clause, verb, f"How many {things}", rest)
        if asked:
            value = toks[number].text
            yield _pair(scene, clause, f"{asked}?", value, "", _gap_sentence(clause, number, number + 1))
        return


Builder = Callable[[Clause, Scene], Iterator[Pair]]
BUILDERS: dict[str, Builder] = {
    "who": who,
    "why": why,
    "when": when,
    "how many": how_many,
    "where": where,
    "that": that,
    "to do": to_do,
    "what": what,
}

_PARTICLES = frozenset("up down out back away over straight right quickly slowly quietly softly just".split())
_ADJUNCTS = (lex.PREPOSITIONS | frozenset({"and", "to", "when", "while", "as"})) - {"of", "than", "but"}
_CLAUSE_STARTS = frozenset("the a an there it he she they some every each all no one".split())
_PLACE_FORMS = frozenset(form for form, base in verbs.PAST.items() if base in verbs.PLACE_VERBS) | frozenset(
    "sitting standing lying living staying resting sleeping hanging waiting going coming walking running riding".split()
)
_OBJECT_FORMS = frozenset(form for form, base in verbs.PAST.items() if base in verbs.OBJECT_VERBS)


def _pair(scene: Scene, clause: Clause, question: str, value: str, second: str, gapped: str) -> Pair:
    """A pair whose answer is the sentence, with a gap form (and `second`) as paraphrases."""
    others = [scene.anchor.ask(second)] if second else []
    if gapped:
        others.append(closed(f"What belongs in the gap{scene.anchor.origin}:", gapped))
    return pair(scene.anchor.ask(question), clause.sentence, value, clause.sentence, others)


def _gap_sentence(clause: Clause, first: int, stop: int) -> str:
    """The clause from its subject on, with the tokens from `first` to `stop` replaced by a gap."""
    toks = clause.toks
    begin = clause.subject.first
    text = clause.sentence[toks[begin].start : toks[clause.end - 1].end]
    value = clause.slice(first, stop)
    gapped = blank(text, value, toks[first].start - toks[begin].start)
    gapped = gapped[:1].upper() + gapped[1:]
    return gapped if re.search(r"[.!?]$", gapped) else gapped.rstrip(" ,;:-—") + "."


def _alone(clause: Clause, first: int, stop: int) -> int:
    """`stop`, or before a second verb ("and oiled ..."), which cannot stand in a question with "did"."""
    toks = clause.toks
    for j in range(first, stop - 1):
        if toks[j].lower in {"and", "but", "or", "then"} or toks[j].text == ",":
            near = [t.lower for t in toks[j + 1 : min(j + 4, stop)]]
            while near and (near[0] in lex.ADVERBS | {"and", "then", "but"} or near[0].endswith("ly")):
                near = near[1:]
            if near and (near[0] in verbs.PAST or near[0] in verbs.AUXILIARIES):
                return j
    return stop


def _telling(rest: Sequence[Token]) -> bool:
    """At least three words of content: without them nobody knows which event is meant."""
    content = [t for t in rest if t.word and t.lower not in lex.ENGLISH_STOP | lex.BREAKERS | lex.ADVERBS]
    return len(content) >= 3


def _main_verb(clause: Clause) -> tuple[int | None, str]:
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
    if word in verbs.PAST or word in verbs.PARTICIPLES or word in verbs.BASES or word in _PLACE_FORMS:
        return i, clause.slice(clause.verb, i)
    return None, ""


def _base(clause: Clause, verb: int) -> str:
    word = clause.toks[verb].lower
    return verbs.PAST.get(word, word)


def _invert(clause: Clause, verb: int, word: str, rest: str) -> str:
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


def _rare(clause: Clause, verb: int, scene: Scene) -> bool:
    """Whether this verb form occurs once in the passage, so that the question has one answer there."""
    return scene.counts.get(clause.toks[verb].lower, 0) <= 1


def _phrase_at(clause: Clause, i: int) -> bool:
    return i < clause.end and clause.toks[i].lower in lex.PLACE_PREPOSITIONS


def _place_phrase(clause: Clause, first: int, scene: Scene) -> int | None:
    """Index after the prepositional phrase of place that starts at `first`, with "of ..." and one more inside."""
    toks = clause.toks
    if not _phrase_at(clause, first) or first + 1 >= clause.end:
        return None
    i = first + 1
    if toks[i].lower in {"of", "the"} and toks[first].lower == "out":
        i += 1
    stop = _noun_run(clause, i)
    while (
        stop is not None
        and stop < clause.end
        and (
            toks[stop].lower == "of"
            or (toks[stop].lower in lex.PLACE_PREPOSITIONS - {"to", "from"} and stop - first < 7)
        )
    ):
        more = _noun_run(clause, stop + 1)
        if more is None:
            return None
        stop = more
    if stop is None or stop - first > 12:
        return None
    return stop if stop - first >= 2 else None


def _noun_run(clause: Clause, i: int) -> int | None:
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


# "The film was a success": which film is left open.
_GENERIC = frozenset(
    "film album series show song novel play movie season company club team band award book story poem".split()
)
# "She shook her head": an answer that says nothing.
_IDIOMS = frozenset("head breath way eyes eye face hand hands mind arms arm".split())
# Words after a noun that describe how, not what.
_LOOSE = frozenset("close deep high low open loose shut good-bye goodbye free entitled titled full".split())
_ING_NOUNS = frozenset(
    "king ring wing string thing morning evening ceiling building clothing being spring railing".split()
)


def _object(clause: Clause, first: int, scene: Scene) -> tuple[int | None, Phrase | None]:
    """Index after the object that starts at `first`, and its phrase where it is a known one."""
    toks = clause.toks
    thing = (
        noun_phrase(clause.sentence, toks, first, scene.names, initial=False) if first < clause.end else None
    )
    stop = _noun_run(clause, first)
    if thing is not None and (stop is None or thing.last >= stop):
        stop = thing.last
    if stop is None:
        return None, None
    while stop < clause.end and toks[stop].lower == "of":
        more = _noun_run(clause, stop + 1)
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


def _clean_stop(clause: Clause, stop: int) -> bool:
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


def _time_spans(clause: Clause) -> Iterator[tuple[int, int]]:
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


_MONTH = "(?:" + "|".join(sorted(lex.MONTHS)) + ")"
_DATE = rf"(?:{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:, \d{{4}})?|\d{{1,2}} {_MONTH}(?: \d{{4}})?|{_MONTH}(?:,? \d{{4}})?|\d{{4}}|the (?:\d{{2}})?\d0s)"
_DATED = re.compile(
    rf"(?:[Ii]n|[Oo]n|[Bb]y|[Ss]ince|[Uu]ntil) (?:early |late |mid-)?{_DATE}\b(?! (?:and|or|to) \d|[-–]\d)"
)
_TIME = re.compile(
    rf"(?:(?:[Ii]n|[Oo]n|[Bb]y|[Ss]ince|[Uu]ntil) (?:early |late |mid-)?{_DATE}\b(?! (?:and|or|to) \d|[-–]\d)"
    r"|(?:[Tt]he|[Tt]hat|[Tt]his) (?:next|same|following|very) (?:morning|day|evening|night|afternoon|week|year)\b"
    r"|(?:[Ii]n|[Dd]uring) the (?:early |late )?(?:morning|evening|afternoon|night)\b"
    r"|[Aa]t (?:noon|night|midnight|dawn|daybreak|sunset|sunrise|dusk|twilight|breakfast|dinner|supper)\b"
    r"|[Tt]owards? (?:evening|night|morning|noon|sunset)\b"
    r"|[Aa]fter (?:breakfast|dinner|supper|lunch|luncheon|tea)\b"
    r"|[Ee]arly (?:the )?(?:next|in the) morning\b|[Tt]hat (?:night|evening|afternoon|morning|day)\b)"
)
