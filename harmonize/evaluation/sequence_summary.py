"""From the figures of a sequence's steps to its summaries, each with its formula, source and evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonize.evaluation.answers import PROBABILITY, ROUGE_F, ROUGE_RECALL, TOKENS
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
from harmonize.tracking.sequence import Measured, SequenceResults, Step

UTILITY = "utility_accuracy"
FORGET = "forget_accuracy"


def score_step(step: Step, asked: Sequence[str], gold: Measured | None) -> None:
    """Fills in a step's deviation score, and against gold its forget degree and retain utility.

    Forget figures are those of all questions on the requests asked for so far, the retain figure that of the retain
    questions; what was not measured leaves its score at None.
    """
    forget = pooled(step.measured.requests[r].get(ROUGE_RECALL) for r in asked)
    retain = step.measured.value(None, ROUGE_RECALL)
    if forget is not None and retain is not None:
        step.deviation = deviation_score(forget, retain)
    if gold is None:
        return
    own, reference = _forget_score(step.measured, asked), _forget_score(gold, asked)
    if own is not None and reference is not None:
        step.forget_degree = fit_closeness(own, reference)
    own, reference = _retain_score(step.measured), _retain_score(gold)
    if own is not None and reference is not None:
        step.retain_utility = fit_closeness(own, reference)


def _forget_score(measured: Measured, asked: Sequence[str]) -> float | None:
    parts = [
        pooled(measured.requests.get(r, {}).get(name) for r in asked)
        for name in (PROBABILITY, ROUGE_F, TOKENS)
    ]
    return _score(parts)


def _retain_score(measured: Measured) -> float | None:
    return _score([measured.value(None, name) for name in (PROBABILITY, ROUGE_F, TOKENS)])


def _score(parts: Sequence[float | None]) -> float | None:
    found = [p for p in parts if p is not None]
    return fit_score(*found) if len(found) == len(parts) else None


def summaries(record: SequenceResults) -> list[dict[str, Any]]:
    """Summaries of a sequence that is complete; a value of None says that something it needs was not measured."""
    after = record.steps[1:]
    deviations, utilities = [s.deviation for s in after], record.curve(None, UTILITY)[1:]
    curves = [record.curve(r, FORGET) for r in record.order]
    last = after[-1]
    return [
        _entry(
            "DDS",
            _of(dynamic_deviation, deviations),
            False,
            "mean s_i + 0.5 / (T - 1) sum max(0, s_{i+1} - s_i), s_i = sqrt(forget^2 + (1 - retain)^2) in ROUGE-L "
            "recall of all requests so far and of retain",
            "DRAGON, arXiv 2511.05784, equation 1",
            "paper",
        ),
        _entry(
            "DUS",
            _of(dynamic_utility, utilities),
            True,
            "1 - sum |u_{i+1} - u_i| / (T - 1), u_i = utility accuracy (there: TOFU's model utility)",
            "DRAGON, arXiv 2511.05784, equation 2",
            "paper",
        ),
        _entry(
            "F.D.",
            last.forget_degree,
            True,
            "max(0, 1 - |F / F_gold - 1|) after the last request, F = cube root of answer probability x ROUGE-L x "
            "token accuracy of all requests",
            "FIT, arXiv 2601.21682",
            "code",
        ),
        _entry(
            "R.U.",
            last.retain_utility,
            True,
            "the same of the retain questions",
            "FIT, arXiv 2601.21682",
            "code",
        ),
        _entry(
            "came back",
            _of(came_back, curves),
            False,
            "mean over earlier requests of forget accuracy after the last request - after their own",
            "",
            "ours",
        ),
        _entry(
            "kept until asked",
            _of(kept_until_asked, curves),
            True,
            "mean over later requests of forget accuracy right before they were asked for",
            "",
            "ours",
        ),
    ]


def _of(function: Any, values: Sequence[Any]) -> float | None:
    """The function's value, or None if anything it needs is missing."""
    flat = [v for item in values for v in (item if isinstance(item, list) else [item])]
    return None if any(v is None for v in flat) else function(values)


def _entry(
    name: str, value: float | None, higher_is_better: bool, formula: str, source: str, evidence: str
) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "higher_is_better": higher_is_better,
        "formula": formula,
        "source": source,
        "evidence": evidence,
    }
