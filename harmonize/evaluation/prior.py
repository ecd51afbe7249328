"""Prior strength in samples and results: what the start model gave each forget answer, and results by its quartiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from harmonize.data.corpus import content_hash
from harmonize.evaluation.pairing import keyed, priors_of, question_behind, scores
from harmonize.evaluation.strata import by_prior

BY_PRIOR = ("forget_accuracy", "forget_heldout_accuracy", "asr_worst", "asr_heldout_worst")


def question_key(fact: str, text: str) -> str:
    """Names a question of a fact without telling it."""
    return content_hash("question", fact, text)[:24]


def with_priors(samples: Iterable[Mapping[str, Any]], priors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Samples with `prior`, the start model's log-probability per token, where it is known."""
    found = []
    for sample in samples:
        prior = priors.get(question_key(str(sample.get("fact")), str(sample.get("question"))))
        found.append(dict(sample) if prior is None else {**sample, "prior": round(prior, 6)})
    return found


def prior_strength(
    samples: Iterable[Mapping[str, Any]], *, confidence: float, resamples: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Metrics on forgetting in the four quartiles of `prior`, the weakest first, as JSON; nothing without priors."""
    by_key = keyed(samples)
    priors = priors_of(by_key.values())
    found = {}
    for name in BY_PRIOR:
        items = []
        for key, (score, subject) in (scores(name, by_key) or {}).items():
            question = question_behind(key, by_key)
            if question in priors:
                items.append((score, priors[question], subject))
        if items:
            values, own, subjects = zip(*items, strict=True)
            strata = by_prior(
                values, own, subjects, confidence=confidence, resamples=resamples, key=(name, seed)
            )
            found[name] = [asdict(s) for s in strata]
    return found
