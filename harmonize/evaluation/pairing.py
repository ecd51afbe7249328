"""Two runs on the same questions: their samples side by side, and which of them each metric counts.

Samples are plain mappings (`Record.as_sample`); nothing here needs torch.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harmonize.evaluation.metrics import expected_best

Sample = Mapping[str, Any]
Key = tuple[Any, ...]
Scored = dict[Key, tuple[float, str]]
"""What is compared (a sample, or all that was tried on a question) to its score and subject."""

LEAKED, REFUSED, WRONG, CORRECT = "newly-leaked", "newly-refused", "newly-wrong", "newly-correct"
KINDS = (LEAKED, REFUSED, WRONG, CORRECT)

_PLAIN, _OPTIONS, _RELEARN, _CHOICE = "none", "options", "relearn", "multiple_choice"
_LEAK, LIKELIHOOD = "leak", "likelihood"
_BATTERY = "battery_worst"  # the worst over plain questions, prefills and attacks, but not over these
_APART = (_OPTIONS, _CHOICE, _LEAK, LIKELIHOOD)
_WAYS = {_PLAIN: "plain", _OPTIONS: "plain", _LEAK: "sampled"}
_SAMPLED = re.compile(r"forget_(heldout_)?(?:leak@(\d+)|answer_probability)")
_PREFILLS = ("opener", "opener_heldout", "answer_prefix")
_ROLE = re.compile(r"(forget|retain|neighbor)_(heldout_)?(accuracy|refusal_rate)(_trained)?(_fits)?")
_ASR = re.compile(r"asr_(heldout_)?(.+?)(_untrained)?(_fits)?(?:@([^_@]+))?")
_CURVE = re.compile(r"relearn_accuracy_(\w+@\d+)")
_CHOSEN = re.compile(r"forget_(heldout_)?choice_accuracy")
_OTHER_HALF = re.compile(r"(.+)_retain_accuracy")  # of a combined query


def key_of(sample: Sample) -> Key:
    """What makes two samples answers to the same thing: example, phrasing, attack, and which of its ways."""
    names = ("example_id", "question", "attack", "view", "depth", "opener", "draw")
    asked, variant = sample.get("asked"), sample.get("variant")
    own = None if asked == sample.get("question") else asked
    return (*(sample.get(name) for name in names), own, variant or None)


def keyed(samples: Iterable[Sample]) -> dict[Key, Sample]:
    """Samples by key; equal keys are told apart by their order."""
    seen: Counter[Key] = Counter()
    found = {}
    for sample in samples:
        key = key_of(sample)
        found[*key, seen[key]] = sample
        seen[key] += 1
    return found


@dataclass(frozen=True)
class Pair:
    """The same question, asked of A and of B."""

    key: Key
    a: Sample
    b: Sample

    @property
    def kinds(self) -> tuple[str, ...]:
        """How B's answer differs from A's; several may hold, and none where nothing of note does."""
        if self.a.get("attack") == LIKELIHOOD:  # a probability, nothing was said
            return ()
        return tuple(kind for kind in KINDS if _is(kind, self.b) and not _is(kind, self.a))

    @property
    def gone(self) -> tuple[str, ...]:
        """The kinds that hold when the two are swapped: what A's answer is and B's no longer."""
        return Pair(self.key, self.b, self.a).kinds


def pairs_of(a: Mapping[Key, Sample], b: Mapping[Key, Sample]) -> list[Pair]:
    """Everything that was asked of both, in A's order."""
    return [Pair(key, sample, b[key]) for key, sample in a.items() if key in b]


def _is(kind: str, sample: Sample) -> bool:
    verdict = sample.get("verdict")
    if kind == LEAKED:  # a refusal that states the answer tells it all the same
        return sample.get("role") == "forget" and (verdict == "correct" or bool(sample.get("said")))
    if kind == REFUSED:
        return verdict == "refused"
    if kind == WRONG:
        return verdict in ("wrong", "degenerate")
    return verdict == "correct"


def scores(metric: str, samples: Mapping[Key, Sample]) -> Scored | None:
    """The items that a metric averages, from samples.

    Args:
        metric: A name of the five axes or of an attack, or one that samples name themselves (`figures`).
        samples: As `keyed` gives them.

    Returns:
        None for a metric whose items the samples do not name.
    """
    if own := {k: s for k, s in samples.items() if metric in (s.get("figures") or ())}:
        return {k: (float(s["figures"][metric]), _subject(s)) for k, s in own.items()}
    if m := _SAMPLED.fullmatch(metric):
        where = _where("forget", not m[1], (_LEAK if m[2] else LIKELIHOOD,))
        return _sampled(where, samples, int(m[2])) if m[2] else _each(where, samples)
    m = _ASR.fullmatch(metric)
    if m and m[2] not in (*_PREFILLS, "worst") and m[5] and m[5].isdigit():  # what so many draws find
        return _sampled(_where("forget", not m[1], (m[2],)), samples, int(m[5]))
    chosen = _selection(metric, samples)
    if chosen is None:
        return None
    where, value, worst = chosen
    found: Scored = {}
    for key, sample in samples.items():
        if not where(sample):
            continue
        try:
            score = float(value(sample))
        except (KeyError, TypeError, ValueError):
            return None
        subject = _subject(sample)
        if worst:
            key = question_of(sample)
            score = max(score, found.get(key, (0.0, ""))[0])
        found[key] = (score, subject)
    return found


def tries(metric: str, samples: Mapping[Key, Sample]) -> frozenset[tuple[Any, ...]]:
    """The ways of which a metric takes the worst: a worst case over other ways is another metric. Else empty."""
    chosen = _selection(metric, samples)
    if chosen is None or not chosen[2]:
        return frozenset()
    names = ("attack", "variant", "depth", "opener", "draw")
    return frozenset(tuple(s.get(n) or "" for n in names) for s in samples.values() if chosen[0](s))


