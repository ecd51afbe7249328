"""Which runs of a study are of an experiment, and which of its runs are missing.

Read off the runs' own configurations: a run fits a job where it has every value that the job's overrides set. Nothing
is composed, so a study of a thousand runs is sorted at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harmonize.reporting.study import StudyRun, is_ignored
from harmonize.sweeps.plan import Job

_GONE = object()  # a key that the job removes
# Groups whose options leave no name in the configuration, or only say where a run goes.
_UNTOLD = ("tuned", "experiment", "hparams_search", "debug", "logger", "hydra")


def demands(job: Job) -> dict[str, Any]:
    """What a job's overrides say of the resolved configuration: key to value, a group's option under `<group>.name`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    found: dict[str, Any] = {}
    for text in job.overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            continue  # composing says what is wrong with it
        key = str(override.key_or_group)
        root = key.split(".")[0].split("@")[0]
        if root in _UNTOLD or is_ignored(key, seeds=False):
            continue
        if override.is_delete():
            found[key] = _GONE
            continue
        value = override.value()
        found[key] = value.text if isinstance(value, QuotedString) else value
    return found


def fits(flat: Mapping[str, str], wanted: Mapping[str, Any]) -> bool:
    """Whether a flattened configuration has what a job demands. Of a key that it does not have nothing is known."""
    for key, value in wanted.items():
        if value is _GONE:
            if any(k == key or k.startswith(f"{key}.") for k in flat):
                return False
        elif key in flat or f"{key}.name" in flat:
            own = _plain(flat[key] if key in flat else flat[f"{key}.name"])
            if not _same(own, value):
                return False
    return True


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _same(own: Any, wanted: Any) -> bool:
    numbers = [v for v in (own, wanted) if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == 2:
        return float(own) == float(wanted)
    if isinstance(own, list) and isinstance(wanted, list):
        return len(own) == len(wanted) and all(map(_same, own, wanted))
    if isinstance(own, bool) or isinstance(wanted, bool) or own is None or wanted is None:
        return own is wanted
    return str(own) == str(wanted)


def job_of(run: StudyRun, wanted: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of the job that a run is of: of those that it fits the one that it shows most of; None if none."""
    fitting = [i for i, demand in enumerate(wanted) if fits(run.flat, demand)]
    return max(fitting, key=lambda i: _shown(run.flat, wanted[i]), default=None)


def _shown(flat: Mapping[str, str], wanted: Mapping[str, Any]) -> int:
    """How many of a fitting job's demands the configuration shows; the others are of keys that it does not have."""
    return sum(value is _GONE or key in flat or f"{key}.name" in flat for key, value in wanted.items())


def missing_note(name: str, jobs: Sequence[Job], there: set[int], most: int = 4) -> str:
    """A sentence on the jobs without a run; empty where all are there."""
    lacking = [job for i, job in enumerate(jobs) if i not in there]
    if not lacking:
        return ""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    named = [
        "; ".join(" ".join(o for o in job.overrides if o not in common) or "all" for job in lacking[:most])
    ]
    more = f"; and {len(lacking) - most} more" if len(lacking) > most else ""
    return f"Missing: {len(lacking)} of the {len(jobs)} runs of {name} are not there: {named[0]}{more}."
