"""How much of the true answers a model gives, against one row at a time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harmonize.evaluation.answers import (
    ANSWER_METRICS,
    PROBABILITY,
    ROUGE_F,
    ROUGE_RECALL,
    TOKENS,
    answer_metrics,
)
from harmonize.evaluation.one_pass import token_rows
from harmonize.evaluation.questions import ask, used_facts
from harmonize.evaluation.scores.memorization import exact_memorization, probability
from harmonize.evaluation.text import rouge_l_f, rouge_l_recall
from tests.evaluation import worlds


@pytest.fixture(scope="module")
def data():
    return worlds.corpus()


@pytest.fixture
def loaded(data) -> SimpleNamespace:
    return worlds.llama(data)


def alone(model: torch.nn.Module, prompt: tuple[int, ...], target: tuple[int, ...]) -> tuple[float, float]:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *target]])).logits[0].double()
    probability, hits = 1.0, 0
    for i, t in enumerate(target):
        row = logits[len(prompt) - 1 + i]
        probability *= float(row.softmax(-1)[t])
        hits += int(row.argmax()) == t
    return probability ** (1 / len(target)), hits / len(target)


def test_agreement_is_that_of_one_row_at_a_time(data, loaded) -> None:
    renderer = loaded.renderer
    pairs = [
        (renderer.prompt_ids(e.question), renderer.answer_ids(e.answer[: 8 + i]))
        for i, e in enumerate(data.examples[:20])
    ]
    # the model's own choices too, so that some tokens are hits
    said = [
        (p, tuple(int(t) for t in loaded.model(torch.tensor([[*p, *t]])).logits[0].argmax(-1)[len(p) - 1 :]))
        for p, t in pairs[:4]
    ]
    pairs += said
    expected = [alone(loaded.model, p, t) for p, t in pairs]
    assert max(h for _, h in expected) > 0 and min(h for _, h in expected) < 1
    for size in (1, 3, 64):
        found = token_rows(loaded.model, pairs, renderer.pad_id, size)
        assert [probability(r) for r in found] == pytest.approx([p for p, _ in expected], rel=1e-4)
        assert [exact_memorization(r) for r in found] == pytest.approx([h for _, h in expected])


def test_rouge_l_by_hand() -> None:
    said, true = "the red house by the sea", "a red house"
    assert rouge_l_recall(said, true) == pytest.approx(2 / 3)
    assert rouge_l_f(said, true) == pytest.approx(2 * (2 / 3) * (2 / 6) / (2 / 3 + 2 / 6))
    assert rouge_l_f("", true) == 0.0 and rouge_l_f(true, true) == 1.0


def test_metrics_have_items_and_intervals(data, loaded) -> None:
    suite = SimpleNamespace(max_new_tokens=6, batch_size=16, confidence=0.9, bootstrap=50)
    questions = ask(used_facts(data, "forget"), "test", loaded.renderer)
    found = answer_metrics(loaded, questions, suite, higher_is_better=False)
    assert tuple(found) == ANSWER_METRICS == (PROBABILITY, TOKENS, ROUGE_F, ROUGE_RECALL)
    for metric in found.values():
        assert metric.n == len(questions) and metric.value is not None and 0 <= metric.value <= 1
        assert metric.ci_low is not None and metric.ci_low <= metric.value <= metric.ci_high
        assert not metric.higher_is_better
    agreement = [
        alone(loaded.model, q.prompt, loaded.renderer.answer_ids(q.example.answer)) for q in questions
    ]
    mean = sum(p for p, _ in agreement) / len(agreement)
    assert found[PROBABILITY].value == pytest.approx(mean, rel=1e-4)
    assert answer_metrics(loaded, questions, suite, higher_is_better=False) == found


def test_without_a_question_nothing_is_measured(loaded) -> None:
    suite = SimpleNamespace(max_new_tokens=6, batch_size=16, confidence=0.9, bootstrap=50)
    found = answer_metrics(loaded, [], suite, higher_is_better=True)
    assert all(m.value is None and m.n == 0 and m.higher_is_better for m in found.values())
