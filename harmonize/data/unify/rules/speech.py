"""Questions from dialogue: who says something, to whom, and what is answered to a question."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harmonize.data.unify.rules import lexicon as lex
from harmonize.data.unify.rules.clauses import adverb_like
from harmonize.data.unify.rules.names import Names, Phrase, asks_for, noun_phrase
from harmonize.data.unify.rules.sentences import Span, Token, sentences, tokens
from harmonize.data.unify.rules.verbs import SPEECH_VERBS
from harmonize.data.unify.rules.wording import Anchor, closed, pair, quote, sentence
from harmonize.data.unify.task import Pair

# What may follow the speaker in "said the Lion ...": else more of a name or noun would be cut off.
_AFTER = lex.BREAKERS | frozenset("looking and in with as who".split())
_REPLIES = frozenset("answered replied said returned responded retorted".split())
_ASKS = frozenset("asked inquired enquired said cried called demanded exclaimed".split())
# Marks of layout, a broken-off end, an inner quotation that is cut in two, or a line in capitals.
_BROKEN = re.compile(r"[\[\]_*<>|]|--['’”]*$|—$|^[^‘]*’[^\w]*‘|‘[^’]*$|\b[A-Z]{2,} [A-Z]{2,} [A-Z]{2,}")


def broken(text: str) -> bool:
    """Whether a piece of speech cannot be quoted on its own."""
    return bool(_BROKEN.search(text)) or text.count("“") != text.count("”") or text.count('"') % 2 == 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One paragraph's speech with its speaker.

    Attributes:
        speaker: Who speaks, where that is certain.
        listener: To whom, where it is said; empty otherwise.
        verb: said, asked, ...
        parts: The speech in order, each with the passage that shows it; pieces of one sentence that the narration
            parts ("And now," said Dorothy, "how ...") are joined again.
        complete: Whether nothing but this speech and its attribution stands in the paragraph.
    """

    speaker: Phrase | None
    listener: str
    verb: str
    parts: tuple[tuple[str, str], ...]
    complete: bool


def turn(text: str, paragraph: Sequence[Span], names: Names) -> Turn | None:
    """The speech of a paragraph, with its speaker if a plain attribution names exactly one; None without speech.

    Args:
        text: The paragraph.
        paragraph: Its spans.
        names: What the passage shows.
    """
    if not any(span.speech for span in paragraph):
        return None
    speaker: Phrase | None = None
    listener = verb = ""
    shown = 0
    certain = True
    for i, span in enumerate(paragraph):
        if span.speech:
            continue
        after_speech = i > 0
        before_speech = i + 1 < len(paragraph)
        found = _after(span.text, names) if after_speech else None
        if found is None and before_speech and not after_speech:
            found = _before(span.text, names)
        if found is None:
            certain = certain and not (after_speech and _other_speaker(span.text))
        elif speaker is None:
            speaker, listener, verb = found
            shown = i
        elif found[0].text.lower() != speaker.text.lower():
            certain = False
    parts = tuple(_parts(text, paragraph, shown if speaker is not None else -1))
    if not certain:
        return Turn(None, "", "", parts, False)
    narration = [span for span in paragraph if not span.speech]
    complete = len(narration) == 1 and len(narration[0].text.split()) <= 14
    return Turn(speaker, listener, verb, parts, complete)


def _parts(text: str, paragraph: Sequence[Span], shown: int) -> Iterator[tuple[str, str]]:
    """Pieces of speech with the text from the attribution (span `shown`) to them; a parted sentence is joined."""
    said, first, last = "", -1, -1
    for i, span in enumerate(paragraph):
        if not span.speech:
            continue
        between = paragraph[i - 1].text if i and not paragraph[i - 1].speech else ""
        if (
            said
            and re.search(r"[,;]$", between)
            and re.search(r",$", said)
            and re.match(r"[a-z]|I\b", span.text)
        ):
            said, last = f"{said} {span.text}", i
            continue
        if said:
            yield said, _shown(text, paragraph, first, last, shown)
        said, first, last = span.text, i, i
    if said:
        yield said, _shown(text, paragraph, first, last, shown)


