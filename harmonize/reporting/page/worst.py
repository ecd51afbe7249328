"""The questions that most runs fail: forget questions that still leak, others that are refused or answered wrongly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize.evaluation.pairing import LIKELIHOOD
from harmonize.evaluation.records import NO_ATTACK
from harmonize.reporting.study import Group, StudyRun
from harmonize.tracking.results import SAMPLES

BUDGET_BYTES = 250 * 2**20  # of samples: about four seconds
_LONGEST = 400  # characters of a text on the page


@dataclass
class Asked:
    """One example over the runs that were read: all its phrasings, all attacks on it.

    Attributes:
        example, role: Of the data set. trained: Used in unlearning.
        runs: That asked it.
        plain: Runs' mean score without an attack, summed. plain_runs: How many asked it so.
        leaked: Runs in which it leaked, attacked or not. refused: Sum over runs of the share of refusals, unattacked.
        attacks: Attack to the runs in which it made the answer come.
        question, reference, output: One leak, or one failure, as it was said; empty unless text was asked for.
        by: The row of the run that said it.
    """

    example: str
    role: str
    trained: bool
    runs: int = 0
    plain: float = 0.0
    plain_runs: int = 0
    leaked: int = 0
    refused: float = 0.0
    attacks: Counter[str] = field(default_factory=Counter)
    question: str = ""
    reference: str = ""
    prefill: str = ""
    output: str = ""
    by: str = ""

    @property
    def accuracy(self) -> float | None:
        """Mean score without an attack."""
        return self.plain / self.plain_runs if self.plain_runs else None

    @property
    def refusals(self) -> float:
        """Share of refusals without an attack."""
        return self.refused / self.plain_runs if self.plain_runs else 0.0


@dataclass
class Worst:
    """What the samples tell.

    Attributes:
        asked: By role, the worst first.
        read, lacking, beyond: Runs whose samples were read, that have none, that were left out for their size.
        broken: Files with lines that are no samples.
    """

    asked: dict[str, list[Asked]]
    read: int = 0
    lacking: int = 0
    beyond: int = 0
    broken: list[Path] = field(default_factory=list)


def worst(groups: Sequence[Group], with_text: bool, budget: int = BUDGET_BYTES) -> Worst:
    """Reads samples of the runs, one run of every row first, then the next, until `budget` bytes.

    Args:
        groups: Rows of one setting.
        with_text: Keep one failure of each question as it was said; else no text is kept.
        budget: A first run is read whatever its size.
    """
    found: dict[tuple[str, str], Asked] = {}
    result = Worst({})
    used = 0
    worlds = {run.seeds[1] for group in groups for run in group.runs}
    for label, run in _in_turn(groups):
        path = run.path / SAMPLES
        if not path.is_file():
            result.lacking += 1
            continue
        size = path.stat().st_size
        if result.read and used + size > budget:
            result.beyond += 1
            continue
        used += size
        result.read += 1
        world = f" (world {run.seeds[1]})" if len(worlds) > 1 else ""
        _one(label, world, path, found, with_text, result)
    for asked in found.values():
        result.asked.setdefault(asked.role, []).append(asked)
    for role, rows in result.asked.items():
        rows.sort(key=_forget_order if role == "forget" else _other_order)
    return result


def _in_turn(groups: Sequence[Group]) -> Iterator[tuple[str, StudyRun]]:
    for i in range(max((len(g.runs) for g in groups), default=0)):
        for group in groups:
            if i < len(group.runs):
                yield group.label, group.runs[i]


def _forget_order(asked: Asked) -> tuple[float, float, str]:
    return -asked.leaked / max(1, asked.runs), -(asked.accuracy or 0.0), asked.example


def _other_order(asked: Asked) -> tuple[float, float, str]:
    return (1.0 if asked.accuracy is None else asked.accuracy), -asked.refusals, asked.example


def _one(
    label: str, world: str, path: Path, found: dict[tuple[str, str], Asked], with_text: bool, result: Worst
) -> None:
    """Adds one run: shares are taken within the run first, so that every run counts alike."""
    plain: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    leaks: dict[tuple[str, str], set[str]] = {}
    for sample in _samples(path, result):
        role, example = sample.get("role"), sample.get("example_id")
        if not isinstance(role, str) or not isinstance(example, str):
            continue
        key = role, f"{example}{world}"  # another world's facts have the same ids
        asked = found.get(key)
        if asked is None:
            asked = found[key] = Asked(key[1], role, bool(sample.get("trained")))
        attack = str(sample.get("attack") or NO_ATTACK)
        if attack == LIKELIHOOD:  # the true answer's probability: nothing was said
            continue
        verdict, score = sample.get("verdict"), sample.get("score")
        failed = verdict != "correct"
        if role == "forget":
            failed = verdict == "correct" or bool(sample.get("said"))
            if failed:
                leaks.setdefault(key, set()).add(attack)
        if attack == NO_ATTACK and isinstance(score, int | float):
            plain.setdefault(key, []).append((float(score), verdict == "refused"))
        else:
            plain.setdefault(key, [])
        if with_text and failed and not asked.by:
            asked.by = label
            for name in ("question", "reference", "prefill", "output"):
                setattr(asked, name, str(sample.get(name) or "")[:_LONGEST])
            asked.question = str(sample.get("asked") or sample.get("question") or "")[:_LONGEST]
    for key, scores in plain.items():
        asked = found[key]
        asked.runs += 1
        if scores:
            asked.plain_runs += 1
            asked.plain += sum(s for s, _ in scores) / len(scores)
            asked.refused += sum(r for _, r in scores) / len(scores)
        if key in leaks:
            asked.leaked += 1
            asked.attacks.update(leaks[key])


def _samples(path: Path, result: Worst) -> Iterator[Mapping[str, Any]]:
    """Every sample; lines that are none are passed over and the file is named."""
    broken = False
    with path.open("rb") as lines:
        for line in lines:
            try:
                sample = json.loads(line)
            except (ValueError, RecursionError):
                sample = None
            if isinstance(sample, dict):
                yield sample
            elif line.strip():
                broken = True
    if broken:
        result.broken.append(path)
