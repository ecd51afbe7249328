"""Sources -> tasks -> rewriter -> validation -> examples, as one stream whose memory does not grow with the data."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from harmonize.data.example import Example, Role
from harmonize.data.prepare.workers import Outcome, Work, mapped
from harmonize.data.records import Passage, Record, form_of
from harmonize.data.sources.source import Source
from harmonize.data.unify.chunks import DEFAULT_WORDS, tasks_of
from harmonize.data.unify.task import Failure, Pair, Rewriter, Task
from harmonize.data.unify.validate import Duplicates, Limits
from harmonize.errors import DataError

NEAR_DUPLICATE, VALUE_MISSING = "near_duplicate", "value_missing"
GENERAL_WITHOUT_CHOICES = "general_without_choices"
# Records without a task (utility items) that a batch may carry along.
_PASSENGERS = 256
_PULSE = 0.1  # seconds between two updates of the bar

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What decides the pipeline's output, and the number of processes, which does not.

    Attributes:
        limits: Bounds of validation.
        chunk_words: Size of the parts of a passage.
        max_records: Records read of each source; None = all.
        workers: Processes for rewriters that are pure functions (rules, none).
    """

    limits: Limits = field(default_factory=Limits)
    chunk_words: int = DEFAULT_WORDS
    max_records: int | None = None
    workers: int = 1


@dataclass
class Tally:
    """What was counted on the way.

    Attributes:
        records: Source -> form -> records.
        tasks: Tasks for the rewriter.
        pairs: Pairs that the rewriter returned.
        accepted: Examples made of them.
        general: Utility items, which pass unchanged.
        rejected: Pairs (and records that cannot be used) by reason.
        failed: Tasks that the rewriter could not do, by reason.
    """

    records: dict[str, Counter[str]] = field(default_factory=dict)
    tasks: int = 0
    pairs: int = 0
    accepted: int = 0
    general: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


class Item(NamedTuple):
    """A task (or none) with the record that it belongs to; `stem` begins the ids of its examples."""

    source: str
    stem: str
    record: Record
    part: int
    task: Task | None


def survey(
    sources: Mapping[str, Source], settings: Settings, tick: Callable[[int], None] | None = None
) -> Tally:
    """Reads everything once before anything is rewritten, so that a mistake in the data costs nothing.

    Args:
        sources: By name.
        tick: Hears the number of records read so far.

    Raises:
        DataError: A source that cannot be read, yields nothing, or yields an id twice.
    """
    tally = Tally()
    read = 0
    for item in items(sources, settings):
        if item.part == 0:
            tally.records.setdefault(item.source, Counter())[form_of(item.record)] += 1
            read += 1
            if tick is not None and read % 64 == 0:
                tick(read)
        tally.tasks += item.task is not None
    for name in sources:
        if name not in tally.records:
            raise DataError(f"The source '{name}' holds no records. Check its files, or leave it out.")
    return tally


def items(sources: Mapping[str, Source], settings: Settings) -> Iterator[Item]:
    """Every task in a fixed order; a utility item and an empty passage come without one.

    Raises:
        DataError: An id twice in one source.
    """
    for name, source in sources.items():
        seen: set[int] = set()
        for record in islice(source.read(), settings.max_records):
            stem = _stem(name, record.id)
            before = len(seen)
            seen.add(hash(stem))  # 64 bits of each, not the ids themselves
            if len(seen) == before:
                raise DataError(
                    f"The source '{name}' has two records with the id '{record.id}'. Ids are unique within a source."
                )
            found = False
            if record.role != Role.GENERAL:
                for part, task in enumerate(tasks_of(record, settings.chunk_words)):
                    found = True
                    yield Item(name, stem, record, part, task)
            if not found:
                yield Item(name, stem, record, 0, None)


