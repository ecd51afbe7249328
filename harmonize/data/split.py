"""Splits by subject: what is reported (test) was used neither in unlearning (train) nor for choosing (val)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harmonize.data.corpus import content_hash
from harmonize.data.example import ROLES, Example, Role, Split
from harmonize.errors import DataError, did_you_mean

Shares = Mapping[str, float]
SPLITS: tuple[Split, ...] = (Split.TRAIN, Split.VAL, Split.TEST)

# A deletion request names all of what must go, so all of it is trained on; the subjects of the other roles
# stand for many that the request never names, so some are kept for measuring. Our choice.
DEFAULT_SHARES: dict[str, dict[str, float]] = {
    "forget": {"train": 1.0, "val": 0.0, "test": 0.0},
    "neighbor": {"train": 0.6, "val": 0.1, "test": 0.3},
    "retain": {"train": 0.6, "val": 0.1, "test": 0.3},
    "general": {"train": 0.0, "val": 0.3, "test": 0.7},
}
# Where two remainders tie, training is served first, then reporting.
_TIE_ORDER = {Split.TRAIN: 0, Split.TEST: 1, Split.VAL: 2}


def resolve_shares(given: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Shares per role: the defaults with what is given laid over them.

    Args:
        given: role -> mapping (or object) with any of train, val, test. A role's shares that are
            given must sum to 1 with the ones that are left out counting as 0.

    Raises:
        DataError: An unknown role or split, a share outside [0, 1], or shares that do not sum to 1.
    """
    shares = {role: dict(values) for role, values in DEFAULT_SHARES.items()}
    for role, values in (given or {}).items():
        if role not in shares:
            raise DataError(f"dataset.split: unknown role '{role}'. {did_you_mean(str(role), list(shares))}")
        if values is None:
            continue
        if not isinstance(values, Mapping):
            values = {s: getattr(values, s) for s in map(str, SPLITS)}
        unknown = [str(k) for k in values if k not in tuple(SPLITS)]
        if unknown:
            raise DataError(
                f"dataset.split.{role}: unknown split '{unknown[0]}'. {did_you_mean(unknown[0], list(SPLITS))}"
            )
        shares[role] = {str(s): float(values.get(s, 0.0)) for s in SPLITS}
        total = sum(shares[role].values())
        if min(shares[role].values()) < 0 or abs(total - 1) > 1e-6:
            shown = ", ".join(f"{s}: {v:g}" for s, v in shares[role].items())
            raise DataError(
                f"dataset.split.{role}: shares must be between 0 and 1 and sum to 1, found {{{shown}}}. "
                f"For example dataset.split.{role}={{train: 0.6, val: 0.1, test: 0.3}}"
            )
    return shares


def assign(
    examples: Sequence[Example], shares: Mapping[str, Any] | None = None, seed: int = 0
) -> list[Example]:
    """The examples with a split each; all examples of a role and subject share one.

    Subjects are ordered by a hash of seed and subject, so the order of files and lines is irrelevant.
    Counts per split follow the largest-remainder rule. A split written in the data wins for its whole
    subject and counts towards the shares.

    Args:
        examples: Any roles, in any order; the order is kept.
        shares: See `resolve_shares`.
        seed: Another order of subjects.

    Raises:
        DataError: Contradicting splits in the data, a general example in train, or a role whose
            training split ends up without subjects although its share is positive (forget: always).
    """
    resolved = resolve_shares(shares)
    chosen: dict[tuple[Role, str], Split] = {}
    for role in ROLES:
        own = [e for e in examples if e.role == role]
        if not own:
            continue
        splits = _assign_role(role, own, resolved[role], seed)
        if Split.TRAIN not in splits.values() and (
            role == Role.FORGET or (role != Role.GENERAL and resolved[role]["train"] > 0)
        ):
            raise DataError(
                f"No {role} subject is left for training: {len(splits)} subject(s), train share "
                f"{resolved[role]['train']:g}. Add subjects, or set "
                f"dataset.split.{role}={{train: 1, val: 0, test: 0}}"
            )
        chosen.update({(role, subject): split for subject, split in splits.items()})
    return [replace(e, split=str(chosen[e.role, e.subject])) for e in examples]


