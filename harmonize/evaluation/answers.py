"""How much of the true answers a model still gives: likelihood, tokens and words, without a verdict.

Accuracy asks whether the fact is said; these figures move long before it does. The summaries of sequences
(`harmonize.evaluation.sequential`) are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonize.evaluation.intervals import cluster_interval
from harmonize.evaluation.one_pass import token_rows
from harmonize.evaluation.records import Question
from harmonize.evaluation.scores.memorization import exact_memorization, probability
from harmonize.evaluation.surface import ModelSurface
from harmonize.evaluation.text import rouge_l_f, rouge_l_recall
from harmonize.tracking.metric import Metric

PROBABILITY, TOKENS = "answer_probability", "answer_token_accuracy"
ROUGE_F, ROUGE_RECALL = "answer_rouge_l", "answer_rouge_l_recall"
ANSWER_METRICS: tuple[str, ...] = (PROBABILITY, TOKENS, ROUGE_F, ROUGE_RECALL)


def answer_metrics(
    loaded: Any, questions: Sequence[Question], suite: Any, *, higher_is_better: bool, seed: int = 0
) -> dict[str, Metric]:
    """Means over questions, with intervals clustered by subject.

    answer_probability: P(answer | question) ** (1 / tokens of the answer), without the end of turn.
    answer_token_accuracy: Share of the answer's tokens that are the model's first choice given those before.
    answer_rouge_l, answer_rouge_l_recall: Of the model's own greedy answer.

    Args:
        loaded: A `LoadedModel`. questions: Of one role. suite: Like `SuiteConfig` (lengths, batches, bootstrap).
        higher_is_better: Whether the answers are to be kept.
        seed: Moves the bootstrap alone.

    Returns:
        `ANSWER_METRICS`; value None where there is no question.

    Source: FIT (arXiv 2601.21682), the authors' evaluator, which takes ROUGE-L with the question before the answer on
    the generated side, and token accuracy over whole texts; here all is about the answer alone (our choice).
    """
    renderer = loaded.renderer
    questions = [q for q in questions if renderer.answer_ids(q.example.answer)]
    if not questions:
        return {name: Metric(None, 0, None, None, higher_is_better) for name in ANSWER_METRICS}
    surface = ModelSurface(loaded)
    prompts = list(dict.fromkeys(q.prompt for q in questions))
    said = surface.generate(prompts, suite.max_new_tokens, suite.batch_size, None)
    text = {p: renderer.decode(ids) for p, ids in zip(prompts, said, strict=True)}
    pairs = [(q.prompt, renderer.answer_ids(q.example.answer)) for q in questions]
    rows = token_rows(surface.model, pairs, renderer.pad_id, suite.batch_size)
    values = {
        PROBABILITY: [probability(r) for r in rows],
        TOKENS: [exact_memorization(r) for r in rows],
        ROUGE_F: [rouge_l_f(text[q.prompt], q.example.answer) for q in questions],
        ROUGE_RECALL: [rouge_l_recall(text[q.prompt], q.example.answer) for q in questions],
    }
    subjects = [q.example.subject for q in questions]
    found = {}
    for name, numbers in values.items():
        interval = cluster_interval(
            numbers, subjects, confidence=suite.confidence, resamples=suite.bootstrap, key=(name, seed)
        )
        low, high = interval or (None, None)
        found[name] = Metric(sum(numbers) / len(numbers), len(numbers), low, high, higher_is_better)
    return found
