"""Running several attacks on one model, and the metrics of what they found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.errors import ConfigError
from harmonize.evaluation.attacks import (
    Attack,
    ModelAttack,
    ScoredAttack,
    SearchAttack,
    StagedAttack,
    cost_of,
)
from harmonize.evaluation.metrics import MetricSpec, Where, accuracy, worst_case
from harmonize.evaluation.records import NO_ATTACK, Query, Question, Record

Ask = Callable[[Sequence[Query]], list[Record]]
EVERYTHING = "battery_worst"


@dataclass
class Found:
    """What attacks found: records, notes for the reader, and for each attack what it declared and what it spent."""

    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)


def attack_all(
    attacks: Sequence[Attack],
    surface: Any,
    corpus: Corpus,
    questions: Sequence[Question],
    ask: Ask,
    suite: Any,
) -> Found:
    """Every attack on every question; those that change the model come last, and undo what they did.

    Args:
        attacks: Further attacks of a suite.
        surface: The model. ask: Generates for queries and judges them.
        questions: On forget facts, used and held out.
        suite: Like `SuiteConfig`.

    Raises:
        ConfigError: An attack makes more queries of a question than it declares.
    """
    found = Found()
    for attack in sorted(attacks, key=_changes):
        began = time.process_time()
        records = _one(attack, surface, corpus, questions, ask, suite, found)
        found.records += records
        found.costs[attack.name] = {
            "declared": asdict(cost_of(attack)),
            # both halves of a combined query are one answer
            "answers": len(
                {(q.ids, q.variant, q.draw) for q in (r.query for r in records) if q.attack == attack.name}
            ),
            "cpu_seconds": time.process_time() - began,
        }
    return found


def _changes(attack: Attack) -> bool:
    return isinstance(attack, ModelAttack | StagedAttack)


def _one(
    attack: Attack,
    surface: Any,
    corpus: Corpus,
    questions: Sequence[Question],
    ask: Ask,
    suite: Any,
    found: Found,
) -> list[Record]:
    """Records of one attack, or none and a note why."""
    if why := _cannot(attack, surface):
        found.notes.append(f"The attack {attack.name} is not measured: {why}.")
        return []
    queries = attack.queries(corpus, surface.renderer, questions)
    if isinstance(attack, SearchAttack):
        queries = [*queries, *attack.search(surface, corpus, questions, suite.batch_size)]
    room = getattr(surface, "room", None)
    limit = room(suite.max_new_tokens) if room is not None else None
    if limit is not None and (wide := sum(len(q.ids) > limit for q in queries)):
        found.notes.append(
            f"{wide} queries of the attack {attack.name} are longer than the {limit} tokens that the model can read "
            "before an answer; they are left out."
        )
        queries = [q for q in queries if len(q.ids) <= limit]
    if any(q.draw is not None for q in queries) and not hasattr(surface, "sample"):
        found.notes.append(f"The attack {attack.name} is not measured: this model cannot be sampled.")
        return []
    if isinstance(attack, StagedAttack):
        records: list[Record] = []
        apart = getattr(surface, "attacked", nullcontext)
        with apart(), attack.stages(surface.model, corpus, surface.renderer, questions) as stages:
            asked: list[Query] = []
            for stage in stages if queries else ():
                now = [replace(q, variant=stage) for q in queries]
                asked += now
                _within(attack, questions, asked)
                records += ask(now)
    elif isinstance(attack, ModelAttack):
        _within(attack, questions, queries)
        apart = getattr(surface, "attacked", nullcontext)
        with apart(), attack.changed(surface.model, corpus, surface.renderer):
            records = ask(queries)
    else:
        _within(attack, questions, queries)
        records = ask(queries)
    if isinstance(attack, ScoredAttack):
        records += attack.scored(surface, corpus, questions, suite.batch_size)
    found.notes += _gaps(attack, questions, records)
    return records


def _gaps(attack: Attack, questions: Sequence[Question], records: Sequence[Record]) -> list[str]:
    """Kinds of facts that an attack could not be made of."""
    reached = {r.query.question.trained for r in records if r.query.question.example.role == "forget"}
    kinds = [(True, "used in unlearning"), (False, "held out")]
    missed = [
        words for kind, words in kinds if kind not in reached and any(q.trained == kind for q in questions)
    ]
    if not missed:
        return []
    way_out = f" {told}" if not reached and (told := getattr(attack, "otherwise", "")) else ""
    return [f"The attack {attack.name} made no query of the forget facts {' or '.join(missed)}.{way_out}"]


def _cannot(attack: Attack, surface: Any) -> str:
    """Why an attack cannot be tried on this model; empty where it can."""
    if cost_of(attack).access != "weights" and not _changes(attack):
        return ""
    model = getattr(surface, "model", None)
    if model is None:
        return "this model does not lend its weights"
    why = getattr(attack, "inapplicable", None)
    return str(why(model)) if why is not None else ""


def _within(attack: Attack, questions: Sequence[Question], queries: Sequence[Query]) -> None:
    """Enforces the declared number of queries; a query of another question (a combined one's other half) is no try."""
    asked = {q.key for q in questions}
    tries = Counter(q.question.key for q in queries if q.question.key in asked)
    most, allowed = max(tries.values(), default=0), cost_of(attack).queries
    if most > allowed:
        raise ConfigError(
            f"The attack '{attack.name}' makes {most} queries of one question and declares {allowed}. Raise its "
            "budget, or make it ask less."
        )


def check_names(attacks: Sequence[Attack], taken: Collection[str]) -> None:
    """Refuses names that records or metrics of something else have.

    Raises:
        ConfigError: A name is taken.
    """
    names = [a.name for a in attacks]
    twice = sorted({n for n in names if n in taken or names.count(n) > 1})
    if twice:
        raise ConfigError(
            [f"The attack name '{n}' is already taken; give the attack another name." for n in twice]
        )


def attack_specs(attacks: Sequence[Attack], others: Sequence[str]) -> list[MetricSpec]:
    """Metrics of further attacks.

    For each: its rate over all its tries, on facts used in unlearning (`asr_<name>`) and held out
    (`asr_heldout_<name>`); the share of questions that any of its tries answers (`_worst`), if it has several; its
    own. Over all, plain questions and `others` included: `asr_battery_worst` and `asr_heldout_battery_worst`.
    """
    found: list[MetricSpec] = []
    for attack in attacks:
        name, variants = attack.name, getattr(attack, "variants", None)  # `attack_all` says what is missing
        for prefix, trained in (("asr", True), ("asr_heldout", False)):
            where = Where("forget", trained=trained, attacks=(name,), variants=variants)
            found.append(MetricSpec(f"{prefix}_{name}", accuracy, where, False, "", f"{prefix}_{name}"))
            if cost_of(attack).queries > 1:
                found.append(MetricSpec(f"{prefix}_{name}_worst", worst_case, where, False, ""))
        own = getattr(attack, "metrics", None)
        found += own() if own is not None else []
    everything = (NO_ATTACK, *others, *(a.name for a in attacks))
    for prefix, trained in (("asr", True), ("asr_heldout", False)) if attacks else ():
        where = Where("forget", trained=trained, attacks=everything)
        found.append(MetricSpec(f"{prefix}_{EVERYTHING}", worst_case, where, False, ""))
    return found