def describe(examples: Iterable[Example]) -> dict[str, dict[str, dict[str, int]]]:
    """Counts as role -> split -> {examples, facts, subjects}, for roles and splits that occur."""
    found: dict[str, dict[str, dict[str, set[str]]]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for e in examples:
        cell = found.setdefault(str(e.role), {}).setdefault(e.split, {"facts": set(), "subjects": set()})
        cell["facts"].add(e.fact_id)
        cell["subjects"].add(e.subject)
        counts[str(e.role), e.split] += 1
    return {
        str(role): {
            str(split): {"examples": counts[role, split], **{k: len(v) for k, v in cells[split].items()}}
            for split in ("", *SPLITS)
            if split in cells
        }
        for role in ROLES
        if (cells := found.get(str(role)))
    }


def split_notes(examples: Sequence[Example]) -> tuple[str, ...]:
    """What a user should know about assigned splits: subjects in two roles, roles without val or test."""
    notes: list[str] = []
    roles_of: dict[str, set[Role]] = {}
    for e in examples:
        roles_of.setdefault(e.subject, set()).add(e.role)
    shared = sorted(s for s, roles in roles_of.items() if Role.FORGET in roles and len(roles) > 1)
    if shared:
        names = ", ".join(f"'{s}'" for s in shared[:3]) + (", ..." if len(shared) > 3 else "")
        notes.append(
            f"{len(shared)} subject(s) are in forget and in another role ({names}): each role splits them by "
            "itself, so held-out figures may concern a subject that was trained on in the other role."
        )
    for role in (Role.NEIGHBOR, Role.RETAIN):
        splits = {e.split for e in examples if e.role == role}
        if splits and Split.TEST not in splits:
            notes.append(f"No held-out {role} subjects: {role} is measured only on what was trained on.")
        if splits and Split.VAL not in splits:
            retained = any(e.role == Role.RETAIN and e.split == Split.VAL for e in examples)
            instead = "looks at retain instead" if retained else f"cannot look at {role}"
            notes.append(f"No {role} subjects for choosing (val): keep-best {instead}.")
    return tuple(notes)


def _assign_role(role: Role, examples: Sequence[Example], shares: Shares, seed: int) -> dict[str, Split]:
    fixed: dict[str, Split] = {}
    for e in examples:
        if not e.split:
            continue
        split = Split(e.split)
        if role == Role.GENERAL and split == Split.TRAIN:
            raise DataError(f"Example '{e.id}': general examples measure utility and are never trained on.")
        if fixed.setdefault(e.subject, split) != split:
            raise DataError(
                f"Subject '{e.subject}' ({role}) is in split '{fixed[e.subject]}' and, by example '{e.id}', in "
                f"'{split}'. A subject has one split: make them equal or remove the field."
            )
    free = sorted({e.subject for e in examples} - fixed.keys(), key=lambda s: content_hash("split", seed, s))
    # What the written splits leave over of each split's due, as shares of the free subjects.
    due = largest_remainder(len(free) + len(fixed), shares)
    left = {s: float(max(0, due[s] - list(fixed.values()).count(s))) for s in SPLITS}
    counts = largest_remainder(len(free), left) if fixed else due
    result = dict(fixed)
    position = 0
    for split in SPLITS:
        for subject in free[position : position + counts[split]]:
            result[subject] = split
        position += counts[split]
    return result


def largest_remainder(n: int, shares: Mapping[Any, float]) -> dict[Split, int]:
    """`n` split into whole counts in proportion to `shares` (largest-remainder rule)."""
    total = sum(shares.get(s, 0.0) for s in SPLITS)
    if n == 0 or total <= 0:
        return dict.fromkeys(SPLITS, 0)
    # Rounded, so that a share such as 0.1 + 0.2 does not win by its last bit.
    exact = {s: round(n * shares.get(s, 0.0) / total, 9) for s in SPLITS}
    counts = {s: int(exact[s]) for s in SPLITS}
    by_remainder = sorted(SPLITS, key=lambda s: (-round(exact[s] - counts[s], 9), _TIE_ORDER[s]))
    for split in by_remainder[: n - sum(counts.values())]:
        counts[split] += 1
    return counts
