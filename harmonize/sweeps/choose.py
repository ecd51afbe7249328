"""What tuning chooses, and how it is recorded: the rule of keep-best, over all worlds and seeds of a round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harmonize.evaluation.selection import select_score, shortfall
from harmonize.tracking.results import Results


@dataclass(frozen=True)
class Verdict:
    """How one candidate did in one round, on val.

    Attributes:
        trial: Its number.
        shortfall: Mean over runs of how far neighbor accuracy and utility lie below their floors; 0 = within.
        score: Mean over runs of forget + ASR; lower is better.
        runs: Runs behind it. A run that failed counts as the worst there is.
    """

    trial: int
    shortfall: float
    score: float
    runs: int


def judge(trial: int, results: Sequence[Results | None]) -> Verdict:
    """The verdict on one candidate from its runs of a round; None stands for a run that failed."""
    short, score = [], []
    for found in results:
        if found is None:
            short.append(math.inf)
            score.append(math.inf)
            continue
        trainer = found.config["trainer"]
        floors = (float(trainer["neighbor_floor"]), float(trainer["utility_floor"]))
        target = found.target_metrics or {}
        short.append(shortfall(found.metrics, target, *floors))
        score.append(select_score(found.metrics, target, *floors)[1])
    return Verdict(trial, statistics.fmean(short), statistics.fmean(score), len(results))


def ranked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Best first: by shortfall below the floors, then by score, then as listed in the file.

    A candidate within all floors precedes any that is not, so where one exists this is the rule of keep-best; where
    none does, the one that keeps most is taken, not the one that destroys most.
    """
    return sorted(verdicts, key=lambda v: (round(v.shortfall, 6), round(v.score, 6), v.trial))


def record(
    sweep: str,
    commit: str | None,
    rounds: Sequence[Mapping[str, Sequence[Verdict]]],
    trials: Mapping[str, Any],
) -> dict[str, Any]:
    """What was tried and chosen, as plain containers."""
    chosen = {method: ranked(verdicts)[0] for method, verdicts in rounds[-1].items()} if rounds else {}
    return {
        "sweep": sweep,
        "commit": commit,
        "rule": "least shortfall below the floors on neighbor and utility, then lowest forget + ASR, on val",
        "chosen": {
            method: {"overrides": trials[method][v.trial], **_plain(v)} for method, v in chosen.items()
        },
        "rounds": [
            {method: [_plain(v) for v in ranked(verdicts)] for method, verdicts in part.items()}
            for part in rounds
        ],
    }


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(verdict).items()
    }
