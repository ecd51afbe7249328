"""A passage as question-answer pairs: dialogue first, then wh-questions clause by clause, then clozes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harmonize.data.unify.rules import speech
from harmonize.data.unify.rules.clauses import clauses
from harmonize.data.unify.rules.cloze import narration, spoken
from harmonize.data.unify.rules.names import find_names
from harmonize.data.unify.rules.questions import BUILDERS, Scene
from harmonize.data.unify.rules.sentences import Span, is_whole, paragraphs, sentences, spans, tokens
from harmonize.data.unify.rules.wording import Anchor, anchor_for
from harmonize.data.unify.task import Failure, Pair, Task
from harmonize.data.unify.validate import Duplicates, leaks

# Longest sentence that wh-questions are built on, in words.
LONGEST = 70


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of `Rules`, see there."""

    max_per_passage: int
    max_per_sentence: int
    paraphrases: int
    clozes: bool
    anchor: str


@dataclass(frozen=True, slots=True)
class _Made:
    """A pair with its kind's rank (lower is dearer) and place in the passage."""

    rank: int
    place: int
    pair: Pair


def from_passage(task: Task, settings: Settings) -> list[Pair] | Failure:
    """Every question that the rules can make, in the order of the passage, no question twice."""
    anchor = anchor_for(task.subject, task.text, settings.anchor)
    made = sorted(_all(task.text, anchor, settings), key=lambda m: (m.rank, m.place))
    seen = Duplicates()
    kept: list[_Made] = []
    for one in made:
        fitted = _fit(one.pair, anchor, settings.paraphrases)
        if fitted is None or seen.seen(fitted):
            continue
        kept.append(replace(one, pair=fitted))
        if settings.max_per_passage and len(kept) == settings.max_per_passage:
            break
    return [one.pair for one in sorted(kept, key=lambda m: (m.place, m.rank))]


def _fit(pair: Pair, anchor: Anchor, paraphrases: int) -> Pair | None:
    """Without an anchor or paraphrases that give the answer away; None if the question itself does."""
    if anchor.title and leaks(anchor.title, pair.value):
        pair = replace(
            pair,
            question=_unanchored(pair.question, anchor),
            paraphrases=tuple(_unanchored(p, anchor) for p in pair.paraphrases),
        )
    if leaks(pair.question, pair.value):
        return None
    others = [p for p in pair.paraphrases if not leaks(p, pair.value)]
    return replace(pair, paraphrases=tuple(others[:paraphrases]))


def _unanchored(text: str, anchor: Anchor) -> str:
    text = re.sub(rf' (?:from|in) "{re.escape(anchor.title)}"', "", text)
    text = re.sub(rf'^In "{re.escape(anchor.title)}", ', "", text)
    return text[:1].upper() + text[1:]


def _all(text: str, anchor: Anchor, settings: Settings) -> Iterator[_Made]:
    texts = paragraphs(text)
    blocks = [spans(p) for p in texts]
    names = find_names(s for block in blocks for span in block for s in sentences(span.text))
    counts = Counter(t.lower for block in blocks for span in block for t in tokens(span.text))
    scene = Scene(names, anchor, dict(counts))
    turns = [speech.turn(p, block, names) for p, block in zip(texts, blocks, strict=True)]
    answered = dict(speech.replies(turns, anchor))
    place = 0
    for i, block in enumerate(blocks):
        said = turns[i]
        if i in answered:
            yield _Made(0, place, answered[i])
        if said is not None:
            for pair in speech.who_said(said, anchor):
                yield _Made(1, place, pair)
            if settings.clozes:
                for pair in spoken(said, names, anchor, settings.max_per_sentence):
                    yield _Made(3, place, pair)
        for sentence in _narrated(block):
            place += 1
            yield from _about(sentence, scene, settings, place)
        place += 1


def _about(sentence: str, scene: Scene, settings: Settings, place: int) -> Iterator[_Made]:
    taken: set[str] = set()
    count = 0
    for clause in clauses(sentence, scene.names) if len(sentence.split()) <= LONGEST else ():
        for build in BUILDERS.values():
            for pair in build(clause, scene):
                if count >= settings.max_per_sentence or pair.value.lower() in taken:
                    continue
                taken.add(pair.value.lower())
                count += 1
                yield _Made(2, place, pair)
    if settings.clozes:
        most = max(0, min(2, settings.max_per_sentence - count))
        for pair in narration(sentence, scene.names, scene.anchor, taken, most):
            yield _Made(4, place, pair)


def _narrated(block: Sequence[Span]) -> Iterator[str]:
    """Whole sentences of narration: not the pieces that introduce or follow what somebody says."""
    for i, span in enumerate(block):
        if span.speech:
            continue
        found = sentences(span.text)
        after, before = i > 0, i + 1 < len(block)
        for j, sentence in enumerate(found):
            if j == 0 and after and not _opens_anew(block[i - 1].text, sentence):
                continue
            if j == len(found) - 1 and before and not re.search(r"[.!?]$", sentence):
                continue
            if is_whole(sentence):
                yield sentence


def _opens_anew(speech_before: str, sentence: str) -> bool:
    """After a finished speech a capital starts a new sentence unless it attributes the speech (`Alice said.`)."""
    if not re.search(r"[.!?]$", speech_before) or not sentence[:1].isupper():
        return False
    first = [t.lower for t in tokens(sentence)[:6]]
    return not any(word in speech.SPEECH_VERBS for word in first)