def _shown(text: str, paragraph: Sequence[Span], first: int, last: int, shown: int) -> str:
    if shown < 0:
        return text[paragraph[first].start : paragraph[last].end].strip()
    if shown and shown < first and paragraph[shown - 1].speech:
        shown_first = shown - 1
    else:
        shown_first = shown
    begin, end = paragraph[min(first, shown_first)], paragraph[max(last, shown)]
    start, stop = begin.start, end.end
    if not begin.speech:
        start = end_of_sentences(begin, text)
    if not end.speech:
        stop = end.start + len(text[end.start : end.end]) - len(text[end.start : end.end].lstrip())
        stop += len(sentences(end.text)[0])
    return text[start:stop].strip()


def end_of_sentences(span: Span, text: str) -> int:
    """Offset of the last sentence of a narration span."""
    return span.start + text[span.start : span.end].rindex(sentences(span.text)[-1])


def _after(text: str, names: Names) -> tuple[Phrase, str, str] | None:
    """`said the Lion to Dorothy, ...` or `the Lion said ...` right after a speech."""
    toks = tokens(text)
    if len(toks) < 2:
        return None
    if toks[0].lower in SPEECH_VERBS and toks[0].text[0].islower():
        speaker = noun_phrase(text, toks, 1, names, initial=False)
        if speaker is None or (speaker.plural and not speaker.named):
            return None
        if not _boundary(toks, speaker.last):
            return None
        return speaker, _listener(text, toks, speaker.last, names), toks[0].lower
    speaker = noun_phrase(text, toks, 0, names, initial=toks[0].text[0].isupper() and toks[0].lower != "the")
    if speaker is None or speaker.last >= len(toks):
        return None
    k = speaker.last
    while k < len(toks) - 1 and adverb_like(toks[k]):
        k += 1
    if toks[k].lower not in SPEECH_VERBS or not _boundary(toks, k + 1):
        return None
    return speaker, _listener(text, toks, k + 1, names), toks[k].lower


def _boundary(toks: Sequence[Token], i: int) -> bool:
    return i >= len(toks) or not toks[i].word or toks[i].lower in _AFTER or adverb_like(toks[i])


def _listener(text: str, toks: Sequence[Token], i: int, names: Names) -> str:
    if i < len(toks) and toks[i].lower == "to":
        phrase = noun_phrase(text, toks, i + 1, names, initial=False)
        if phrase is not None and _boundary(toks, phrase.last) and asks_for(phrase) == "Who":
            return phrase.inside
    return ""


def _before(text: str, names: Names) -> tuple[Phrase, str, str] | None:
    """`... Dorothy said, with a laugh,` right before a speech: the last sentence must start with the speaker."""
    if not re.search(r"[,:]$", text):
        return None
    last = sentences(text)[-1]
    toks = tokens(last)
    start = 0
    for j in range(1, len(toks) - 1):
        if toks[j].text == ";" or (toks[j].lower in {"so", "and", "but"} and toks[j - 1].text in ",;"):
            start = j + 1
    while start < len(toks) and toks[start].lower in {
        "then",
        "so",
        "but",
        "and",
        "at",
        "last",
        "finally",
        ",",
    }:
        start += 1
    speaker = noun_phrase(last, toks, start, names, initial=start == 0)
    if speaker is None or speaker.last >= len(toks):
        return None
    k = speaker.last
    while k < len(toks) - 1 and (adverb_like(toks[k]) or toks[k].lower in lex.ADVERBS):
        k += 1
    if toks[k].lower not in SPEECH_VERBS or toks[k].lower == "called" or not _boundary(toks, k + 1):
        return None
    rest = [t.lower for t in toks[k + 1 :]]
    if "and" in rest or "that" in rest or ("," in rest[1:-1] and len(rest) > 12):
        return None
    return speaker, _listener(last, toks, k + 1, names), toks[k].lower


