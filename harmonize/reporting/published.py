"""Published figures of an experiment: facts with their source and how certain they are, never mixed with ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize.errors import RunError

CERTAINTIES = {"C": "certain", "S": "secondary source", "S, weak": "weak secondary source", "I": "inferred"}


@dataclass(frozen=True)
class PublishedRow:
    """One line: what it is about and its figures, as printed in the source (None where not given)."""

    label: str
    values: list[str | None]


@dataclass(frozen=True)
class Counterparts:
    """Which of our figures a published column may be set against, in one profile.

    columns: Published column to our metric. scale: Theirs is so many times ours (100: percent against shares).
    tolerance: Published column to the largest delta that still counts as reproduced, in their unit; our choice.
    notes: What differs all the same.
    """

    columns: Mapping[str, str]
    scale: float = 1.0
    tolerance: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Ours:
    """What of ours belongs to a published table.

    rows: Published row to the row of our table. order: Published column to the metric of ours by which methods may be
    ordered on any data, where no difference of figures would mean anything. profiles: Where a delta means something.
    """

    rows: Mapping[str, str]
    order: Mapping[str, str] = field(default_factory=dict)
    profiles: Mapping[str, Counterparts] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """One published table or figure.

    certainty: In words, from the marks of `published.yaml`. ours: What of ours it may be set against, if anything.
    """

    title: str
    source: str
    certainty: str
    columns: list[str]
    rows: list[PublishedRow]
    notes: list[str] = field(default_factory=list)
    ours: Ours | None = None


def load_yaml(path: Path) -> Any:
    """Reads a YAML file of plain data.

    Raises:
        RunError: It is missing or malformed.
    """
    import yaml

    try:
        # libyaml, where PyYAML has it, reads ten times as fast; every experiment is read to tell which a study is of.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load(path.read_text(encoding="utf-8"), loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{path}: cannot be read ({' '.join(str(error).split())}).") from error


def load_published(path: str | Path) -> list[Published]:
    """Reads and checks `published.yaml`; figures stay the text that was printed.

    Raises:
        RunError: A missing field, an unknown certainty mark, or a row that does not fit its columns.
    """
    path = Path(path)
    data = load_yaml(path)
    if not isinstance(data, dict) or not isinstance(data.get("published"), list):
        raise RunError(f"{path}: expected a list under 'published'.")
    return [_block(item, f"{path}, entry {number}") for number, item in enumerate(data["published"], 1)]


def _block(item: Any, where: str) -> Published:
    needed = ("title", "source", "certainty", "columns", "rows")
    missing = [key for key in needed if not isinstance(item, dict) or not item.get(key)]
    if missing:
        raise RunError(f"{where}: missing {', '.join(missing)}.")
    if item["certainty"] not in CERTAINTIES:
        raise RunError(f"{where}: certainty is one of {', '.join(CERTAINTIES)}; found {item['certainty']!r}.")
    columns = [str(name) for name in item["columns"]]
    rows = []
    for label, values in item["rows"].items():
        if not isinstance(values, list) or len(values) != len(columns):
            raise RunError(f"{where}, row '{label}': expected {len(columns)} figures, one for each column.")
        rows.append(PublishedRow(str(label), [None if v is None else str(v) for v in values]))
    notes = [" ".join(str(note).split()) for note in item.get("notes") or []]
    ours = _ours(item["ours"], columns, [row.label for row in rows], where) if item.get("ours") else None
    return Published(
        item["title"], item["source"], CERTAINTIES[item["certainty"]], columns, rows, notes, ours
    )


def _ours(item: Any, columns: Sequence[str], labels: Sequence[str], where: str) -> Ours:
    """Raises: RunError: A row or column that the published table does not have."""
    if not isinstance(item, Mapping):
        raise RunError(f"{where}: ours must map rows, order and profiles.")
    profiles = {}
    named = [("rows", item.get("rows") or {}, labels), ("order", item.get("order") or {}, columns)]
    for profile, part in (item.get("profiles") or {}).items():
        notes = [" ".join(str(note).split()) for note in part.get("notes") or []]
        tolerance = {str(c): float(t) for c, t in (part.get("tolerance") or {}).items()}
        profiles[str(profile)] = Counterparts(
            part["columns"], float(part.get("scale", 1.0)), tolerance, notes
        )
        named += [(f"profiles.{profile}", {**part["columns"], **tolerance}, columns)]
    for at, given, known in named:
        for key in given:
            if key not in known:
                raise RunError(
                    f"{where}: ours.{at}: '{key}' is not in the published table ({', '.join(known)})."
                )
    return Ours(dict(item.get("rows") or {}), dict(item.get("order") or {}), profiles)
