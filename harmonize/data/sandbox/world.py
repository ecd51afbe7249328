"""Draws a world: who exists, what is true of them, and which subjects are held out.

Every draw is a hash of the world seed and a name, so no draw depends on another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from harmonize.data.sandbox import grammar
from harmonize.data.sandbox.presets import Domain, Preset

T = TypeVar("T")


def number(*key: object) -> int:
    """A 64-bit number that is a pure function of `key`, the same on every platform and version."""
    text = "\x1f".join(map(str, key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def pick(items: Sequence[T], *key: object) -> T:
    """One of `items`, decided by `key`."""
    return items[number(*key) % len(items)]


def shuffled(items: Sequence[T], *key: object) -> list[T]:
    """`items` in an order decided by `key`."""
    order = sorted(range(len(items)), key=lambda i: number(*key, i))
    return [items[i] for i in order]


@dataclass(frozen=True)
class Subject:
    """Someone of a domain. `shares_with` is the forget subject with a name part in common, if any."""

    index: int
    name: str
    domain: Domain
    split: str
    shares_with: int | None = None


@dataclass(frozen=True)
class Fact:
    """A relation of a subject and its value."""

    subject: Subject
    relation: grammar.Relation
    value: str

    @property
    def id(self) -> str:
        """Unique within the world."""
        return f"{self.subject.domain.name}-{self.subject.index:02d}-{self.relation.word}"

    def fill(self, form: str) -> str:
        """A sentence form with this fact's words."""
        return form.format(
            k=self.relation.word,
            y=self.relation.synonym,
            s=self.subject.name,
            v=self.value,
            d=self.subject.domain.name,
        )


@dataclass(frozen=True)
class World:
    """All subjects and facts of a preset and seed, and the general knowledge: (thing, attribute) -> value."""

    preset: Preset
    seed: int
    subjects: tuple[Subject, ...]
    facts: tuple[Fact, ...]
    general: dict[tuple[str, str], str]


def draw(preset: Preset, seed: int) -> World:
    """Draws the world of `seed`: a pure function of its arguments."""
    subjects = _subjects(preset, seed)
    facts: list[Fact] = []
    values = [""]
    for part in preset.value_parts:
        values = [f"{head} {tail}".strip() for head in values for tail in part]
    for domain in preset.domains:
        members = [s for s in subjects if s.domain == domain]
        drawn = {r: shuffled(values, seed, "values", domain.name, r) for r in domain.relations}
        facts.extend(
            Fact(s, grammar.RELATIONS[r], drawn[r][s.index]) for s in members for r in domain.relations
        )
    general = {
        (thing, attribute): pick(options, seed, "general", thing, attribute)
        for thing in grammar.THINGS[: preset.things]
        for attribute, options in grammar.ATTRIBUTES.items()
    }
    return World(preset, seed, tuple(subjects), tuple(facts), general)


def split_sizes(n: int) -> tuple[int, int, int]:
    """How many of `n` subjects are for train, val and test (60 / 10 / 30 %)."""
    train, val = round(0.6 * n), max(1, round(0.1 * n))
    return train, val, n - train - val


def _subjects(preset: Preset, seed: int) -> list[Subject]:
    first = iter(shuffled(grammar.FIRST_NAMES, seed, "first"))
    last = iter(shuffled(grammar.LAST_NAMES, seed, "last"))
    n = preset.subjects
    forget: list[Subject] = []
    subjects: list[Subject] = []
    for domain in preset.domains:
        train, val, test = split_sizes(n)
        splits = shuffled(["train"] * train + ["val"] * val + ["test"] * test, seed, "split", domain.name)
        sharing = shuffled(range(n), seed, "overlap", domain.name)[: round(preset.overlap * n)]
        partners = shuffled(range(n), seed, "partner", domain.name)
        for i in range(n):
            shares_with = None
            if domain.role == "neighbor" and i in sharing:
                shares_with = partners[i]
                theirs = forget[shares_with].name.split()
                half = sharing.index(i) % 2
                name = f"{theirs[0]} {next(last)}" if half == 0 else f"{next(first)} {theirs[1]}"
            else:
                name = f"{next(first)} {next(last)}"
            subjects.append(Subject(i, name, domain, splits[i], shares_with))
        if domain.role == "forget":
            forget = subjects[-n:]
    return subjects
