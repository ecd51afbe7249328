"""Wh-questions from one clause with a known subject and verb: builders that yield pairs or nothing, and their table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from harmonize.data.unify.rules import lexicon as lex
from harmonize.data.unify.rules import verbs
from harmonize.data.unify.rules.clauses import Clause, ends, new_subject, stands_alone
from harmonize.data.unify.rules.grammar import (
    PLACE_FORMS,
    Scene,
    base_of,
    before_second_verb,
    built,
    clean_stop,
    gap_sentence,
    invert,
    main_verb,
    object_of,
    phrase_at,
    place_phrase,
    rare,
    telling,
)
from harmonize.data.unify.rules.names import asks_for
from harmonize.data.unify.rules.times import time_spans
from harmonize.data.unify.rules.wording import blank
from harmonize.data.unify.task import Pair

_PARTICLES = frozenset("up down out back away over straight right quickly slowly quietly softly just".split())
_ADJUNCTS = (lex.PREPOSITIONS | frozenset({"and", "to", "when", "while", "as"})) - {"of", "than", "but"}
_CLAUSE_STARTS = frozenset("the a an there it he she they some every each all no one".split())
_OBJECT_FORMS = frozenset(form for form, base in verbs.PAST.items() if base in verbs.OBJECT_VERBS)
# "The film was a success": which film is left open.
_GENERIC = frozenset(
    "film album series show song novel play movie season company club team band award book story poem".split()
)
# "She shook her head": an answer that says nothing.
_IDIOMS = frozenset("head breath way eyes eye face hand hands mind arms arm".split())


def who(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """Who (or what) did it: the subject is asked for."""
    subject, toks = clause.subject, clause.toks
    if subject.head in _GENERIC and not subject.named:
        return
    word = asks_for(subject)
    first = subject.last
    for stop in ends(clause, first, 5, 22):
        rest = toks[first:stop]
        if not stands_alone(rest, scene.names, subject) or not telling(rest):
            continue
        predicate = f"{clause.adverb} {clause.slice(clause.verb, stop)}".strip()
        gapped = f"{blank(subject.text, subject.text, 0)} {predicate}."
        second = f"Which character {predicate}?" if word == "Who" and not subject.plural else ""
        yield built(scene, clause, f"{word} {predicate}?", subject.text, second, gapped)
        return


def where(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """Where somebody is or goes: the prepositional phrase right after a verb of place."""
    verb, _ = main_verb(clause)
    if verb is None or clause.toks[verb].lower not in PLACE_FORMS:
        return
    first = verb + 1
    while first < clause.end and clause.toks[first].lower in _PARTICLES and phrase_at(clause, first + 1):
        first += 1
    stop = place_phrase(clause, first, scene)
    if stop is None or not clean_stop(clause, stop):
        return
    if not rare(clause, verb, scene):
        return
    middle = clause.slice(verb + 1, first)
    if not middle and base_of(clause, verb) in verbs.VAGUE_VERBS:
        return
    asked = invert(clause, verb, "Where", middle)
    value = clause.slice(first, stop)
    if asked and stands_alone(clause.toks[first:stop], scene.names, clause.subject):
        yield built(scene, clause, f"{asked}?", value, "", gap_sentence(clause, first, stop))


def what(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """What (or whom) somebody did something to: the object right after the verb."""
    verb, _ = main_verb(clause)
    if verb is None or clause.toks[verb].lower not in _OBJECT_FORMS:
        return
    toks, first = clause.toks, verb + 1
    stop, thing = object_of(clause, first, scene)
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
            rest = clause.slice(stop, before_second_verb(clause, stop, end))
            break
    if rest and toks[stop].lower not in _ADJUNCTS:
        return
    base = base_of(clause, verb)
    if len(rest.split()) < 2 and (base in verbs.VAGUE_VERBS or not rare(clause, verb, scene)):
        return
    if rest and toks[stop].lower == "and":
        rest = ""
        if base in verbs.VAGUE_VERBS:
            return
    if not clean_stop(clause, stop) and not rest:
        return
    asked = invert(clause, verb, word, rest)
    value = clause.slice(first, stop)
    if asked and stands_alone(toks[first:stop], scene.names, clause.subject):
        yield built(scene, clause, f"{asked}?", value, "", gap_sentence(clause, first, stop))


def that(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """What somebody found, knew or thought: the that-clause is asked for."""
    verb, _ = main_verb(clause)
    if (
        verb is None
        or base_of(clause, verb) not in verbs.THAT_VERBS - verbs.VAGUE_VERBS
        or verb + 2 >= clause.end
    ):
        return
    toks = clause.toks
    if (
        toks[verb + 1].lower != "that"
        or toks[verb + 2].lower in lex.BREAKERS - lex.SUBJECT_PRONOUNS - _CLAUSE_STARTS
    ):
        return
    for stop in ends(clause, verb + 1, 4, 24):
        value = clause.slice(verb + 1, stop)
        asked = invert(clause, verb, "What", "")
        if asked and rare(clause, verb, scene):
            yield built(scene, clause, f"{asked}?", value, "", gap_sentence(clause, verb + 1, stop))
        return


def to_do(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """What somebody decided, tried or refused to do: the infinitive is asked for."""
    verb, _ = main_verb(clause)
    if verb is None or base_of(clause, verb) not in verbs.TO_VERBS or verb + 3 >= clause.end:
        return
    if clause.toks[verb + 1].lower != "to" or clause.toks[verb + 2].lower in lex.BREAKERS - {"be", "have"}:
        return
    if not rare(clause, verb, scene):
        return
    for stop in ends(clause, verb + 2, 3, 20):
        if not stands_alone(clause.toks[verb + 2 : stop], scene.names, clause.subject):
            continue
        value = clause.slice(verb + 2, stop)
        asked = invert(clause, verb, "What", "to do")
        if asked:
            yield built(scene, clause, f"{asked}?", value, "", gap_sentence(clause, verb + 2, stop))
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
        if any(new_subject(toks, k) for k in range(verb + 1, cause)):
            return
        if not 1 <= sum(t.word for t in effect) <= 18 or end - cause < 4 or end - cause > 28:
            return
        if before_second_verb(clause, verb + 1, cause) != cause or not stands_alone(
            effect, scene.names, clause.subject
        ):
            return
        asked = invert(clause, verb, "Why", clause.slice(verb + 1, cause))
        value = clause.slice(cause, end)
        if asked:
            yield built(scene, clause, f"{asked}?", value, "", "")
        return


def when(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """When: a time phrase at the start of the sentence, or a date or year in it."""
    toks = clause.toks
    for first, stop in time_spans(clause):
        value = clause.sentence[toks[first].start : toks[stop - 1].end]
        if first < clause.subject.first:
            for end in ends(clause, clause.verb + 1, 2, 16):
                end = before_second_verb(clause, clause.verb + 1, end)
                rest = toks[clause.verb + 1 : end]
                if sum(t.word for t in rest) < 2 or not stands_alone(rest, scene.names, clause.subject):
                    continue
                asked = invert(clause, clause.verb, "When", clause.slice(clause.verb + 1, end))
                if asked:
                    gap = blank(clause.sentence[: toks[end - 1].end], value, toks[first].start)
                    yield built(scene, clause, f"{asked}?", value, "", gap + ".")
                return
        elif first > clause.verb + 1 and stop <= clause.end:
            rest = toks[clause.verb + 1 : first]
            if (
                before_second_verb(clause, clause.verb + 1, first) != first
                or sum(t.word for t in rest) > 18
                or not stands_alone(rest, scene.names, clause.subject)
            ):
                return
            asked = invert(clause, clause.verb, "When", clause.slice(clause.verb + 1, first))
            if asked:
                yield built(scene, clause, f"{asked}?", value, "", gap_sentence(clause, first, stop))
            return


def how_many(clause: Clause, scene: Scene) -> Iterator[Pair]:
    """How many: a number before a plural noun that is the verb's object."""
    verb, _ = main_verb(clause)
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
        rest = clause.slice(noun, before_second_verb(clause, noun, stop))
        if rest and toks[noun].lower not in _ADJUNCTS - {"and"}:
            return
        things = clause.slice(number + 1, noun)
        asked = invert(clause, verb, f"How many {things}", rest)
        if asked:
            value = toks[number].text
            yield built(scene, clause, f"{asked}?", value, "", gap_sentence(clause, number, number + 1))
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
