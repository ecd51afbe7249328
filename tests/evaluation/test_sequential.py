"""Summaries of sequences by hand, and against the figures of the paper that defines them."""

from __future__ import annotations

import math

import pytest

from harmonize.evaluation.answers import PROBABILITY, ROUGE_F, ROUGE_RECALL, TOKENS
from harmonize.evaluation.sequence_summary import score_step, summaries
from harmonize.evaluation.sequential import (
    came_back,
    deviation_score,
    dynamic_deviation,
    dynamic_utility,
    fit_closeness,
    fit_score,
    kept_until_asked,
    pooled,
)
from harmonize.tracking.metric import Metric
from harmonize.tracking.sequence import Measured, SequenceResults, Step

# arXiv 2511.05784: table 2 (deviation score in percent and model utility on 1, 5 and 10 % of TOFU, Llama-2-7B-chat)
# and table 3 (what its DDS and DUS make of them).
PUBLISHED = {
    "GA": ((48.8, 95.6, 98.7), (0.6327, 0.0, 0.0), 0.9351, 0.6836),
    "KL": ((55.5, 100.0, 100.0), (0.6290, 0.0, 0.0), 0.9629, 0.6855),
    "PO": ((37.9, 33.0, 23.7), (0.6312, 0.5187, 0.5380), 0.3153, 0.9341),
    "NPO-RT": ((46.4, 69.9, 64.7), (0.6339, 0.4732, 0.4619), 0.6621, 0.9145),
    "Filter-Prompting": ((43.5, 40.0, 38.7), (0.6337, 0.6337, 0.6326), 0.4073, 0.9994),
    "DRAGON": ((21.4, 23.1, 26.5), (0.6337, 0.6337, 0.6337), 0.2494, 1.0),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_dds_and_dus_are_those_of_the_paper(method: str) -> None:
    deviations, utilities, dds, dus = PUBLISHED[method]
    # the published inputs are rounded: to 0.05 percent of a score, to 0.0005 of a utility
    assert dynamic_deviation([d / 100 for d in deviations]) == pytest.approx(dds, abs=6e-4)
    assert dynamic_utility(utilities) == pytest.approx(dus, abs=1.5e-3)


def test_dds_by_hand_and_its_weight() -> None:
    scores = [0.2, 0.5, 0.1]  # mean 4/15; one rise of 0.3 over two changes
    assert dynamic_deviation(scores) == pytest.approx(0.8 / 3 + 0.5 * 0.15)
    assert dynamic_deviation(scores, beta=0.0) == pytest.approx(0.8 / 3)
    assert dynamic_deviation([0.5, 0.2]) == pytest.approx(0.35), "a fall is no penalty"
    assert dynamic_deviation([0.5]) is None and dynamic_utility([0.5]) is None


def test_dus_sees_changes_alone() -> None:
    assert dynamic_utility([0.6, 0.5, 0.7]) == pytest.approx(1 - 0.3 / 2)
    assert dynamic_utility([0.0, 0.0, 0.0]) == 1.0


def test_deviation_score_is_a_distance() -> None:
    assert deviation_score(0.3, 0.6) == pytest.approx(0.5)  # 3, 4, 5
    assert deviation_score(0.0, 1.0) == 0.0
    assert deviation_score(1.0, 0.0) == pytest.approx(math.sqrt(2))


def test_fit_by_hand() -> None:
    assert fit_score(0.5, 0.5, 0.5) == pytest.approx(0.5)
    assert fit_score(0.8, 0.1, 0.1) == pytest.approx(0.2)
    assert fit_score(0.9, 0.0, 0.9) == 0.0
    assert fit_closeness(0.25, 0.5) == pytest.approx(0.5) == fit_closeness(0.75, 0.5)
    assert fit_closeness(0.5, 0.5) == 1.0
    assert fit_closeness(1.0, 0.5) == 0.0 == fit_closeness(2.0, 0.5), "never below 0"
    assert fit_closeness(0.1, 0.0) == 0.0


def test_what_came_back_and_what_was_kept() -> None:
    curves = [
        [1.0, 0.1, 0.2, 0.4],  # asked for at step 1: 0.3 came back
        [0.9, 0.8, 0.0, 0.1],  # at step 2: 0.1 came back; right before, 0.8 was known
        [1.0, 0.7, 0.6, 0.0],  # at step 3, the last: 0.6
    ]
    assert came_back(curves) == pytest.approx(0.2)
    assert kept_until_asked(curves) == pytest.approx(0.7)
    assert came_back(curves[:1]) is None and kept_until_asked(curves[:1]) is None


def test_pooling_weighs_items() -> None:
    assert pooled([Metric(1.0, 10), Metric(0.0, 30)]) == pytest.approx(0.25)
    assert pooled([Metric(1.0, 10), Metric(None, 0)]) is None
    assert pooled([Metric(1.0, 10), None]) is None and pooled([]) is None


def answers(probability: float, rouge: float, tokens: float, recall: float, n: int = 10) -> dict[str, Metric]:
    values = {PROBABILITY: probability, ROUGE_F: rouge, TOKENS: tokens, ROUGE_RECALL: recall}
    return {name: Metric(value, n) for name, value in values.items()}


def record(gold: bool = True) -> SequenceResults:
    def step(number: int, a: float, b: float, utility: float) -> Step:
        kept = {"utility_accuracy": Metric(utility, 4), **answers(0.8, 0.8, 0.8, 0.6)}
        requests = {"A": {"forget_accuracy": Metric(a, 10)}, "B": {"forget_accuracy": Metric(b, 30)}}
        if number >= 1:
            requests["A"] |= answers(0.2, 0.2, 0.2, 0.3)
        if number == 2:
            requests["B"] |= answers(0.4, 0.4, 0.4, 0.1, n=30)
        return Step(number, [None, "A", "B"][number], None, "m", Measured(requests, kept))

    reference = Measured(
        {"A": answers(0.4, 0.4, 0.4, 0), "B": answers(0.4, 0.4, 0.4, 0, 30)}, answers(0.8, 0.8, 0.8, 1)
    )
    found = SequenceResults(["A", "B"], "leave", {}, 0, "", gold=reference if gold else None)
    found.steps = [step(0, 1.0, 1.0, 0.9), step(1, 0.0, 0.8, 0.9), step(2, 0.1, 0.0, 0.7)]
    for s in found.steps[1:]:
        score_step(s, found.asked(s.number), found.gold)
    return found


def test_scores_of_a_step_are_about_the_requests_so_far() -> None:
    _, first, second = record().steps
    assert first.deviation == pytest.approx(0.5)  # 0.3 and 1 - 0.6
    assert second.deviation == pytest.approx(math.hypot((10 * 0.3 + 30 * 0.1) / 40, 0.4))
    assert first.forget_degree == pytest.approx(0.5)  # 0.2 of 0.4
    assert second.forget_degree == pytest.approx(
        1 - abs(0.35 / 0.4 - 1)
    )  # (10 * 0.2 + 30 * 0.4) / 40 in all three
    assert first.retain_utility == pytest.approx(1.0)


def test_summaries_by_hand() -> None:
    found = {s["name"]: s["value"] for s in summaries(record())}
    second = math.hypot(0.15, 0.4)
    assert found["DDS"] == pytest.approx((0.5 + second) / 2)
    assert found["DUS"] == pytest.approx(0.8)
    assert found["F.D."] == pytest.approx(0.875) and found["R.U."] == pytest.approx(1.0)
    assert found["came back"] == pytest.approx(0.1) and found["kept until asked"] == pytest.approx(0.8)
    assert all(s["formula"] and (s["source"] or s["evidence"] == "ours") for s in summaries(record()))


def test_without_gold_or_utility_a_summary_says_so() -> None:
    bare = record(gold=False)
    for step in bare.steps:
        step.measured.kept.pop("utility_accuracy")
    found = {s["name"]: s["value"] for s in summaries(bare)}
    assert found["F.D."] is None and found["R.U."] is None and found["DUS"] is None
    assert found["DDS"] is not None