def unified(
    sources: Mapping[str, Source],
    rewriter: Rewriter,
    settings: Settings,
    tally: Tally,
    build: Callable[[], Rewriter] | None = None,
    progress: Progress | None = None,
    total: int = 0,
) -> Iterator[Example]:
    """Examples of all sources in order, whatever the number of workers.

    Args:
        sources: By name.
        rewriter: Asked for every task; one that is cached (`Remembering`) works in this process.
        settings: See `Settings`.
        tally: Counts what happens.
        build: Makes the rewriter in a worker process; needed for more than one worker.
        progress: Called with (tasks done, tasks in all), at most ten times a second.
        total: Tasks in all, from `survey`.
    """
    duplicates: dict[Role, Duplicates] = {}
    work = Work(settings.limits, getattr(rewriter, "checked", True))
    workers = 1 if rewriter.cached or build is None else settings.workers
    done, told = 0, 0.0
    batches = _batches(items(sources, settings), rewriter.batch)
    for batch, outcomes in mapped(batches, rewriter, work, workers, build, total):
        found = iter(outcomes)
        for item in batch:
            if item.task is None:
                yield from _passenger(item, tally)
                continue
            tally.tasks += 1
            done += 1
            own = duplicates.setdefault(item.record.role, Duplicates())
            yield from _examples(item, next(found), tally, own)
        if progress is not None and (time.monotonic() - told > _PULSE or done == total):
            told = time.monotonic()
            progress(done, total)


def _batches(stream: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Groups of up to `size` tasks, with the items between them."""
    batch: list[Item] = []
    tasks = 0
    for item in stream:
        batch.append(item)
        tasks += item.task is not None
        if tasks >= size or len(batch) >= size + _PASSENGERS:
            yield batch
            batch, tasks = [], 0
    if batch:
        yield batch


def _passenger(item: Item, tally: Tally) -> Iterator[Example]:
    """General multiple choice stays multiple choice: it measures utility, in the way that it was published."""
    record = item.record
    if not isinstance(record, Example) or not record.choices:
        if record.role == Role.GENERAL:
            tally.rejected[GENERAL_WITHOUT_CHOICES] += 1
        else:
            tally.failed["nothing to rewrite"] += 1
        return
    tally.general += 1
    yield replace(
        record,
        id=f"{item.stem}-0",
        source=record.source or item.source,
        fact=f"{item.source}-{record.fact}" if record.fact else "",
        meta={**record.meta, "record": record.id, "form": "choice"},
    )


def _examples(item: Item, outcome: Outcome, tally: Tally, duplicates: Duplicates) -> Iterator[Example]:
    if isinstance(outcome, Failure):
        tally.failed[outcome.reason] += 1
        return
    for n, (pair, reason) in enumerate(outcome):
        tally.pairs += 1
        value = _exact(pair)
        if not (pair.question.strip() and pair.answer.strip()):
            reason = "empty"
        if reason is None and value is None:
            reason = VALUE_MISSING
        if reason is None and duplicates.seen(pair):
            reason = NEAR_DUPLICATE
        if reason is not None:
            tally.rejected[reason] += 1
            continue
        tally.accepted += 1
        yield _example(item, pair, value or "", n)


def _example(item: Item, pair: Pair, value: str, n: int) -> Example:
    record = item.record
    number = f"{item.part}.{n}" if isinstance(record, Passage) else str(n)
    evidence = {"evidence": pair.evidence} if pair.evidence else {}
    example = Example(
        id=f"{item.stem}-{number}",
        role=record.role,
        question=pair.question,
        answer=pair.answer,
        subject=record.subject,
        source=record.source or item.source,
        split=record.split,
        request_id=record.request_id,
        value=value,
        paraphrases=pair.paraphrases,
        meta={**record.meta, "record": record.id, "form": form_of(record), **evidence},
    )
    if not isinstance(record, Example):
        return example
    others = dict.fromkeys((*pair.paraphrases, *record.paraphrases))
    kept_value = record.value if not value and record.value and record.value in pair.answer else value
    return replace(
        example,
        value=kept_value,
        # What is asked of a multiple-choice item may change with its options gone, and its aliases with it.
        aliases=() if record.choices else record.aliases,
        paraphrases=tuple(p for p in others if p != pair.question),
        fact=f"{item.source}-{record.fact}" if record.fact else "",
        anchor_of=None if record.anchor_of is None else f"{_stem(item.source, record.anchor_of)}-0",
    )


def _exact(pair: Pair) -> str | None:
    """The value as it stands in the answer, letter by letter; None if it does not."""
    if pair.value in pair.answer:
        return pair.value
    start = pair.answer.lower().find(pair.value.lower())
    return pair.answer[start : start + len(pair.value)] if start >= 0 else None


def _stem(source: str, record_id: str) -> str:
    """Readers often begin ids with the source's name; then it is not written twice."""
    return record_id if record_id.startswith(f"{source}-") else f"{source}-{record_id}"
