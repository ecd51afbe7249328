"""Unifiers of everything that is no passage: multiple choice, cloze, conversations and question-answer pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harmonize.data.records import BLANK
from harmonize.data.unify.rules.wording import closed, pair, quote, sentence
from harmonize.data.unify.task import Failure, Pair, Task

# An option that only makes sense beside the others.
_REFERRING = re.compile(
    r"(?i)\b(?:all|none|both|neither|either|any|two|some) of (?:the )?"
    r"(?:above|these|them|those|others?|following|preceding)\b"
    r"|^(?:all|none|both|neither|either)\.?$"
    r"|^(?:both )?\(?[A-E1-5]\)?,? ?(?:and|or|&) ?\(?[A-E1-5]\)?(?: only)?\.?$"
    r"|^(?:[IV]+(?:, ?| and | only)*)+\.?$|^\(?[a-eA-E]\)?$|\bthe above\b"
)
# A stem that asks the reader to look at the options.
_NEEDS_OPTIONS = re.compile(
    r"(?i)\bfollowing\b|\bwhich (?:statements?|options?|choices?|answers?|sentences?|conclusions?|one|pair|list)\b"
    r"|\bof (?:these|those)\b|\b(?:above|below|listed)\b|\bstatement [12]\b"
    r"|\b(?:except|least|false|incorrect|true)\b\s*[?:.]?$|\bmost likely\b"
    r"|\bbest (?:describes|explains|summari[sz]es|represents|illustrates|example)\b"
    r"|^which (?:is|are) an? example|(?-i:\bEXCEPT\b|\bNOT\b|\bLEAST\b)"
)
_ONE_THING = "|".join(
    """
    term word name country city element gas organ planet person author process law theory scientist substance metal
    compound hormone vitamin mineral language river ocean state protocol tool technique number year
    """.split()
)
_OF_THE_FOLLOWING = r"(?i)^which (?:one )?of the following"
_REWORDINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"{_OF_THE_FOLLOWING} ({_ONE_THING})(?:es|s)? (?=(?:can|\w+s|had|did)\b)"), r"Which \1 "),
    (
        re.compile(rf"{_OF_THE_FOLLOWING} (is|was) (?=(?:the|called|known|used|responsible|named)\b)"),
        r"What \1 ",
    ),
    (re.compile(r"(?i)^which (is|are|was|were) (?!(?:an?|the best) example)"), r"What \1 "),
)
# What starts like a question even without its mark; "When" and "Where" also open statements.
_QUESTION_WORDS = re.compile(
    r"(?i)(?:(?:in|at|on|to|for|by|from|of|with) )?(?:who|whom|whose|what|why|which|how)\b"
    r"|(?i:when|where) (?:is|are|was|were|did|do|does|will|can|could|should|would|has|have|had)\b"
    r"|(?i:is|are|was|were|do|does|did|can|could|would|should|will|has|have|had)\b"
)
# Words by which a turn points back at earlier turns.
_POINTS_BACK = re.compile(
    r"(?i)\b(?:it|its|that|this|these|those|they|them|their|he|him|his|she|her|hers|above|previous(?:ly)?|earlier|again|"
    r"instead|same|former|latter|another|more|else|also|too|continue|"
    r"you (?:just )?(?:said|mentioned|wrote|told|suggested)|your (?:last|answer|list|first|second)|"
    r"the (?:first|second|third|last|other)(?: one| option| part)?)\b"
    r"|^(?:and|but|so|or|ok|okay|thanks|thank|yes|no|why|how so|really)\b[^?]{0,30}[.!?]?$"
)


def normal_question(text: str) -> str:
    """Whitespace, a label such as `Question:`, outer quotation marks, first capital and question mark put right."""
    text = re.sub(r"(?i)^\s*(?:question|q)\s*\d*\s*[:.)]\s+", "", " ".join(text.split()))
    text = _unquoted(text)
    text = re.sub(r"\s+([?.!])", r"\1", text)
    text = re.sub(r"\?{2,}$|\?!$|!\?$", "?", text)
    if _QUESTION_WORDS.match(text) and BLANK not in text:
        text = re.sub(r"[.,;:]*$", "", text)
        text = text if text.endswith(("?", "!", '?"', "?'")) else text + "?"
    return text[:1].upper() + text[1:]


def normal_answer(text: str) -> str:
    """Whitespace, a label such as `Answer:` and outer quotation marks put right."""
    return _unquoted(re.sub(r"(?i)^\s*(?:answer|a)\s*:\s+", "", " ".join(text.split())))


def _unquoted(text: str) -> str:
    for left, right in ('""', "“”", "''", "‘’"):
        inner = text[1:-1]
        if (
            len(text) > 2
            and text[0] == left
            and text[-1] == right
            and left not in inner
            and right not in inner
        ):
            return inner.strip()
    return text


def from_qa(task: Task) -> list[Pair] | Failure:
    """The pair itself, normalised."""
    question, answer = normal_question(task.question), normal_answer(task.answer)
    if not question or not answer:
        return Failure("empty", "a question-answer pair without question or answer")
    return [Pair(question, answer)]


def from_choice(task: Task) -> list[Pair] | Failure:
    """The question and the right option's text; a stem becomes a completion, one that needs its options is refused."""
    question, answer = " ".join(task.question.split()), normal_answer(task.answer)
    if not question or not answer:
        return Failure("empty", "a multiple-choice item without question or right option")
    if _REFERRING.search(answer):
        return Failure("needs_options", "the right option refers to the other options")
    question = re.sub(r"(?i)^\s*(?:question|q)\s*\d*\s*[:.)]\s+", "", question)
    for pattern, replacement in _REWORDINGS:
        question = pattern.sub(replacement, question)
    if re.search(r"_{2,}", question):
        return from_cloze(Task("cloze", question=question, answer=answer, subject=task.subject))
    if _NEEDS_OPTIONS.search(question):
        return Failure("needs_options", "the question cannot be answered without its options")
    if question.endswith("?") or (_QUESTION_WORDS.match(question) and not re.search(r"[:,]$", question)):
        return [Pair(normal_question(question), answer, answer)]
    stem = re.sub(r"[\s.:;,…-]+$", "", question)
    whole = sentence(f"{stem} {answer}")
    return [
        pair(
            f"Complete the statement: {quote(f'{stem} {BLANK}.')}",
            whole,
            answer.rstrip(".") or answer,
            "",
            (closed("What belongs in the gap:", f"{stem} {BLANK}."),),
        )
    ]


