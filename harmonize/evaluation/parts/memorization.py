"""How much of the data set's own answers a model still holds, role by role, from one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.data.example import Role
from harmonize.evaluation.parts.rows import content_key, role_problems, shown_facts
from harmonize.evaluation.questions import ask
from harmonize.evaluation.report import Report
from harmonize.evaluation.scores.memorization import (
    exact_memorization,
    extraction_strength,
    probability,
    tokens_at_k,
)
from harmonize.evaluation.suite import Part, Scene

_NAMES = ("answer_probability", "exact_memorization", "extraction_strength")


@dataclass(frozen=True)
class Memorization(Part):
    """Probability, exact memorisation, extraction strength and tokens among the k likeliest, of the true answers.

    `<role>_answer_probability`, `_exact_memorization`, `_extraction_strength`, `_tokens_at_<k>`: forget facts that
    unlearning was shown (phrasings that it was not), and neighbor and retain facts of held-out subjects. The axes' own
    `forget_answer_probability` (leak), where it is measured, is not measured again. Where examples have a
    scored value, `<role>_value_probability` and `_value_exact_memorization` are about its tokens alone: the words that
    all answers share are no knowledge.

    Args:
        roles: Whose answers.
        floor: open-unlearning's extraction strength, whose lowest value is 1 / tokens.
        top: The ks of `tokens_at_<k>`.

    Source: TOFU's probability; exact memorisation and extraction strength as in open-unlearning; TR@k of 2510.17210.
    """

    roles: Sequence[str] = ("forget", "neighbor", "retain")
    floor: bool = False
    top: Sequence[int] = (1, 5, 20)

    def problems(self, at: str) -> list[str]:
        """Roles with answers, and ranks from 1 on."""
        found = role_problems(f"{at}.roles", self.roles)
        wrong = [k for k in self.top if not isinstance(k, int) or k < 1]
        if wrong:
            found.append(f"{at}.top: {wrong[0]} is no number of tokens. For example {at}.top=[1,5,20].")
        return found

    def figures(self) -> dict[str, bool]:
        """Three of each role."""
        return {f"{role}_{name}": role != Role.FORGET for role in self.roles for name in _NAMES}

    def check(self, corpus: Corpus, suite: Any) -> str:
        """The facts of the roles."""
        return content_key(*(e for role in self.roles for e in shown_facts(corpus, suite, role)))

    def measure(self, scene: Scene) -> Report:
        """One forward per batch of answers."""
        report = Report({})
        for role in self.roles:
            facts = shown_facts(scene.corpus, scene.suite, role)
            told = scene.instruction
            questions = ask(facts, scene.split, scene.renderer, told, scene.instruct_roles)
            pairs = [
                (q.prompt, scene.target(q.example.answer, f"example '{q.example.id}'")) for q in questions
            ]
            rows = scene.rows(pairs)
            subjects = [q.example.subject for q in questions]
            values = {
                "answer_probability": [probability(r) for r in rows],
                "exact_memorization": [exact_memorization(r) for r in rows],
                "extraction_strength": [extraction_strength(r, self.floor) for r in rows],
                **{f"tokens_at_{k}": [tokens_at_k(r, k) for r in rows] for k in self.top if k > 1},
            }
            if any(q.example.value for q in questions):
                spans = [scene.renderer.value_span(q.example) for q in questions]
                stated = [r.between(*span) for r, span in zip(rows, spans, strict=True)]
                values["value_probability"] = [probability(r) for r in stated]
                values["value_exact_memorization"] = [exact_memorization(r) for r in stated]
            for name, numbers in values.items():
                key = f"{role}_{name}"
                if key not in scene.metrics:
                    report.metrics[key] = scene.mean(key, numbers, subjects, role != Role.FORGET)
            if not rows:
                report.notes.append(
                    f"Not measured: {role}_answer_probability and the like: no {role} fact to ask."
                )
            for i, q in enumerate(questions):
                e = q.example
                figures: dict[str, Any] = {name: numbers[i] for name, numbers in values.items()}
                own = {f"{role}_{name}": v for name, v in figures.items()}
                figures["figures"] = {key: v for key, v in own.items() if key in report.metrics}
                report.samples.append(
                    scene.sample(
                        role, e.id, e.subject, str(e.role), question=q.text, reference=e.answer, **figures
                    )
                )
        return report
