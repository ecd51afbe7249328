"""Profiles of an experiment: the same comparison on the sandbox in minutes, and with the models and data of a paper.

What stands beside `profiles` in the file holds for all of them. A profile adds `overrides`, replaces keys of `sweep`
and the `variants`, and may name a `study` of its own. `runs_of` takes the jobs of another experiment (a figure of a
table's runs): what is done there is not done twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonize.errors import ConfigError, did_you_mean

PROFILE_KEYS = ("study", "overrides", "sweep", "variants", "columns", "needs", "notes")
_JOBS = ("study", "command", "overrides", "sweep", "variants", "profiles", "columns")


def names(found: Mapping[str, Any]) -> list[str]:
    """The profiles of a file, the default first; none where it has only one way to run."""
    return list(found.get("profiles") or {})


def flattened(found: Mapping[str, Any], path: Path, profile: str | None = None) -> dict[str, Any]:
    """The file as one of its profiles reads it, without `profiles` and `runs_of`; `profile` names it.

    Args:
        found: Content of an experiment's file.
        path: Of the file.
        profile: Which; None for the first.

    Raises:
        ConfigError: No such profile, or one that is malformed.
        RunError: The file that `runs_of` names cannot be read.
    """
    found = _borrowed(found, path)
    known = found.get("profiles") or {}
    about = path.parent.name if path.name == "experiment.yaml" else path.stem
    if not known:
        if profile is not None:
            raise ConfigError(
                f"--profile {profile}: '{about}' has no profiles, it runs as it stands. Leave --profile out."
            )
        return {**found, "profile": ""}
    if not isinstance(known, Mapping) or not all(isinstance(v, Mapping) for v in known.values()):
        raise ConfigError(f"{path}: profiles must map each name to its overrides, sweep and variants.")
    chosen = next(iter(known)) if profile is None else profile
    if chosen not in known:
        raise ConfigError(
            f"--profile {chosen}: '{about}' has none of that name. {did_you_mean(chosen, known)}"
        )
    own = known[chosen]
    if unknown := [key for key in own if key not in PROFILE_KEYS]:
        raise ConfigError(
            f"{path}: profiles.{chosen}: unknown key '{unknown[0]}'. {did_you_mean(str(unknown[0]), PROFILE_KEYS)}"
        )
    study = str(found.get("study", about))
    merged = {key: value for key, value in found.items() if key != "profiles"}
    merged |= {key: value for key, value in own.items() if key not in ("overrides", "sweep")}
    merged["overrides"] = [*(found.get("overrides") or []), *(own.get("overrides") or [])]
    merged["sweep"] = {**(found.get("sweep") or {}), **(own.get("sweep") or {})}
    merged["study"] = own.get("study", study if chosen == next(iter(known)) else f"{study}_{chosen}")
    return {**merged, "profile": chosen}


def _borrowed(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The file with the jobs of the one that it names in `runs_of`."""
    from harmonize.reporting.published import load_yaml

    if "runs_of" not in found:
        return dict(found)
    other = path.parent.parent / str(found["runs_of"]) / path.name
    if not other.is_file() or other == path:
        known = [place.parent.name for place in path.parent.parent.glob(f"*/{path.name}")]
        raise ConfigError(
            f"{path}: runs_of names no experiment. {did_you_mean(str(found['runs_of']), known)}"
        )
    jobs = load_yaml(other)
    taken = {key: jobs[key] for key in _JOBS if key in jobs}
    return {"study": other.parent.name, **taken, **{k: v for k, v in found.items() if k != "runs_of"}}