def _other_speaker(text: str) -> bool:
    """Narration that gives the words to somebody whom we cannot name."""
    toks = [t.lower for t in tokens(text)[:8]]
    return any(word in SPEECH_VERBS or word in {"thought", "went"} for word in toks)


def quotes(part: str, minimum: int, maximum: int, most: int) -> list[str]:
    """Up to `most` stretches of a speech: whole sentences of `minimum` to `maximum` words in all."""
    found: list[str] = []
    chosen: list[str] = []
    for one in [*sentences(part), ""]:
        text = " ".join(chosen)
        if text and (not one or len(text.split()) >= minimum):
            if minimum <= len(text.split()) <= maximum and text[0].isupper() and not broken(text):
                found.append(text)
            chosen = []
        if one:
            chosen.append(one)
    return found[:most]


def quotable(part: str, minimum: int, maximum: int) -> str:
    """The first sentences of a speech with at least `minimum` and at most `maximum` words, or empty."""
    chosen: list[str] = []
    for one in sentences(part):
        if len(" ".join([*chosen, one]).split()) > maximum:
            break
        chosen.append(one)
        if len(" ".join(chosen).split()) >= minimum and len(chosen) >= 2:
            break
    text = " ".join(chosen)
    return text if len(text.split()) >= minimum and not broken(text) else ""


def who_said(said: Turn, anchor: Anchor) -> Iterator[Pair]:
    """`Who says, "..."?` for up to three pieces of a speech, and to whom where the text tells."""
    if said.speaker is None or asks_for(said.speaker) == "What":
        return
    speaker = said.speaker.inside
    pieces = [(quoted, evidence) for part, evidence in said.parts for quoted in quotes(part, 5, 32, 2)]
    for taken, (quoted, evidence) in enumerate(pieces[:3]):
        yield pair(
            anchor.ask(closed("Who says,", quoted)),
            f"{quote(quoted)} is said by {speaker}.",
            speaker,
            evidence,
            (
                anchor.ask(closed("Which character says,", quoted)),
                closed(f"Whose words{anchor.origin} are these:", quoted),
            ),
        )
        if said.listener and taken == 0:
            yield pair(
                anchor.ask(closed(f"To whom does {speaker} say,", quoted)),
                f"{_capital(speaker)} says it to {said.listener}.",
                said.listener,
                evidence,
                (anchor.ask(closed(f"To which character does {speaker} say,", quoted)),),
            )


def replies(turns: Sequence[Turn | None], anchor: Anchor) -> Iterator[tuple[int, Pair]]:
    """`What does B answer when A asks, "..."?` for two paragraphs in a row, the first ending in a question."""
    for i in range(len(turns) - 1):
        asked, given = turns[i], turns[i + 1]
        if (
            asked is None
            or given is None
            or given.speaker is None
            or given.verb not in _REPLIES
            or not asked.complete
        ):
            continue
        question = sentences(asked.parts[-1][0])[-1]
        if not question.endswith("?") or not 3 <= len(question.split()) <= 25 or not question[0].isupper():
            continue
        part, evidence = given.parts[0]
        reply = quotable(part, 1, 22).rstrip(",;: ")
        if not reply or "?" in reply or reply not in evidence:
            continue
        speaker = given.speaker.inside
        known = asked.speaker is not None and asked.verb in _ASKS and asked.speaker.text != given.speaker.text
        when = f"when {asked.speaker.inside} asks," if known and asked.speaker is not None else "when asked,"
        yield (
            i + 1,
            pair(
                anchor.ask(closed(f"What does {speaker} answer {when}", question)),
                f"{_capital(speaker)} answers, {quote(sentence(reply))}",
                reply,
                evidence,
                (
                    anchor.ask(closed(f"How does {speaker} reply to the question", question)),
                    anchor.ask(closed(f"What is the reply of {speaker} to the question", question)),
                ),
            ),
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
