"""`results.json`: one self-describing file per run, and how it is read back.

Results are data before they are tables: everything a table, a plot or a later reader needs is in this file,
with the resolved configuration, seed, versions and hardware beside the numbers. Standard library only, so
that reading a study stays fast.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize.errors import RunError
from harmonize.tracking.files import write_text
from harmonize.tracking.metric import Metric, Metrics

SCHEMA_VERSION = 1
RESULTS = "results.json"
STATUS = "status.json"
CONFIG = "config.yaml"
SAMPLES = "samples.jsonl"
CURVES = "curves"  # under `extra`: model -> curve -> panel, x and points of x, value, interval and n

RUN_STATES = ("running", "done", "failed", "interrupted", "rejected")


@dataclass
class Results:
    """Everything a run reports.

    config: The resolved configuration as plain containers. seed: The run's seed.
    git: {commit, dirty} or None outside a repository. versions: Library -> version. hardware: CPU, memory,
        devices.
    timing: Seconds by part (`total` and whatever parts the command times). peak_memory_bytes: Highest
        resident (or device) memory.
    metrics: The unlearned model. target_metrics, teacher_metrics, gold_metrics: The untouched model, the
        instructed teacher, and a model never trained on the forget set; None where not measured.
    outcomes: Shares of correct, refused, wrong and degenerate answers, by axis (and by model where it has
        several).
    notes: Sentences a reader should see (warnings about the teacher, what a missing role costs, ...).
    status: The run's state when the file was written.
    """

    config: dict[str, Any]
    seed: int
    metrics: Metrics
    target_metrics: Metrics | None = None
    teacher_metrics: Metrics | None = None
    gold_metrics: Metrics | None = None
    outcomes: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    git: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    status: str = "done"
    command: str = "unlearn"
    extra: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain containers in a stable key order."""
        metric_blocks = {
            name: None if block is None else {key: metric.to_dict() for key, metric in block.items()}
            for name in _METRIC_BLOCKS
            for block in [getattr(self, name)]
        }
        head = {
            "schema_version": self.schema_version,
            "command": self.command,
            "status": self.status,
            "seed": self.seed,
        }
        tail = {
            "outcomes": self.outcomes,
            "notes": self.notes,
            "timing": self.timing,
            "peak_memory_bytes": self.peak_memory_bytes,
            "git": self.git,
            "versions": self.versions,
            "hardware": self.hardware,
            "config": self.config,
            "extra": self.extra,
        }
        return head | metric_blocks | tail

    @classmethod
    def from_dict(cls, data: Any, where: str = RESULTS) -> Results:
        """Reads and checks a results object.

        Raises:
            RunError: Another schema version, a missing field or a wrong type; `where` names the file.
        """
        if not isinstance(data, dict):
            raise RunError(f"{where}: expected a JSON object.")
        _check_version(data.get("schema_version"), where)
        missing = [key for key in _REQUIRED if key not in data]
        if missing:
            raise RunError(f"{where}: missing field {', '.join(missing)}.")
        for key, (kinds, words) in _KINDS.items():
            value = data.get(key)
            if key in data and (not isinstance(value, kinds) or (isinstance(value, bool))):
                raise RunError(f"{where}: field '{key}': expected {words}, found {type(value).__name__}.")
        for key, value in data.get("timing", {}).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RunError(f"{where}: field 'timing.{key}': expected seconds, found {value!r}.")
        blocks: dict[str, Metrics | None] = {
            name: _metrics(data.get(name), f"{where}: field '{name}'") for name in _METRIC_BLOCKS
        }
        plain = {key: data[key] for key in _KINDS if key in data and key not in _METRIC_BLOCKS}
        return cls(
            metrics=blocks["metrics"] or {},
            target_metrics=blocks["target_metrics"],
            teacher_metrics=blocks["teacher_metrics"],
            gold_metrics=blocks["gold_metrics"],
            **plain,
        )


_METRIC_BLOCKS = ("metrics", "target_metrics", "teacher_metrics", "gold_metrics")
_REQUIRED = ("config", "seed", "metrics")
_NONE = type(None)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "config": ((dict,), "an object"),
    "seed": ((int,), "a whole number"),
    "metrics": ((dict,), "an object"),
    "target_metrics": ((dict, _NONE), "an object or null"),
    "teacher_metrics": ((dict, _NONE), "an object or null"),
    "gold_metrics": ((dict, _NONE), "an object or null"),
    "outcomes": ((dict,), "an object"),
    "notes": ((list,), "a list"),
    "git": ((dict, _NONE), "an object or null"),
    "versions": ((dict,), "an object"),
    "hardware": ((dict,), "an object"),
    "timing": ((dict,), "an object"),
    "peak_memory_bytes": ((int, _NONE), "a whole number or null"),
    "status": ((str,), "text"),
    "command": ((str,), "text"),
    "extra": ((dict,), "an object"),
    "schema_version": ((int,), "a whole number"),
}


def _metrics(block: Any, where: str) -> Metrics | None:
    if block is None:
        return None
    return {name: Metric.from_dict(value, f"{where}.{name}") for name, value in block.items()}


