"""What greedy decoding understates: sampled answers, and the probability of the true one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harmonize.evaluation.records import Query, Question, Record
from harmonize.evaluation.surface import Progress, Surface

LIKELY = 0.5  # our choice: from here on a probability has the verdict `correct`


def sampled_answers(
    surface: Any,
    queries: Sequence[Query],
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None,
) -> list[tuple[Query, list[int]]]:
    """The answer of every drawn query, in order; none where the model cannot be sampled.

    A draw is a function of (seed, example, phrasing, its number), of the prompt and of the model.

    Args:
        surface: A model, with `sample` as `ModelSurface` has it.
        queries: With `draw` and `temperature`.
    """
    sample = getattr(surface, "sample", None)
    if sample is None:
        return []
    asked: dict[tuple[float, str, tuple[int, ...]], int] = {}
    for q in queries:
        key = (q.temperature, _key(q, seed), q.ids)
        asked[key] = max(asked.get(key, 0), 1 + int(q.draw or 0))
    said: dict[tuple[float, str, tuple[int, ...]], list[list[int]]] = {}
    for temperature, draws in sorted({(key[0], n) for key, n in asked.items()}):
        part = [key for key, n in asked.items() if (key[0], n) == (temperature, draws)]
        answers = sample(
            [ids for _, _, ids in part],
            [name for _, name, _ in part],
            draws,
            temperature,
            max_new_tokens,
            batch_size,
            progress,
        )
        said.update(zip(part, answers, strict=True))
    return [(q, said[q.temperature, _key(q, seed), q.ids][int(q.draw or 0)]) for q in queries]


def _key(query: Query, seed: int) -> str:
    return "\x1f".join((str(seed), query.question.example.id, query.question.text))


def judge_likelihood(
    surface: Surface, questions: Sequence[Question], attack: str, batch_size: int
) -> list[Record]:
    """One record per question; its score is the probability of the true answer, per token.

    Formula: P(answer | question) ^ (1 / tokens of the answer), the end of turn apart

    Source: the probability of TOFU (arXiv 2401.06121), as in open-unlearning's code.
    """
    targets = [surface.renderer.answer_ids(q.example.answer) for q in questions]
    pairs = [(q.prompt, ids) for q, ids in zip(questions, targets, strict=True) if ids]
    sums = iter(surface.log_probs(pairs, batch_size) if pairs else [])
    found = []
    for q, ids in zip(questions, targets, strict=True):
        score = math.exp(next(sums) / len(ids)) if ids else 0.0
        found.append(
            Record(
                query=Query(q, q.example.answer, len(ids) + 1, attack),
                output="",
                verdict="correct" if score >= LIKELY else "wrong",
                score=score,
            )
        )
    return found
