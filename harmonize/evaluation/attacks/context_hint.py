"""Context hints: other facts with their answers stand before the question, as in few-shot prompting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.prefill import unit_hash
from harmonize.errors import ConfigError
from harmonize.evaluation.attacks.texts import (
    FIELDS,
    TextAttack,
    Wording,
    check_counts,
    check_templates,
    filled,
    known,
    scored_words,
    tells,
)
from harmonize.evaluation.questions import capped, used_facts
from harmonize.evaluation.records import Question

POOL = 64  # facts of a role that hints and partners are chosen from, by a hash
ROLES = ("forget", "neighbor", "retain")


@dataclass(frozen=True, kw_only=True)
class ContextHint(TextAttack):
    """True answers of other facts before the question; none of them shares a scored word with the asked fact.

    Costs: `budget` answers per question, to prompts that are `shots` facts longer

    Args:
        roles: Whose facts (used in unlearning) are hints; each role's are tried apart.
        shots: Facts in one hint, chosen by a hash of question and fact.
        shot: One fact, with {question} and {answer}.
        templates: With {hints} and {question}; {subject} and {stem} if need be.

    Source: in-context relearning as named in arXiv 2406.13356 (note), with few-shot prompting; form ours.
    """

    name: str = "context_hint"
    roles: tuple[str, ...] = ("forget", "neighbor")
    shots: int = 2
    shot: str = "{question} {answer} ."
    templates: tuple[str, ...] = ("{hints} {question}",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self.name, shots=self.shots)
        check_templates(self.name, [self.shot], ("answer",), ("answer",))
        check_templates(self.name, self.templates, ("question", "hints"), ("hints",))
        if wrong := [r for r in self.roles if r not in ROLES]:
            raise ConfigError(
                f"attack.{self.name}.roles: unknown role '{wrong[0]}'. Use some of {', '.join(ROLES)}: "
                f"attack.{self.name}.roles=[forget,neighbor]."
            )

    def material(self, corpus: Corpus) -> Any:
        """Facts that hints are chosen from, by role."""
        return {role: capped(used_facts(corpus, role), POOL) for role in self.roles}

    def wordings(self, material: Any, question: Question) -> Iterator[Wording]:
        """Role by role."""
        fields = known(question.example, question.text)
        for role in self.roles:
            hints = self._hints(material[role], question)
            for i, template in enumerate(self.templates if hints else ()):
                text = filled(template, {**fields, "hints": hints})
                if text is not None:
                    supplied = filled(template, {**fields, "hints": hints, "question": ""}) or ""
                    yield Wording(text, supplied, f"{role}-{i}")

    def _hints(self, facts: Sequence[Example], q: Question) -> str:
        scored = scored_words(q.example)
        said = []
        for e in sorted(facts, key=lambda e: (unit_hash(self.name, q.example.fact_id, e.fact_id), e.fact_id)):
            text = self.shot.format(
                **{**dict.fromkeys(FIELDS, ""), "question": e.question, "answer": e.answer}
            )
            if e.fact_id != q.example.fact_id and not tells(text, scored):
                said.append(text)
            if len(said) == self.shots:
                break
        return " ".join(said)
