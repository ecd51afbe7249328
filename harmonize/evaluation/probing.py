"""Linear probes that cannot memorise: what they are tested on shares no subject with what they were trained on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harmonize.data.example import Example
from harmonize.data.prefill import unit_hash

_ITERATIONS = 2000


@dataclass(frozen=True)
class Swap:
    """A fact, another one whose answer it is given as a control, and the group that the two are in."""

    fact: Example
    other: Example
    group: str


@dataclass(frozen=True, eq=False)
class Probed:
    """Held-out predictions.

    Attributes:
        right: [n] bool, in the order of the rows; rows that were never held out are False.
        tested: [n] bool, those that were.
    """

    right: np.ndarray
    tested: np.ndarray = field(repr=False)

    @property
    def accuracy(self) -> float:
        """Share of right ones among those tested."""
        return float(self.right[self.tested].mean())


def swaps(facts: Sequence[Example]) -> list[Swap]:
    """Facts with each other's answers as controls, within small groups of subjects.

    Subjects are grouped in twos (the last three together where their number is odd), in an order that a hash decides.
    Within a group a fact takes the answer of the next subject's fact of the same form (the answer without its value
    and subject), or, for facts that find none, of one at the same place. Every answer thus stands once as true and once
    as a control in one group, so nothing about questions or answers by themselves tells the two apart.

    Returns:
        In the order of the facts; those of equal value, or without another subject, are left out, and so is a fact
        with a scored value whose partner has none.
    """
    by_subject: dict[str, list[Example]] = {}
    for fact in facts:
        by_subject.setdefault(fact.subject, []).append(fact)
    for own in by_subject.values():
        own.sort(key=lambda e: e.fact_id)
    order = sorted(by_subject, key=lambda s: (unit_hash("probe", s), s))
    if len(order) < 2:
        return []
    cuts = [order[i : i + 2] for i in range(0, len(order) - len(order) % 2, 2)]
    if len(order) % 2:
        cuts[-1].append(order[-1])
    found: dict[str, Swap] = {}
    for number, subjects in enumerate(cuts):
        for tied in _tied([by_subject[s] for s in subjects]):
            values = [_value(e) for e in tied]
            if len(set(values)) < len(values) or len({bool(e.value) for e in tied}) > 1:
                continue
            for fact, other in zip(tied, [*tied[1:], tied[0]], strict=True):
                found[fact.fact_id] = Swap(fact, other, str(number))
    return [found[f.fact_id] for f in facts if f.fact_id in found]


def _tied(own: Sequence[Sequence[Example]]) -> list[tuple[Example, ...]]:
    """One fact of every subject, of the same form where there is one; each fact once."""
    forms = [{_form(e): e for e in facts} for facts in own]
    shared = [f for f in forms[0] if all(f in other for other in forms)]
    tied = [tuple(by[f] for by in forms) for f in shared]
    taken = {e.fact_id for each in tied for e in each}
    rest = [[e for e in facts if e.fact_id not in taken] for facts in own]
    return tied + list(zip(*rest, strict=False))


def _form(example: Example) -> str:
    text = example.answer.replace(example.value, "\0", 1) if example.value else example.answer
    return text.replace(example.subject, "\1") if example.subject else text


def _value(example: Example) -> str:
    return example.value or example.answer


def fit(x: np.ndarray, y: np.ndarray, c: float, balanced: bool = False) -> Any:
    """Logistic regression with an L2 penalty on standardised features. [n, D], [n].

    Args:
        c: Inverse strength of the penalty. balanced: Every class weighs the same, however many rows it has.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weight = "balanced" if balanced else None
    made = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=_ITERATIONS, class_weight=weight))
    with warnings.catch_warnings():
        # states that tell the classes apart perfectly: the penalty alone ends the search, and the boundary stands
        warnings.simplefilter("ignore", ConvergenceWarning)
        return made.fit(x, y)


def across_groups(
    x: np.ndarray, y: np.ndarray, groups: Sequence[str], *, c: float, folds: int, project: bool = False
) -> Probed:
    """Predictions for each group by a probe trained on the others; leave-one-group-out where `folds` allows it.

    Args:
        x: [n, D]. y: [n] classes. groups: n names.
        c: Inverse strength of the penalty. folds: At most.
        project: First fit a probe on the training part and take its direction (the span of its normals) out of all
            standardised states: what is left is what other directions tell.
    """
    from sklearn.model_selection import GroupKFold

    names = np.asarray(groups)
    right, tested = np.zeros(len(y), dtype=bool), np.zeros(len(y), dtype=bool)
    count = min(folds, len(set(groups)))
    if count < 2:
        return Probed(right, tested)
    for train, test in GroupKFold(count).split(x, y, names):
        if len(set(y[train].tolist())) < 2:
            continue
        seen, held = x[train], x[test]
        if project:
            seen, held = without(seen, held, fit(seen, y[train], c))
        right[test] = fit(seen, y[train], c).predict(held) == y[test]
        tested[test] = True
    return Probed(right, tested)


def grouped_probabilities(
    x: np.ndarray, y: np.ndarray, groups: Sequence[str], folds: int, c: float = 1.0
) -> np.ndarray | None:
    """Probability of each class for every row, from a fit on other groups alone. [n, D], [n] -> [n, classes].

    Returns:
        None where a class has fewer than two groups, or some fold cannot be trained on all classes.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names, classes = np.asarray(groups), sorted(set(y.tolist()))
    count = min([folds, *(len(set(names[y == label].tolist())) for label in classes)])
    if count < 2:
        return None
    found = np.zeros((len(y), len(classes)))
    # folds and weights alike in class shares: else a fold rich in one class is scored by a fit that saw less of it
    for train, test in StratifiedGroupKFold(count).split(x, y, names):
        if sorted(set(y[train].tolist())) != classes:
            return None
        found[test] = fit(x[train], y[train], c, balanced=True).predict_proba(x[test])
    return found


def without(seen: np.ndarray, held: np.ndarray, probe: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both sets of states, standardised as a fitted probe has them, without the span of its normals."""
    basis, _ = np.linalg.qr(probe[-1].coef_.T)
    left, right = (probe[0].transform(v) for v in (seen, held))
    return left - (left @ basis) @ basis.T, right - (right @ basis) @ basis.T


def permuted(labels: np.ndarray, names: Sequence[str], key: tuple[object, ...]) -> np.ndarray:
    """The labels in an order that the key decides: as many of each class, and nothing to learn.

    Args:
        names: Of the rows, all different: the order of the rows decides nothing.
    """
    found = labels.copy()
    drawn = sorted(range(len(names)), key=lambda i: (unit_hash("probe-control", *key, names[i]), names[i]))
    for to, since in zip(drawn, sorted(range(len(names)), key=lambda i: names[i]), strict=True):
        found[to] = labels[since]
    return found


def flipped(labels: np.ndarray, facts: Sequence[str], key: tuple[object, ...]) -> np.ndarray:
    """Labels 0 and 1 exchanged for a random half of the facts: every fact still has one of each."""
    turn = {f: unit_hash("probe-control", *key, f) < 0.5 for f in set(facts)}
    return np.asarray([1 - v if turn[f] else v for v, f in zip(labels.tolist(), facts, strict=True)])