def _check_version(version: Any, where: str) -> None:
    if isinstance(version, bool) or not isinstance(version, int):
        raise RunError(f"{where}: no schema_version; this is not a results file of harmonize.")
    if version < SCHEMA_VERSION:
        raise RunError(
            f"{where}: schema version {version} is older than {SCHEMA_VERSION}, the one this version reads. "
            f"Evaluate the model again: harmonize evaluate model=hf model.name_or_path={Path(where).parent / 'model'}"
        )
    if version > SCHEMA_VERSION:
        raise RunError(
            f"{where}: schema version {version} is newer than {SCHEMA_VERSION}, the one this version reads. "
            "Update harmonize."
        )


def build_results(
    *,
    config: Mapping[str, Any],
    seed: int,
    metrics: Mapping[str, Metric],
    target_metrics: Mapping[str, Metric] | None = None,
    teacher_metrics: Mapping[str, Metric] | None = None,
    gold_metrics: Mapping[str, Metric] | None = None,
    outcomes: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    timing: Mapping[str, float] | None = None,
    peak_memory_bytes: int | None = None,
    command: str = "unlearn",
    **extra: Any,
) -> Results:
    """A run's results with the state of code, libraries and machine added; further names go to `extra`."""
    from harmonize.tracking import environment

    def block(found: Mapping[str, Metric] | None) -> Metrics | None:
        return dict(found) if found else None  # measured nothing: not measured

    return Results(
        config=plain(config),
        seed=seed,
        metrics=dict(metrics),
        target_metrics=block(target_metrics),
        teacher_metrics=block(teacher_metrics),
        gold_metrics=block(gold_metrics),
        outcomes=plain(outcomes or {}),
        notes=list(notes),
        timing=dict(timing or {}),
        peak_memory_bytes=peak_memory_bytes or environment.peak_memory_bytes(),
        git=environment.git_state(),
        versions=environment.versions(),
        hardware=environment.hardware(),
        command=command,
        extra=plain(extra),
    )


def plain(value: Any) -> Any:
    """`value` as JSON containers: tuples become lists, paths and enums text, numbers that are not finite
    None.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if isinstance(value, bool) or value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):  # a number of numpy or torch
        return plain(value.item())
    return str(value)


def write_results(path: str | Path, results: Results) -> Path:
    """Writes `results` (atomic, mode 0600) to `path`, a file or a run folder; returns the file.

    Raises:
        RunError: The results would not read back, or the disk is full or unwritable.
    """
    path = Path(path)
    target = path / RESULTS if path.is_dir() else path
    data = plain(results.to_dict())
    Results.from_dict(data, str(target))  # what is written can be read
    return write_text(target, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_results(path: str | Path) -> Results:
    """Reads a results file.

    Raises:
        RunError: No such file, not JSON, another schema version, or a field that is missing or wrong.
    """
    return Results.from_dict(read_json(path), str(path))


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        RunError: It cannot be read, or is not JSON (names the line).
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RunError(f"{path}: cannot be read ({reason}).") from error
    except json.JSONDecodeError as error:
        raise RunError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from error
    except RecursionError as error:
        raise RunError(f"{path}: nested too deeply to be a results file.") from error


@dataclass
class Run:
    """A run folder read back. `samples()` reads `samples.jsonl` lazily."""

    path: Path
    status: dict[str, Any]
    results: Results

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self.results.config

    @property
    def metrics(self) -> Metrics:
        """The unlearned model's metrics."""
        return self.results.metrics

    @property
    def samples_path(self) -> Path:
        """Where every prompt, answer and verdict is written."""
        return self.path / SAMPLES

    def samples(self) -> Iterator[dict[str, Any]]:
        """Every prompt, answer and verdict of the evaluation, one at a time.

        Raises:
            RunError: No samples file, or a malformed line (names the line).
        """
        if not self.samples_path.is_file():
            raise RunError(f"{self.samples_path}: no samples; the run wrote none, or they were purged.")
        with self.samples_path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except json.JSONDecodeError as error:
                        raise RunError(
                            f"{self.samples_path}, line {number}: not valid JSON ({error.msg})."
                        ) from error


def read_run(folder: str | Path) -> Run:
    """Reads a run folder (status and results now, samples when asked for).

    Raises:
        RunError: The folder, or its results, cannot be read; a run without results is told with its state.
    """
    path = Path(folder)
    if not path.is_dir():
        raise RunError(f"{path}: no such run folder. A finished run prints its folder at the end.")
    status: dict[str, Any] = {}
    if (path / STATUS).is_file():
        found = read_json(path / STATUS)
        status = found if isinstance(found, dict) else {}
    if not (path / RESULTS).is_file():
        state = status.get("state")
        if state is None:
            raise RunError(f"{path}: not a run folder (no {RESULTS}, no {STATUS}).")
        raise RunError(f"{path}: no {RESULTS}; the run is '{state}'. {status.get('error') or ''}".rstrip())
    return Run(path=path, status=status, results=read_results(path / RESULTS))
