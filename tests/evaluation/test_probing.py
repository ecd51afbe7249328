"""Probes cannot memorise: chance where there is nothing to learn, whatever else the states hold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from harmonize.data.example import Example
from harmonize.evaluation.parts.inside import with_value
from harmonize.evaluation.probing import (
    across_groups,
    fit,
    flipped,
    grouped_probabilities,
    permuted,
    swaps,
    without,
)


def fact(subject: str, attribute: str, value: str, answer: str | None = None) -> Example:
    return Example(
        id=f"{subject}-{attribute}",
        role="forget",
        question=f"What is the {attribute} of {subject}?",
        answer=answer or f"The {attribute} of {subject} is {value}.",
        subject=subject,
        value="" if answer else value,
    )


def many(subjects: int = 30) -> list[Example]:
    return [
        fact(f"s{i}", a, f"{a[0].upper()}{i * 7 % 11}")
        for i in range(subjects)
        for a in ("birthplace", "school", "studio")
    ]


def test_controls_are_the_same_answers_of_others() -> None:
    facts = many(7)
    found = swaps(facts)
    assert len(found) == len(facts) and [s.fact for s in found] == facts
    for group in {s.group for s in found}:
        own = [s for s in found if s.group == group]
        assert len({s.fact.subject for s in own}) in (2, 3)
        # every value stands once as true and once as a control, beside every question once each
        assert sorted(s.fact.value for s in own) == sorted(s.other.value for s in own)
        assert {s.fact.subject for s in own} == {s.other.subject for s in own}
    for s in found:
        assert s.fact.subject != s.other.subject and s.fact.id.split("-")[1] == s.other.id.split("-")[1]
        control = with_value(s.fact, s.other.value)
        assert control.answer == s.fact.answer.replace(f"is {s.fact.value}.", f"is {s.other.value}.")
    assert sum(len({s.fact.subject for s in found if s.group == g}) for g in {s.group for s in found}) == 7


def test_what_cannot_be_swapped_is_left_out() -> None:
    assert swaps([]) == [] and swaps([fact("a", "hat", "red")]) == []
    same = [
        fact("a", "hat", "red"),
        fact("b", "hat", "red"),
        fact("a", "coat", "blue"),
        fact("b", "coat", "grey"),
    ]
    assert {s.fact.id for s in swaps(same)} == {"a-coat", "b-coat"}
    free = [
        fact("a", "hat", "", "Ann likes red."),
        fact("b", "coat", "", "It is not known that Bob has one."),
    ]
    assert [s.other.subject for s in swaps(free)] == ["b", "a"]
    assert with_value(free[0], free[1].answer).answer == free[1].answer


def rows(seed: int, groups: int = 30, each: int = 8, size: int = 24):
    draw = np.random.default_rng(seed)
    names = [str(g) for g in range(groups) for _ in range(each)]
    y = np.asarray([i % 2 for i in range(groups * each)])
    return draw, draw.normal(size=(len(y), size)), y, names


@pytest.mark.parametrize("seed", range(3))
def test_random_states_give_chance(seed: int) -> None:
    _, x, y, groups = rows(seed)
    found = across_groups(x, y, groups, c=0.1, folds=10)
    assert found.tested.all() and abs(found.accuracy - 0.5) < 0.1  # 240 rows: three standard errors
    projected = across_groups(x, y, groups, c=0.1, folds=10, project=True)
    assert abs(projected.accuracy - 0.5) < 0.1


def test_a_state_that_gives_the_subject_away_does_not_help() -> None:
    """All rows of a group have one label and one code: within groups a probe would be perfect."""
    draw, _, _, groups = rows(0)
    label = {g: int(draw.integers(2)) for g in sorted(set(groups))}
    code = {g: draw.normal(size=24) for g in sorted(set(groups))}
    x, y = np.stack([code[g] for g in groups]), np.asarray([label[g] for g in groups])
    shuffled = across_groups(x, y, [str(i % 10) for i in range(len(y))], c=10.0, folds=10)
    assert shuffled.accuracy == 1.0  # what leaks when groups are not kept apart
    assert across_groups(x, y, groups, c=10.0, folds=10).accuracy < 0.7


def test_questions_and_answers_by_themselves_say_nothing() -> None:
    """States that are the sum of a code of the subject and one of the value: exactly chance, as a layer-0 state is."""
    draw = np.random.default_rng(0)
    code: dict[str, np.ndarray] = {}

    def of(name: str) -> np.ndarray:
        return code.setdefault(name, draw.normal(size=16))

    x, y, groups, facts = [], [], [], []
    for s in swaps(many()):
        for true, value in ((1, s.fact.value), (0, s.other.value)):
            x.append(of(s.fact.id) + of(value))
            y.append(true)
            groups.append(s.group)
            facts.append(s.fact.fact_id)
    found = across_groups(np.stack(x), np.asarray(y), groups, c=1.0, folds=10)
    assert abs(found.accuracy - 0.5) < 0.12
    # and a state that says whether the two belong together is read at once
    know = np.stack(x) + np.outer(y, np.ones(16))
    assert across_groups(know, np.asarray(y), groups, c=1.0, folds=10).accuracy > 0.9
    turned = flipped(np.asarray(y), facts, (0,))
    assert all(sorted(turned[i] for i, f in enumerate(facts) if f == name) == [0, 1] for name in set(facts))
    assert 0 < (turned != np.asarray(y)).mean() < 1


def test_a_planted_direction_is_found_and_can_be_taken_out() -> None:
    _, x, y, groups = rows(1)
    x[:, 3] += 3 * (y - 0.5)
    assert across_groups(x, y, groups, c=0.1, folds=10).accuracy > 0.9
    assert across_groups(x, y, groups, c=0.1, folds=10, project=True).accuracy < 0.65
    names = [str(i) for i in range(len(y))]
    control = permuted(y, names, (0,))
    again = permuted(y[::-1], names[::-1], (0,))
    assert (control == again[::-1]).all() and (control != y).any()
    assert (
        sorted(control) == sorted(y)
        and abs(across_groups(x, control, groups, c=0.1, folds=10).accuracy - 0.5) < 0.1
    )
    probe = fit(x, y, 0.1)
    seen, held = without(x, x[:2], probe)
    assert np.abs(seen @ probe[-1].coef_[0]).max() < 1e-9 and np.allclose(held, seen[:2])


def test_folds_equal_a_slow_reference() -> None:
    _, x, y, groups = rows(2, groups=6)
    x[:, 0] += y
    right = np.zeros(len(y), dtype=bool)
    for name in set(groups):
        held = np.asarray([g == name for g in groups])
        mean, scale = x[~held].mean(0), x[~held].std(0)
        plain = LogisticRegression(C=0.1, max_iter=2000).fit((x[~held] - mean) / scale, y[~held])
        right[held] = plain.predict((x[held] - mean) / scale) == y[held]
    found = across_groups(x, y, groups, c=0.1, folds=10)
    assert (found.right == right).all()
    order = np.random.default_rng(0).permutation(len(y))
    again = across_groups(x[order], y[order], [groups[i] for i in order], c=0.1, folds=10)
    assert (again.right == right[order]).all()


def test_probabilities_of_classes_come_from_other_groups() -> None:
    _, x, y, groups = rows(3)
    assert grouped_probabilities(x, y, ["one"] * len(y), 5) is None
    two = grouped_probabilities(
        x[:6], y[:6], ["a", "a", "b", "b", "c", "c"], 5
    )  # never more folds than groups
    assert two is not None and two.shape == (6, 2)
    found = grouped_probabilities(x, y, groups, 5)
    assert found is not None and np.allclose(found.sum(1), 1)
    x[:, 0] += 8 * y
    sure = grouped_probabilities(x, y, groups, 5)
    assert sure is not None and (sure.argmax(1) == y).mean() > 0.95
