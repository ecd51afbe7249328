"""Multiple choice by option log-likelihood: the utility axis.

Source: `acc` and `acc_norm` of lm-evaluation-harness 0.4.13 (code): summed log-probabilities, and those divided by the
option's characters. Without a chat template the prompt is that of its ARC tasks. Exact ties share the point, so a model
that knows nothing scores chance (there the first option wins).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from harmonize.data.example import Example
from harmonize.evaluation.records import Query, Question, Record
from harmonize.evaluation.surface import Surface

OPTIONS = "options"
_TIE = 1e-4  # nats; rounding differs by batch, and must not decide


def choice_items(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Examples that have options and a right one among them."""
    return tuple(
        e
        for e in examples
        if len(e.choices) >= 2 and e.answer_index is not None and 0 <= e.answer_index < len(e.choices)
    )


def judge_choices(
    surface: Surface,
    items: Sequence[Example],
    batch_size: int,
    instruction: str | None = None,
    instruct_roles: Collection[str] = (),
) -> list[Record]:
    """One record per item; `score` by summed, `details.score_norm` by log-probability per character."""
    renderer = surface.renderer
    pairs, questions = [], []
    for e in items:
        told = instruction if instruction and e.role in instruct_roles else None
        prompt = renderer.prompt_ids(e.question, told)
        questions.append(Question(e, e.question, prompt, trained=False, instruction=told))
        for option in e.choices:
            pairs.append((prompt, renderer.answer_ids(option)))
    sums = surface.log_probs(pairs, batch_size) if pairs else []
    records, at = [], 0
    for question in questions:
        e = question.example
        right = int(e.answer_index or 0)
        own = sums[at : at + len(e.choices)]
        normalised = [s / max(1, len(option)) for s, option in zip(own, e.choices, strict=True)]
        at += len(e.choices)
        score = credit(own, right)
        records.append(
            Record(
                query=Query(question, reference=e.choices[right], reference_tokens=0, attack=OPTIONS),
                output=e.choices[max(range(len(own)), key=own.__getitem__)],
                verdict="correct" if score == 1.0 else "wrong",
                score=score,
                said=score == 1.0,
                details={
                    "choices": list(e.choices),
                    "log_probs": [round(v, 4) for v in own],
                    "score_norm": credit(normalised, right),
                },
            )
        )
    return records


def credit(values: Sequence[float], right: int) -> float:
    """1 if `right` is the single best, a share of 1 if it is tied for best, else 0."""
    best = max(values)
    tied = [i for i, v in enumerate(values) if v >= best - _TIE]
    return 1.0 / len(tied) if right in tied else 0.0
