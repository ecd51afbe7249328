"""A data set as the rest of the package sees it: examples of all roles and splits, plus what comes with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from harmonize.data.example import Dialogue, Example, Role, Split


@dataclass(frozen=True)
class Corpus:
    """What a dataset reader returns.

    Attributes:
        name: Data set name, as in the config group.
        examples: Every example, split assigned.
        openers: Affirmative openers that may be trained on as prefills.
        openers_heldout: Affirmative openers kept for evaluation.
        refusals: Refusal texts, targets of `refusal_sft` and known to the refusal detector.
        instructions: Teacher instructions that fit this data; the first is the default.
        scoring: `contains` (the value is said) or `rouge` (ROUGE-L recall of the answer).
        dialogues: Texts for `harmonize finetune`; with `without_forget` those of a gold model.
        gold_dialogues: The same without anything that states a forget fact.
        notes: Costs of what is missing, in sentences for the user.
        training: What unlearning trains on, where that is not the train split of `examples` as it stands but the
            same facts in another rendering; measuring always asks `examples`.
        wordings: The instructions before `{subjects}` was replaced by the names of forget subjects; empty where they
            name none. Not part of the content, which has them filled in.
    """

    name: str
    examples: tuple[Example, ...]
    openers: tuple[str, ...] = ()
    openers_heldout: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()
    scoring: str = "contains"
    dialogues: tuple[Dialogue, ...] = ()
    gold_dialogues: tuple[Dialogue, ...] = ()
    notes: tuple[str, ...] = field(default=())
    training: tuple[Example, ...] = ()
    wordings: tuple[str, ...] = ()

    def select(self, role: Role | str | None = None, split: Split | str | None = None) -> tuple[Example, ...]:
        """Examples of a role and split (None = any), in file order."""
        return tuple(
            e
            for e in self.examples
            if (role is None or e.role == role) and (split is None or e.split == split)
        )

    def trained(self, role: Role | str) -> tuple[Example, ...]:
        """What unlearning trains on of a role, in file order."""
        if not self.training:
            return self.select(role, Split.TRAIN)
        return tuple(e for e in self.training if e.role == role)

    def facts(self, role: Role | str, split: Split | str | None = None) -> tuple[Example, ...]:
        """One example per fact: the first of each `fact_id`."""
        seen: dict[str, Example] = {}
        for example in self.select(role, split):
            seen.setdefault(example.fact_id, example)
        return tuple(seen.values())

    @cached_property
    def digest(self) -> str:
        """Content hash over every example and every text that comes with the data; taken once."""
        return content_hash(
            listed(self.examples),
            self.openers,
            self.openers_heldout,
            self.refusals,
            self.instructions,
            listed(self.dialogues),
            listed(self.gold_dialogues),
            *([listed(self.training)] if self.training else []),
        )


def digests(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """For each role: how many examples, how many of them used in unlearning, how many subjects, and their SHA-256."""
    found = {}
    for role in dict.fromkeys(str(e.role) for e in corpus.examples):
        own = [e for e in corpus.examples if e.role == role]
        found[role] = {
            "examples": len(own),
            "trained": len(corpus.trained(role)),
            "subjects": len({e.subject for e in own}),
            "sha256": content_hash(listed(own)),
        }
    return found


def listed(records: Sequence[Example] | Sequence[Dialogue]) -> list[dict[str, Any]]:
    """Records as `dataclasses.asdict` gives them, not copied: to be written or hashed, in a fifth of the time."""
    names = [f.name for f in fields(records[0])] if records else []
    return [{name: getattr(record, name) for name in names} for record in records]


def content_hash(*parts: object) -> str:
    """SHA-256 of JSON-serialisable parts, as 64 hex digits; the one content key of the package."""
    digest = hashlib.sha256()
    for part in parts:
        text = json.dumps(part, sort_keys=True, ensure_ascii=True, default=_plain)
        digest.update(text.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Iterable):
        return list(value)
    return str(value)