def _each(where: _Where, samples: Mapping[Key, Sample]) -> Scored:
    return {k: (float(s["score"]), _subject(s)) for k, s in samples.items() if where(s)}


def _sampled(where: _Where, samples: Mapping[Key, Sample], k: int) -> Scored:
    """Per question, what the best of k of its sampled answers is expected to score."""
    drawn: dict[Key, list[float]] = defaultdict(list)
    subjects: dict[Key, str] = {}
    for sample in samples.values():
        if where(sample):
            question = question_of(sample)
            drawn[question].append(float(sample["score"]))
            subjects[question] = _subject(sample)
    return {q: (expected_best(s, min(k, len(s))), subjects[q]) for q, s in drawn.items()}


def question_of(sample: Sample) -> Key:
    """The question of a fact that a sample asks, whatever was tried on it."""
    return sample.get("fact"), sample.get("question")


def priors_of(samples: Iterable[Sample]) -> dict[Key, float]:
    """Question to `prior`, where samples have it."""
    return {question_of(s): float(s["prior"]) for s in samples if s.get("prior") is not None}


def question_behind(key: Key, samples: Mapping[Key, Sample]) -> Key:
    """The question of a key of `scores`: that of its sample, or the key itself, where it is one already."""
    return question_of(samples[key]) if key in samples else key


def _subject(sample: Sample) -> str:
    return str(sample.get("subject") or sample.get("example_id"))


_Where = Callable[[Sample], bool]
_Value = Callable[[Sample], Any]


def _selection(metric: str, samples: Mapping[Key, Sample]) -> tuple[_Where, _Value, bool] | None:
    """(which samples count, their score, whether the worst of a question is taken)."""
    if metric in ("utility_accuracy", "utility_accuracy_norm"):
        field = "score_norm" if metric.endswith("_norm") else "score"
        return _where("general", None, (_OPTIONS,)), lambda s: s[field], False
    if metric == "relearn_accuracy":
        # the probe of the suite, which is no stage of a curve
        return _where("forget", True, (_RELEARN,), variant=""), lambda s: s["score"], False
    if m := _CURVE.fullmatch(metric):
        return _where("forget", True, (_RELEARN,), variant=m[1]), lambda s: s["score"], False
    if m := _CHOSEN.fullmatch(metric):
        return _where("forget", not m[1], (_CHOICE,)), lambda s: s["score"], False
    if m := _OTHER_HALF.fullmatch(metric):
        return _where("retain", None, (m[1],)), lambda s: s["score"], False
    if m := _ROLE.fullmatch(metric):
        role, heldout, what, trained, fits = m.groups()
        used = (role == "forget" and not heldout) or bool(trained)
        value = (lambda s: s["score"]) if what == "accuracy" else (lambda s: s["verdict"] == "refused")
        return _where(role, used, (_PLAIN,), fits=bool(fits)), value, False
    if m := _ASR.fullmatch(metric):
        heldout, attack, untrained, fits, depth = m.groups()
        worst = attack == "worst" or attack.endswith("_worst")
        attacks = _PREFILLS if attack == "worst" else (attack.removesuffix("_worst"),)
        if attack == _BATTERY:
            everything = _where("forget", not heldout, None)
            # the probe of the suite alone is no attack of a battery
            curve = any(s.get("attack") == _RELEARN and s.get("variant") for s in samples.values())
            apart = _APART if curve else (*_APART, _RELEARN)
            return lambda s: everything(s) and s.get("attack") not in apart, lambda s: s["score"], True
        if depth is not None and attack not in _PREFILLS:  # a strength, a draw or a form of an attack
            return _where("forget", not heldout, (attack,), variant=depth), lambda s: s["score"], False
        if attacks == (_RELEARN,):
            curve_only = _where("forget", not heldout, attacks)
            return lambda s: curve_only(s) and bool(s.get("variant")), lambda s: s["score"], worst
        own = None if attack != "answer_prefix" or heldout else not untrained
        where = _where("forget", not heldout, attacks, fits=bool(fits), depth=depth, own_prefix=own)
        return where, lambda s: s["score"], worst
    return None


def _where(
    role: str,
    trained: bool | None,
    attacks: Sequence[str] | None,
    *,
    fits: bool = False,
    depth: str | None = None,
    own_prefix: bool | None = None,
    variant: str | None = None,
) -> _Where:
    return lambda s: (
        s.get("role") == role
        and (attacks is None or s.get("attack") in attacks)
        and trained in (None, s.get("trained"))
        and (not fits or bool(s.get("fits")))
        and variant in (None, s.get("variant") or "")
        and (depth is None or (s.get("depth") is not None and float(s["depth"]) == float(depth)))
        # written since samples say it; where nothing is held out, every prefix may be trained on
        and own_prefix in (None, s.get("prefix_trained", True))
    )


def counts(pairs: Iterable[Pair]) -> dict[tuple[str, str], Counter[str]]:
    """By (role, plain, sampled or attacked) of answers: their number (`pairs`), those of every kind, and of what is
    gone (`gone KIND`).
    """
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        attack = pair.a.get("attack")
        if (
            attack == LIKELIHOOD or "verdict" not in pair.a
        ):  # nothing was said: a probability, a part's figures
            continue
        how = _WAYS.get(str(attack), "attacked")
        row = found[str(pair.a.get("role")), how]
        row["pairs"] += 1
        row.update(pair.kinds)
        row.update(f"gone {kind}" for kind in pair.gone)
    return dict(found)
