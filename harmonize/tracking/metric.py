"""A measured number with what is needed to judge it, and the names that every reader knows.

Standard library only, so that reading a study stays fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harmonize.errors import RunError

# The five axes of the evaluation and the figures that belong to each, with their direction (True: higher is
# better). Other names are allowed in a results file; each metric carries its own direction.
AXES: dict[str, dict[str, bool]] = {
    "forget": {
        "forget_accuracy": False,
        "forget_heldout_accuracy": False,
        "relearn_accuracy": False,
    },
    "retain": {"retain_accuracy": True, "retain_refusal_rate": False},
    "neighbor": {"neighbor_accuracy": True, "neighbor_refusal_rate": False},
    "asr": {
        "asr_opener": False,
        "asr_answer_prefix": False,
        "asr_worst": False,
        "asr_heldout_worst": False,
    },
    "utility": {"utility_accuracy": True},
}
METRIC_NAMES: dict[str, bool] = {name: up for axis in AXES.values() for name, up in axis.items()}
TRAINED_SUFFIX = "_trained"


def higher_is_better(name: str, default: bool = True) -> bool:
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
    higher_is_better: Direction.
    stderr: Standard error, where a benchmark's own tool states one.
    """

    value: float | None
    n: int
    ci_low: float | None = None
    ci_high: float | None = None
    higher_is_better: bool = True
    stderr: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As written to `results.json`."""
        return {k: v for k, v in asdict(self).items() if k != "stderr" or v is not None}

    @classmethod
    def from_dict(cls, data: Any, where: str = "metric") -> Metric:
        """Reads and checks one metric.

        Raises:
            RunError: A missing key or a wrong type; `where` names the file and the field.
        """
        if not isinstance(data, Mapping):
            raise RunError(f"{where}: expected an object with value, n, ci_low, ci_high, higher_is_better.")
        missing = [key for key in ("value", "n", "higher_is_better") if key not in data]
        if missing:
            raise RunError(f"{where}: missing {', '.join(missing)}.")
        for key in ("value", "ci_low", "ci_high", "stderr"):
            number = data.get(key)
            if number is not None and (
                isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number)
            ):
                raise RunError(f"{where}.{key}: expected a finite number or null, found {number!r}.")
        n = data["n"]
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise RunError(f"{where}.n: expected a whole number >= 0, found {n!r}.")
        if not isinstance(data["higher_is_better"], bool):
            raise RunError(
                f"{where}.higher_is_better: expected true or false, found {data['higher_is_better']!r}."
            )
        return cls(
            value=data["value"],
            n=n,
            ci_low=data.get("ci_low"),
            ci_high=data.get("ci_high"),
            higher_is_better=data["higher_is_better"],
            stderr=data.get("stderr"),
        )


Metrics = dict[str, Metric]
