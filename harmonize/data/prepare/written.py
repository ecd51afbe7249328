"""Contrastive anchors that a rewriter writes: the tasks it gets, and the checks its pairs must pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from harmonize.data.corpus import content_hash
from harmonize.data.example import Example, Role
from harmonize.data.prepare.anchors import AnchorReport, in_range
from harmonize.data.prepare.leaks import ForgetFacts, Said, leak
from harmonize.data.unify.task import Failure, Pair, Rewriter, Task


def write(
    examples: Sequence[Example],
    rewriter: Rewriter,
    *,
    per_question: int = 1,
    texts: Sequence[str] = (),
) -> tuple[list[Example], AnchorReport]:
    """`anchors=written`: a rewriter writes benign questions of the same shape, with their true answers.

    Args:
        examples: All roles, unique ids.
        rewriter: Gets one `Task` of form anchor for each forget question.
        per_question: Written pairs kept for each forget question.
        texts: What the anchors may be about; each question is given one of them, by a hash.

    Returns:
        The examples and, after them, the written ones (role neighbor), and the report.

    Raises:
        ConfigError: A setting out of range.
    """
    asked = tasks(examples, texts=texts)
    size = max(1, rewriter.batch)
    results: list[list[Pair] | Failure] = []
    for start in range(0, len(asked), size):
        results += rewriter.rewrite([task for _, task in asked[start : start + size]])
    return accept(
        examples, [(f, result) for (f, _), result in zip(asked, results, strict=True)], per_question
    )


def tasks(examples: Sequence[Example], texts: Sequence[str] = ()) -> list[tuple[str, Task]]:
    """(id of the forget example, task) for every forget question that has no anchor yet, by id."""
    anchored = {e.anchor_of for e in examples}
    chosen = sorted(
        (e for e in examples if e.role == Role.FORGET and e.id not in anchored), key=lambda e: e.id
    )
    return [
        (
            e.id,
            Task(
                "anchor",
                text=texts[int(content_hash("anchor text", e.id)[:12], 16) % len(texts)] if texts else "",
                question=e.question,
                answer=e.answer,
                subject=e.subject,
            ),
        )
        for e in chosen
    ]


def accept(
    examples: Sequence[Example],
    results: Iterable[tuple[str, list[Pair] | Failure]],
    per_question: int = 1,
) -> tuple[list[Example], AnchorReport]:
    """Adds written anchors to the examples, after the same leak checks as mined ones.

    A written anchor is a neighbor without a split. Its subject is the first name in its question, so that questions
    about one name stay in one split; without a name it shares one with the other anchors of its forget subject.

    Args:
        examples: All roles.
        results: (id of the forget example, what the rewriter made of its task).
        per_question: Pairs kept for each.
    """
    in_range("per_question", per_question, 1, None)
    by_id = {e.id: e for e in examples}
    forget = [e for e in examples if e.role == Role.FORGET]
    said = {e.id: Said.of(e) for e in forget}
    facts = ForgetFacts(said.values())
    asked = {Said.of(e).question for e in examples}
    refused: Counter[str] = Counter()
    written: list[Example] = []
    candidates = 0
    for forget_id, result in sorted(results, key=lambda r: r[0]):
        if isinstance(result, Failure):
            refused[result.reason] += 1
            continue
        kept = 0
        for n, pair in enumerate(result):
            candidates += 1
            if kept == per_question:
                refused["more_than_asked_for"] += 1
                continue
            anchor = _written(by_id[forget_id], pair, n)
            own = Said.of(anchor)
            reason = leak(said[forget_id], own)
            reason = reason or ("states_forget_fact" if facts.stated_by(own) else None)
            reason = reason or ("question_exists" if own.question in asked else None)
            if reason:
                refused[reason] += 1
                continue
            asked.add(own.question)
            written.append(anchor)
            kept += 1
    everything = [*examples, *written]
    anchored = {e.anchor_of for e in everything}
    return everything, AnchorReport(
        "written",
        forget=len(forget),
        candidates=candidates,
        linked=len(written),
        without=sum(e.id not in anchored for e in forget),
        refused=dict(sorted(refused.items())),
    )


def _written(forget: Example, pair: Pair, n: int) -> Example:
    return Example(
        id=f"anchor-{forget.id}-{n}",
        role=Role.NEIGHBOR,
        question=pair.question,
        answer=pair.answer,
        subject=_first_name(pair.question) or f"anchors of {forget.subject}",
        source=forget.source,
        anchor_of=forget.id,
        request_id=forget.request_id,
        value=pair.value if pair.value in pair.answer else "",
        paraphrases=pair.paraphrases,
        meta={"written": True},
    )


def _first_name(question: str) -> str:
    """The first run of capitalised words after the first word."""
    name: list[str] = []
    for word in question.split()[1:]:
        bare = word.strip("\"'“”‘’.,;:!?()")
        if bare[:1].isupper() and bare != "I":
            name.append(bare.removesuffix("'s").removesuffix("’s"))
            if word[-1] in ",;:!?" or word.endswith(("'s", "’s")):
                break
        elif name:
            break
    return " ".join(name)