def from_cloze(task: Task) -> list[Pair] | Failure:
    """The filled sentence as answer, what fills the gap as value."""
    gapped = re.sub(r"_{2,}", BLANK, _unquoted(" ".join(task.question.split())))
    value = normal_answer(task.answer)
    if gapped.count(BLANK) != 1:
        return Failure("several_gaps" if BLANK in gapped else "no_gap", f"expected one gap written {BLANK}")
    if not value:
        return Failure("empty", "a cloze without the words that fill it")
    gapped = gapped if re.search(r"[.!?]['\"”’]?$", gapped) else gapped + "."
    if gapped.endswith(BLANK + ".") and value.endswith("."):
        value = value.rstrip(".") or value
    whole = gapped.replace(BLANK, value)
    shown = quote(gapped)
    asked = _wh(gapped, value)
    others = (closed("What belongs in the gap:", gapped), f"Complete the sentence: {shown}")
    if asked:
        return [pair(asked, whole, value, "", others)]
    return [pair(others[0], whole, value, "", others[1:])]


_BIRTH = re.compile(
    r"^(?P<who>(?:[A-Z][\w.'’-]*)(?: (?:of|de|van|von|the|[A-Z][\w.'’-]*))*) (?P<aux>was|were) "
    r"(?P<verb>born|raised|educated|buried|founded|published|released) (?P<prep>in|on|at) ___\.$"
)


def _wh(gapped: str, value: str) -> str:
    """A wh-question where the sentence's shape leaves no doubt: `X was born in ___.` with a year or a place."""
    match = _BIRTH.match(gapped)
    if match is None:
        return ""
    if re.search(r"\d", value):
        word = "When"
    elif match["prep"] in ("in", "at") and value[:1].isupper() and match["verb"] != "published":
        word = "Where"
    else:
        return ""
    return f"{word} {match['aux']} {match['who']} {match['verb']}?"


def from_chat(task: Task) -> list[Pair] | Failure:
    """Every exchange of user and assistant that stands by itself; system turns are ignored.

    The first exchange stands by itself; a later one does if its request has four words or more and none points back.
    """
    return list(_exchanges(task.messages))


def _exchanges(messages: tuple[tuple[str, str], ...]) -> Iterator[Pair]:
    asked: list[str] = []
    first = True
    for speaker, text in messages:
        if speaker == "user":
            asked.append(text)
        elif speaker == "assistant" and asked:
            request, reply = " ".join(" ".join(asked).split()), " ".join(text.split())
            alone = first or (len(request.split()) >= 4 and not _POINTS_BACK.search(request))
            if request and reply and alone:
                yield Pair(normal_question(request), reply)
            asked, first = [], False
