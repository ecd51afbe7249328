"""Checks on every pair that a rewriter returns, whichever rewriter it was: reasons to reject, and near-duplicates.

What is checked for which form of raw material:

| form    | value stands in the source | source |
|---------|----------------------------|--------|
| passage | exactly, normalised, or entailed (below) | the passage |
| choice  | the words of the right option | the answer; the question's stem may stand around it |
| cloze   | the words that fill the gap | the answer |
| chat    | none: the assistant's own words are the answer | - |
| qa      | exactly, normalised, or entailed | the given answer |
| anchor  | none: nothing is given that it could stand in | - |

Emptiness, lengths, language, leaks and (but for chat, where a request need not be a question) being a question are
checked for all.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harmonize.data.records import BLANK
from harmonize.data.unify.task import Pair, Task


@dataclass(frozen=True)
class Limits:
    """Bounds on what a rewriter returns.

    Attributes:
        min_question_words: Fewest words of a question.
        max_question_words: Most words of a question.
        min_answer_words: Fewest words of an answer.
        max_answer_words: Most words of an answer.
        language: `en`, or None for any language.
    """

    min_question_words: int = 3
    max_question_words: int = 80
    min_answer_words: int = 1
    max_answer_words: int = 160
    language: str | None = "en"


REASONS: dict[str, str] = {
    "empty": "question or answer is empty",
    "question_short": "the question has too few words",
    "question_long": "the question has too many words",
    "answer_short": "the answer has too few words",
    "answer_long": "the answer has too many words",
    "not_a_question": "it neither asks (with a question mark) nor tells the reader what to give",
    "value_missing": "the scored words do not stand in the answer",
    "not_in_source": "the scored words are neither found in the source text nor entailed by one of its sentences",
    "leak": "the question or a paraphrase of it gives the answer away",
    "language": "the text is not in the language asked for",
}

_REQUEST = re.compile(
    r"(?i)(?:please\s+)?(?:complete|fill|name|tell|describe|explain|list|give|state|identify|write|define|summari[sz]e|"
    r"translate|compute|calculate|solve|find|say|mention|provide|show|finish|quote|continue|answer|in \S.{0,120}?[,:] "
    r"(?:complete|fill|name|tell|describe|explain|list|give|state|identify))\b"
)
_STOP = frozenset(
    """
    the a an of to in is was are were and or that this it on for with as by at from be been has have had he
    she they his her its their who what when where which how why did do does but if than into
    """.split()
)
_ENGLISH = _STOP | frozenset(
    "you your i my we not will would can could about there said which whom says does any all no".split()
)
_FOREIGN = frozenset(
    """
    el los las una por con para que del como est sont les des dans qui avec pour une du au aux und der das ist
    nicht mit ein eine den dem von zu auf wie wer welche della nella che di sono não uma os dos foi em é qué
    cuál quién cuándo dónde en su se lo la le et où quel quelle het een og och det att
    """.split()
)
# Share of a value's content words that one sentence must hold to count as entailing it; our choice.
ENTAILED = 0.8


def words(text: str) -> list[str]:
    """Words in a form that survives quoting, case, accents' encoding, hyphens and possessives."""
    plain = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'").lower()
    return [re.sub(r"'s?$", "", w) for w in re.findall(r"\w+(?:'\w+)*'?", plain) if w.strip("_'")]


def reason(pair: Pair, task: Task, limits: Limits) -> str | None:
    """Why a pair is rejected (a key of `REASONS`), or None if it is good.

    Leaks (our choice): the scored words may not follow each other in the question or any paraphrase, and its content
    words may not all occur there in any order. Entailment (our choice): a value of four content words or more that is
    not in the passage word by word is accepted if one sentence holds at least 80 % of them, all its numbers, and the
    same negations.

    Args:
        pair: What the rewriter returned.
        task: What it was given.
        limits: Bounds.
    """
    if not pair.question.strip() or not pair.answer.strip():
        return "empty"
    for found in (_length(pair, limits), _form(pair, task)):
        if found:
            return found
    value = pair.value or pair.answer
    if pair.value and not _contains(words(pair.answer), words(pair.value)):
        return "value_missing"
    if not words(value) and not re.search(r"\S", value):
        return "empty"
    if any(leaks(asked, value) for asked in (pair.question, *pair.paraphrases)):
        return "leak"
    if limits.language == "en" and not is_english(f"{pair.question} {pair.answer}"):
        return "language"
    check = _GROUNDED.get(task.form)
    return None if check is None or check(value, task) else "not_in_source"


def leaks(question: str, value: str) -> bool:
    """Whether a question gives a value away: its words in a row, or all of its content words."""
    asked, told = words(question), words(value)
    if not told:
        return value.strip() in question
    if _contains(asked, told):
        return True
    content = {w for w in told if w not in _STOP}
    return bool(content) and content <= set(asked)


def _length(pair: Pair, limits: Limits) -> str | None:
    asked, told = len(pair.question.split()), len(pair.answer.split())
    if asked < limits.min_question_words:
        return "question_short"
    if asked > limits.max_question_words:
        return "question_long"
    if told < limits.min_answer_words:
        return "answer_short"
    return "answer_long" if told > limits.max_answer_words else None


