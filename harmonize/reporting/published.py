"""Published figures of an experiment: facts with their source and how certain they are, never mixed with ours."""

from __future__ import annotations

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
class Published:
    """One published table or figure.

    certainty: In words, from the marks of `published.yaml`.
    """

    title: str
    source: str
    certainty: str
    columns: list[str]
    rows: list[PublishedRow]
    notes: list[str] = field(default_factory=list)


def load_yaml(path: Path) -> Any:
    """Reads a YAML file of plain data.

    Raises:
        RunError: It is missing or malformed.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
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
    return Published(item["title"], item["source"], CERTAINTIES[item["certainty"]], columns, rows, notes)
