"""A measured number with what is needed to judge it, and the names that every reader knows.

Standard library only, so that reading a study stays fast.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from harmonize.errors import RunError
from harmonize.tracking.direction import DOWN, UP, Better, Direction

# The five axes of the evaluation and the figures that belong to each, with their direction. Other names are allowed in
# a results file; each metric carries its own direction.
AXES: dict[str, dict[str, Direction]] = {
    "forget": {
        "forget_accuracy": DOWN,
        "forget_heldout_accuracy": DOWN,
        "relearn_accuracy": DOWN,
    },
    "retain": {"retain_accuracy": UP, "retain_refusal_rate": DOWN},
    "neighbor": {"neighbor_accuracy": UP, "neighbor_refusal_rate": DOWN},
    "asr": {
        "asr_opener": DOWN,
        "asr_answer_prefix": DOWN,
        "asr_worst": DOWN,
        "asr_heldout_worst": DOWN,
    },
    "utility": {"utility_accuracy": UP},
}
METRIC_NAMES: dict[str, Direction] = {name: way for axis in AXES.values() for name, way in axis.items()}
TRAINED_SUFFIX = "_trained"


def direction_of(name: str, default: Direction = UP) -> Direction:
    """Direction of a metric by name; `*_trained` (facts or subjects that were trained on) follow their plain
    name.
    """
    return METRIC_NAMES.get(name.removesuffix(TRAINED_SUFFIX), default)


@dataclass(frozen=True)
class Metric:
    """One number with what is needed to judge it.

    value: The estimate, or None where it could not be measured.
    n: Number of scored items behind it.
    ci_low, ci_high: Interval (clustered by subject), or None.
    higher_is_better: Direction, where `best` is None.
    stderr: Standard error, where a benchmark's own tool states one.
    best: The best value, where it lies within the scale (0.5 for the area of a membership attack).
    """

    value: float | None
    n: int
    ci_low: float | None = None
    ci_high: float | None = None
    higher_is_better: bool = True
    stderr: float | None = None
    best: float | None = None

    @classmethod
    def of(
        cls,
        value: float | None,
        n: int,
        ci_low: float | None = None,
        ci_high: float | None = None,
        *,
        better: Better,
    ) -> Metric:
        """A metric by the direction that it is declared with."""
        way = Direction.of(better)
        best = way.best if math.isfinite(way.best) else None
        return cls(value, n, ci_low, ci_high, way == UP, best=best)

    @property
    def direction(self) -> Direction:
        """Where better lies."""
        return Direction.of(self.higher_is_better) if self.best is None else Direction(self.best)

    def to_dict(self) -> dict[str, Any]:
        """As written to `results.json`."""
        return {k: v for k, v in asdict(self).items() if k not in _OPTIONAL or v is not None}

    @classmethod
    def from_dict(cls, data: Any, where: str = "metric") -> Metric:
        """Reads and checks one metric.

        Raises:
            RunError: A missing key or a wrong type; `where` names the file and the field.
        """
        if not isinstance(data, dict):
            raise RunError(f"{where}: expected an object with value, n, ci_low, ci_high, higher_is_better.")
        missing = [key for key in ("value", "n", "higher_is_better") if key not in data]
        if missing:
            raise RunError(f"{where}: missing {', '.join(missing)}.")
        for key in _NUMBERS:
            number = data.get(key)
            if number is not None and not (_is_number(number) and math.isfinite(number)):
                raise RunError(f"{where}.{key}: expected a finite number or null, found {number!r}.")
        n = data["n"]
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise RunError(f"{where}.n: expected a whole number >= 0, found {n!r}.")
        if not isinstance(data["higher_is_better"], bool):
            raise RunError(
                f"{where}.higher_is_better: expected true or false, found {data['higher_is_better']!r}."
            )
        return cls(**{key: data[key] for key in _KEYS if key in data})


_NUMBERS = ("value", "ci_low", "ci_high", "stderr", "best")
_KEYS = (*_NUMBERS, "n", "higher_is_better")
_OPTIONAL = ("stderr", "best")  # written where there is one
Metrics = dict[str, Metric]


def _is_number(value: Any) -> bool:
    return type(value) is float or (isinstance(value, int | float) and not isinstance(value, bool))