def _form(pair: Pair, task: Task) -> str | None:
    if task.form == "chat":
        return None
    for asked in (pair.question, *pair.paraphrases):
        bare = asked.strip().rstrip("\"'”’)")
        if not (bare.endswith("?") or _REQUEST.match(asked.strip()) or BLANK in asked):
            return "not_a_question"
    return None


def is_english(text: str) -> bool:
    """A cheap test: nine letters of ten are Latin, and common English words at least as many as common foreign ones.

    Texts under eight words are judged by their letters alone; longer ones need one common English word in fifteen.
    """
    letters = [c for c in text if c.isalpha()]
    if letters and sum(c < "ɐ" for c in letters) < 0.9 * len(letters):
        return False
    found = words(text)
    if len(found) < 8:
        return True
    english = sum(w in _ENGLISH for w in found)
    foreign = sum(w in _FOREIGN for w in found)
    return english >= foreign and english * 15 >= len(found)


def grounded(value: str, source: str) -> bool:
    """Whether a value stands in a source (exactly or normalised) or is entailed by one sentence of it."""
    if value in source or _contains(words(source), words(value)):
        return True
    told = words(value)
    content = {w for w in told if w not in _STOP}
    if len(content) < 4:
        return False
    for sentence in re.split(r"(?<=[.!?])[\"'”’)]*\s+|\n\s*\n", source):
        held = set(words(sentence))
        firm = {w for w in content if w.isdigit() or w in _NUMBER_WORDS} | (_NEGATIONS & content)
        if (
            firm <= held
            and not (_NEGATIONS & held) - content
            and len(content & held) >= ENTAILED * len(content)
        ):
            return True
    return False


_NEGATIONS = frozenset(
    "not never no none nobody nothing cannot couldn't didn't wasn't isn't don't doesn't won't neither".split()
)


def _contains(text: Sequence[str], part: Sequence[str]) -> bool:
    return bool(part) and f" {' '.join(part)} " in f" {' '.join(text)} "


def _in_passage(value: str, task: Task) -> bool:
    return grounded(value, task.text)


def _in_option(value: str, task: Task) -> bool:
    return grounded(value, task.answer) or _contains(words(value), words(task.answer))


def _in_answer(value: str, task: Task) -> bool:
    return grounded(value, task.answer)


_GROUNDED: dict[str, Callable[[str, Task], bool]] = {
    "passage": _in_passage,
    "choice": _in_option,
    "cloze": _in_option,
    "qa": _in_answer,
}


class Duplicates:
    """Recognises near-duplicates in a stream, with 8-byte hashes in one flat table.

    Two pairs are near-duplicates (our choice) if

    1. their questions are the same but for case, punctuation, articles and spacing, whatever their answers; or
    2. their values are the same and so are their questions' sets of words, whatever the order; or
    3. their values are the same, the questions have eight different words or more, and the sets differ in one word in
       small letters that is no number: a reworded question.

    A capitalised word or a number that differs keeps two questions apart: those that share a template ask about
    different things. A pair costs at most two hashes and one more for each of its first 24 words in small letters, at
    16 to 32 bytes a hash.
    """

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * 1024))
        self._used = 0

    def seen(self, pair: Pair) -> bool:
        """Whether a near-duplicate of this pair came before; if not, remembers it."""
        keys = list(_signatures(pair))
        if any(self._find(key)[1] for key in keys):
            return True
        for key in keys:
            self._add(key)
        return False

    def __len__(self) -> int:
        """Hashes kept."""
        return self._used

    def _find(self, key: int) -> tuple[int, bool]:
        mask = len(self._table) - 1
        slot = key & mask
        while self._table[slot]:
            if self._table[slot] == key:
                return slot, True
            slot = (slot + 1) & mask
        return slot, False

    def _add(self, key: int) -> None:
        slot, found = self._find(key)
        if found:
            return
        self._table[slot] = key
        self._used += 1
        if 2 * self._used > len(self._table):
            old = self._table
            self._table = array("Q", bytes(16 * len(old)))
            self._used = 0
            for kept in old:
                if kept:
                    self._table[self._find(kept)[0]] = kept
                    self._used += 1


_ARTICLES = frozenset("a an the please".split())


def _signatures(pair: Pair) -> Iterator[int]:
    asked = [w for w in words(pair.question) if w not in _ARTICLES]
    value = " ".join(w for w in words(pair.value or pair.answer) if w not in _ARTICLES)
    gap = str(pair.question.count(BLANK))
    yield _hash("q", gap, *_with_gaps(pair.question))
    unique = sorted(set(asked))
    yield _hash("s", value, *unique)
    if len(unique) < 8:
        return
    firm = {
        w
        for token in re.findall(r"\w+(?:['’]\w+)*", pair.question)[1:]
        if token[0].isupper()
        for w in words(token)
    }
    loose = [
        w for w in unique if w not in firm and not any(c.isdigit() for c in w) and w not in _NUMBER_WORDS
    ]
    for word in loose[:24]:
        yield _hash("1", value, *(w for w in unique if w != word))


_NUMBER_WORDS = frozenset(
    """
    one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand
    first second third fourth fifth last next not never no who whom what where when why how
    """.split()
)


def _with_gaps(question: str) -> list[str]:
    """Words in order with gaps kept, so that two gaps in one sentence stay two questions."""
    marked = re.sub(r"_{2,}", " gapgapgap ", question)
    return [w for w in words(marked) if w not in _ARTICLES]


def _hash(*parts: str) -> int:
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1
