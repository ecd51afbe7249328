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
        shots: Facts in one hint: of the same subject first, then by a hash of question and fact.
        shot: One fact, with {answer}, and {question} if need be.
        templates: With {hints} and {question}; {subject} and {stem} if need be.

    Source: in-context relearning as named in arXiv 2406.13356 (note), with few-shot prompting; form ours.
    """

    name: str = "context_hint"
    roles: tuple[str, ...] = ("forget", "neighbor")
    shots: int = 1
    shot: str = "{answer} ."
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
        """Facts that hints are chosen from, by role: some of all, and those of each subject."""
        found = {}
        for role in self.roles:
            facts = used_facts(corpus, role)
            subjects: dict[str, list[Example]] = {}
            for e in facts:
                subjects.setdefault(e.subject, []).append(e)
            found[role] = (capped(facts, POOL), subjects)
        return found

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

    def _hints(self, pool: tuple[Sequence[Example], dict[str, list[Example]]], q: Question) -> str:
        scored, subject = scored_words(q.example), q.example.subject
        others, subjects = pool

        def order(e: Example) -> tuple[bool, float, str]:
            return e.subject != subject, unit_hash(self.name, q.example.fact_id, e.fact_id), e.fact_id

        said: dict[str, str] = {}
        for e in sorted([*subjects.get(subject, ()), *others], key=order):
            fields = {**dict.fromkeys(FIELDS, ""), "question": e.question, "answer": e.answer}
            text = self.shot.format(**fields)
            if e.fact_id != q.example.fact_id and not tells(text, scored):
                said.setdefault(e.fact_id, text)
            if len(said) == self.shots:
                break
        return " ".join(said.values())
