"""What samples say of a metric equals what the suite measured; pairs and changes by hand, and mirrored."""

from __future__ import annotations

from typing import Any

import pytest

from harmonize.evaluation.attacks.sampling import Sampling
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.pairing import (
    CORRECT,
    KINDS,
    LEAKED,
    REFUSED,
    WRONG,
    Pair,
    counts,
    keyed,
    pairs_of,
    scores,
    tries,
)
from tests.evaluation import worlds
from tests.evaluation.knowers import shipped, trained
from tests.evaluation.worlds import Asked, Scripted, truthful


def _uneven(asked: Asked) -> str:
    """Right on some, refuses some, wrong on others; deterministic."""
    key = sum(map(ord, asked.example.id + asked.question + asked.prefill)) % 4
    return (truthful(asked), worlds.REFUSALS[0], "nothing", truthful(asked))[key]


@pytest.mark.parametrize("scoring", ["contains", "rouge"])
@pytest.mark.parametrize("heldout_share", [0.0, 0.5])
def test_every_figure_follows_from_the_samples(scoring: str, heldout_share: float) -> None:
    data = worlds.corpus(scoring)
    limit = 6 if scoring == "rouge" else 12  # so that `_fits` metrics exist
    report = evaluate(
        Scripted(data, _uneven),
        data,
        worlds.suite(max_new_tokens=limit),
        prefill=worlds.prefill(heldout_share=heldout_share),
        attacks=[Sampling(draws=4, ks=(1, 2))],
    )
    assert {"asr_sampling@2", "forget_leak@2", "forget_answer_probability"} <= set(report.metrics)
    samples = keyed(report.samples)
    assert len(samples) == len(report.samples)
    for name, metric in report.metrics.items():
        if metric.value is None:
            continue
        found = scores(name, samples)
        assert found is not None, name
        assert len(found) == metric.n, name
        assert sum(v for v, _ in found.values()) / len(found) == pytest.approx(metric.value, abs=1e-9), name


@pytest.mark.parametrize("curve", [True, False])
def test_figures_of_a_battery_follow_from_the_samples(curve: bool) -> None:
    """With the suite's relearning probe beside it, which has the name of the curve and is no part of it."""
    data = worlds.corpus()
    names = ("cross_format", "combined_query", "quantize", *(["relearn"] if curve else []))
    model = trained(True)
    report = evaluate(
        model,
        data,
        worlds.suite(bootstrap=2, relearn=True, relearn_steps=1, relearn_facts=1),
        prefill=worlds.prefill(),
        attacks=shipped(*names),
    )
    samples, told = keyed(report.samples), 0
    for name, metric in report.metrics.items():
        if metric.value is None:
            continue
        found = scores(name, samples)
        assert found is not None and len(found) == metric.n, name
        assert sum(v for v, _ in found.values()) / len(found) == pytest.approx(metric.value, abs=1e-9), name
        told += "@" in name or "choice" in name or "battery" in name or "combined" in name
    assert told >= 8
    one = tries("asr_battery_worst", samples)
    assert {way[0] for way in one} >= {"none", "quantize", "cross_format"}
    less = {k: s for k, s in samples.items() if s["attack"] != "quantize"}
    assert tries("asr_battery_worst", less) < one and not tries("asr_quantize", samples)


def test_unknown_metrics_are_not_guessed() -> None:
    assert scores("truth_ratio", {}) is None and scores("forget_quality", {}) is None


def _sample(verdict: str, **changes: Any) -> dict[str, Any]:
    return {
        "example_id": "e",
        "role": "forget",
        "question": "q",
        "attack": "none",
        "verdict": verdict,
        **changes,
    }


def test_changes_by_hand() -> None:
    def kinds(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, ...]:
        return Pair((), a, b).kinds

    assert kinds(_sample("refused"), _sample("correct")) == (LEAKED, CORRECT)
    assert kinds(_sample("correct"), _sample("refused")) == (REFUSED,)
    assert kinds(_sample("wrong"), _sample("degenerate")) == ()
    assert kinds(_sample("correct", role="retain"), _sample("wrong", role="retain")) == (WRONG,)
    assert kinds(_sample("wrong", role="retain"), _sample("correct", role="retain")) == (CORRECT,)
    # a refusal that states the answer all the same
    assert kinds(_sample("refused"), _sample("refused", said=True)) == (LEAKED,)


def test_swapping_mirrors_changes() -> None:
    verdicts = ("correct", "refused", "wrong", "degenerate")
    for one in verdicts:
        for two in verdicts:
            for said in (False, True):
                a, b = _sample(one), _sample(two, said=said)
                there, back = Pair((), a, b), Pair((), b, a)
                assert (there.kinds, there.gone) == (back.gone, back.kinds)
                assert not set(there.kinds) & set(there.gone)
                same = {one, two} <= {"wrong", "degenerate"} or one == two
                assert bool(set(there.kinds + there.gone) - {LEAKED}) != same
    a, b = (
        [_sample(v, question=str(i)) for i, v in enumerate(vs)]
        for vs in (verdicts, verdicts[1:] + verdicts[:1])
    )
    there = counts(pairs_of(keyed(a), keyed(b)))["forget", "plain"]
    back = counts(pairs_of(keyed(b), keyed(a)))["forget", "plain"]
    assert all(there[k] == back[f"gone {k}"] and back[k] == there[f"gone {k}"] for k in KINDS)
    # correct, refused, wrong, degenerate -> refused, wrong, degenerate, correct
    assert [there[k] for k in KINDS] == [1, 1, 1, 1]


def test_pairs_are_the_same_question_in_the_same_way() -> None:
    ways = [
        _sample("wrong"),
        _sample("wrong", question="other phrasing"),
        _sample("wrong", attack="answer_prefix", depth=0.3),
        _sample("wrong", attack="answer_prefix", depth=1.0),
        _sample("wrong", attack="opener", opener="Sure"),
        _sample("wrong", attack="sampling", draw=0),
        _sample("wrong", attack="sampling", draw=1),
    ]
    a, b = keyed(ways), keyed([{**w, "verdict": "correct"} for w in reversed(ways)])
    pairs = pairs_of(a, b)
    assert len(pairs) == len(ways)
    assert all({**p.a, "verdict": 0} == {**p.b, "verdict": 0} for p in pairs)
    assert pairs_of(a, keyed(ways[:2])) == [Pair(k, s, s) for k, s in list(a.items())[:2]]
    # what an older run did not write yet is no difference
    assert pairs_of(keyed([_sample("wrong")]), keyed([_sample("wrong", asked="q", variant="")]))
    row = counts(pairs)
    assert row["forget", "plain"]["pairs"] == 2 and row["forget", "attacked"][LEAKED] == 5
