"""`sequence.json`: what a sequence of deletion requests did to the model, step by step. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize.errors import RunError
from harmonize.tracking.metric import Metric, Metrics
from harmonize.tracking.results import read_json

SEQUENCE = "sequence.json"
SEQUENCE_TABLE = "sequence.md"
SEQUENCE_PLOT = "sequence.png"
SEQUENCE_VERSION = 1


@dataclass
class Measured:
    """Figures of one model.

    requests: Request id to metrics, each measured as if it were the forget set: `forget_*`, and where it has been asked
        for (or the model is no step of the sequence) `asr_*` and `answer_*`.
    kept: `retain_*`, `neighbor_*`, `utility_*`, and `answer_*` of the retain questions.
    """

    requests: dict[str, Metrics] = field(default_factory=dict)
    kept: Metrics = field(default_factory=dict)

    def value(self, request: str | None, name: str) -> float | None:
        """A metric of a request (None = of what is kept); None where it was not measured."""
        block = self.kept if request is None else self.requests.get(request, {})
        metric = block.get(name)
        return None if metric is None else metric.value


@dataclass
class Step:
    """The model after a request; step 0 is the untouched model.

    request: What was asked for last. folder: Of its run, within the sequence's folder. model: What was measured.
    measured: Its figures. seconds: Of the run, and of measuring the sequence's own figures.
    deviation, forget_degree, retain_utility: See `harmonize.evaluation.sequential`; None where not defined.
    """

    number: int
    request: str | None
    folder: str | None
    model: str
    measured: Measured
    seconds: dict[str, float] = field(default_factory=dict)
    deviation: float | None = None
    forget_degree: float | None = None
    retain_utility: float | None = None


@dataclass
class SequenceResults:
    """Everything a sequence reports.

    order: The requests. earlier: What later runs do with earlier requests (leave, forget).
    config: The resolved configuration. data: Content hash of the data set with all its requests.
    requests: Request id to counts of examples by split.
    steps: So far, from 0. gold: A model that never saw any request, or None.
    summaries: Name, value, direction, formula, source and evidence of each.
    """

    order: list[str]
    earlier: str
    config: dict[str, Any]
    seed: int
    data: str
    requests: dict[str, dict[str, int]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    gold: Measured | None = None
    summaries: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    git: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    path: Path = Path()

    def asked(self, number: int) -> list[str]:
        """The requests that have been asked for at a step."""
        return self.order[:number]

    def curve(self, request: str | None, name: str) -> list[float | None]:
        """A metric at every step so far."""
        return [step.measured.value(request, name) for step in self.steps]

    @property
    def complete(self) -> bool:
        """Whether every request has been forgotten and measured."""
        return len(self.steps) == len(self.order) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain containers in a stable key order."""
        return {
            "sequence_version": SEQUENCE_VERSION,
            "command": "sequence",
            "complete": self.complete,
            "seed": self.seed,
            "order": self.order,
            "earlier": self.earlier,
            "requests": self.requests,
            "summaries": self.summaries,
            "steps": [
                {
                    "number": s.number,
                    "request": s.request,
                    "asked": self.asked(s.number),
                    "folder": s.folder,
                    "model": s.model,
                    "deviation": s.deviation,
                    "forget_degree": s.forget_degree,
                    "retain_utility": s.retain_utility,
                    "seconds": s.seconds,
                    **_plain(s.measured),
                }
                for s in self.steps
            ],
            "gold": None if self.gold is None else _plain(self.gold),
            "notes": self.notes,
            "data": self.data,
            "git": self.git,
            "versions": self.versions,
            "hardware": self.hardware,
            "config": self.config,
        }

    @classmethod
    def from_dict(cls, data: Any, where: str = SEQUENCE) -> SequenceResults:
        """Reads and checks a sequence.

        Raises:
            RunError: Another version, a missing field or a wrong type; `where` names the file.
        """
        if not isinstance(data, dict) or not isinstance(data.get("sequence_version"), int):
            raise RunError(f"{where}: no sequence_version; this is not a sequence of harmonize.")
        if data["sequence_version"] != SEQUENCE_VERSION:
            raise RunError(
                f"{where}: version {data['sequence_version']}, but this version of harmonize reads {SEQUENCE_VERSION}. "
                "Run the sequence again with overwrite=true, or use the version of harmonize that wrote it."
            )
        try:
            steps = [
                Step(
                    number=s["number"],
                    request=s["request"],
                    folder=s["folder"],
                    model=s["model"],
                    measured=_measured(s, f"{where}: step {s['number']}"),
                    seconds=s["seconds"],
                    deviation=s["deviation"],
                    forget_degree=s["forget_degree"],
                    retain_utility=s["retain_utility"],
                )
                for s in data["steps"]
            ]
            gold = data["gold"]
            return cls(
                steps=steps,
                gold=None if gold is None else _measured(gold, f"{where}: gold"),
                **{key: data[key] for key in _COPIED},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{where}: damaged or incomplete ({error!r}). Run the sequence again: overwrite=true."
            ) from None


_COPIED = (
    "order", "earlier", "config", "seed", "data", "requests", "summaries", "notes", "git", "versions", "hardware",
)  # fmt: skip


def _plain(measured: Measured) -> dict[str, Any]:
    return {
        "requests": {r: {k: m.to_dict() for k, m in found.items()} for r, found in measured.requests.items()},
        "kept": {k: m.to_dict() for k, m in measured.kept.items()},
    }


def _measured(data: Mapping[str, Any], where: str) -> Measured:
    def block(found: Mapping[str, Any], at: str) -> Metrics:
        return {k: Metric.from_dict(m, f"{where}, {at}, {k}") for k, m in found.items()}

    return Measured(
        {r: block(found, f"request {r}") for r, found in data["requests"].items()},
        block(data["kept"], "kept"),
    )


def read_sequence(folder: str | Path) -> SequenceResults:
    """Reads the sequence of a folder.

    Raises:
        RunError: There is none, or it cannot be read.
    """
    path = Path(folder)
    if not (path / SEQUENCE).is_file():
        raise RunError(
            f"{path}: holds no sequence ({SEQUENCE}). A finished one prints its folder at the end."
        )
    found = SequenceResults.from_dict(read_json(path / SEQUENCE), str(path / SEQUENCE))
    found.path = path
    return found
