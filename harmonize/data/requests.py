"""Deletion requests of a data set: which there are, and the data as each request of a sequence sees it.

Only forget examples belong to a request; the `request_id` of other roles says nothing here. A sequence forgets one
request after another, each from the model of the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from harmonize.data import defaults
from harmonize.data.corpus import Corpus, content_hash
from harmonize.data.example import Example, Role, Split
from harmonize.errors import DataError, did_you_mean

LEAVE, FORGET = "leave", "forget"
EARLIER: tuple[str, ...] = (LEAVE, FORGET)
# The split that every request needs comes first; then reporting, then choosing.
_DEALT: tuple[Split, ...] = (Split.TRAIN, Split.TEST, Split.VAL)


def request_ids(corpus: Corpus) -> tuple[str, ...]:
    """Ids of the requests, in the order in which their forget examples occur."""
    return tuple(dict.fromkeys(e.request_id for e in corpus.examples if e.role == Role.FORGET))


def in_turn(corpus: Corpus, request: str, order: Sequence[str], earlier: str = LEAVE) -> Corpus:
    """The data as `request` sees it when its turn has come.

    Forget is what the request names. Forget examples of every other request are in no role: they are neither measured
    nor trained on as something to keep. Earlier ones are to be gone, and with `earlier="leave"` (the default) so may
    their data be, as a law may have asked; with `"forget"` their training examples are trained on as forget once
    more. Later ones are ordinary knowledge, and nobody knows yet that they will be asked for: as retain examples they
    would be protected by foresight. Whether the model still knows them is measured by `harmonize sequence`, each
    request as if it were the forget set. Neighbors, retain and general examples, splits and anchors stay as they are,
    so that the questions on them are the same after every request. Our choice throughout.

    Args:
        corpus: The whole data set.
        request: Whose turn it is.
        order: All requests of the sequence, in their order; requests that are not in it count as later.
        earlier: `leave` or `forget`.

    Returns:
        A corpus with the same texts; instructions with `{subjects}` name the subjects that are trained on as forget.

    Raises:
        DataError: A request that does not exist, is not in the order, or has no training example; another `earlier`.
    """
    if earlier not in EARLIER:
        raise DataError(f"sequence.earlier={earlier}: {did_you_mean(earlier, EARLIER)}")
    if problems := order_problems(corpus, order, request):
        raise DataError(" ".join(problems))
    before = set(order[: list(order).index(request)]) if earlier == FORGET else set()
    trained = corpus.training or tuple(e for e in corpus.examples if e.split == Split.TRAIN)
    trained = tuple(e for e in trained if e.role != Role.FORGET or e.request_id in {request, *before})
    named = [e for e in corpus.examples if e.role == Role.FORGET and e.request_id in {request, *before}]
    return replace(
        corpus,
        examples=tuple(e for e in corpus.examples if e.role != Role.FORGET or e.request_id == request),
        training=trained if corpus.training or before else (),
        instructions=defaults.fill(corpus.wordings, named) if corpus.wordings else corpus.instructions,
    )


def order_problems(corpus: Corpus, order: Sequence[str], request: str | None = None) -> list[str]:
    """What is wrong with an order of requests, in sentences that end with what to type.

    Args:
        corpus: The whole data set.
        order: Request ids.
        request: Must be one of them, if given.
    """
    known = request_ids(corpus)
    problems = [
        f"sequence.order: there is no request '{r}'. {did_you_mean(r, known)} Correct it in sequence.order."
        for r in order
        if r not in known
    ]
    twice = sorted({r for r in order if list(order).count(r) > 1})
    problems += [f"sequence.order names '{r}' more than once. Name each request once." for r in twice]
    if request is not None and request not in order:
        options = known if request not in known else order
        problems.append(
            f"sequence.request={request}: {did_you_mean(request, options)} Use sequence.request={options[0]}."
        )
    shown = {
        e.request_id for e in (corpus.training or corpus.select(split=Split.TRAIN)) if e.role == Role.FORGET
    }
    asked = order if request is None else [request]
    left = [r for r in order if r in shown]
    problems += [
        f"Request '{r}' has no training example: all its subjects are held out. Leave it out "
        f"(sequence.order=[{','.join(left)}]), or change the split of its subjects."
        for r in dict.fromkeys(asked)
        if r in known and r not in shown
    ]
    return problems


def deal(examples: Sequence[Example], n: int, seed: int = 0) -> list[Example]:
    """The examples with their forget subjects dealt out to `n` requests, called A, B, C and so on as they occur.

    Whole subjects are dealt, in an order decided by a hash of seed and subject, one split after another and going
    round from where the last split ended: in every split, and in all, the requests' numbers of subjects differ by one
    at most. One request leaves the examples as they are.

    Raises:
        DataError: No number, no request, or more than there are forget subjects for training.
    """
    if not isinstance(n, int) or isinstance(n, bool):
        raise DataError(f"dataset.requests={n}: expected a whole number. For example dataset.requests=3.")
    if n == 1:
        return list(examples)
    subjects = {split: _subjects(examples, split, seed) for split in _DEALT}
    most = len(subjects[Split.TRAIN])
    if not 1 <= n <= most:
        raise DataError(
            f"dataset.requests={n}: every request needs a forget subject for training, and there are {most}. "
            f"Use a number from 1 to {most}, for example dataset.requests={max(1, min(3, most))}."
        )
    dealt = [s for split in _DEALT for s in subjects[split]]
    turn = {s: i % n for i, s in enumerate(dealt)}
    met = dict.fromkeys(turn[e.subject] for e in examples if e.role == Role.FORGET)
    name = {t: _letters(i) for i, t in enumerate(met)}
    return [replace(e, request_id=name[turn[e.subject]]) if e.role == Role.FORGET else e for e in examples]


def one_each(examples: Sequence[Example]) -> list[Example]:
    """The examples with one request per forget subject, called by its name."""
    return [replace(e, request_id=e.subject) if e.role == Role.FORGET else e for e in examples]


def _subjects(examples: Sequence[Example], split: Split, seed: int) -> list[str]:
    found = {e.subject for e in examples if e.role == Role.FORGET and e.split == split}
    return sorted(found, key=lambda s: content_hash("request", seed, s))


def _letters(i: int) -> str:
    """A, B, ..., Z, AA, AB, ... for 0, 1, ..."""
    high, low = divmod(i, len(ascii_uppercase))
    return (_letters(high - 1) if high else "") + ascii_uppercase[low]
