"""`dataset=prepared`: reads a folder that `harmonize prepare` wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.jsonl import read_examples
from harmonize.data.local import corpus_of, gather
from harmonize.data.prepare.folder import FACTS, FILES, SCHEMA_VERSION
from harmonize.errors import DataError


def load(
    *,
    root: str,
    scoring: str = "auto",
    instruction: str | Sequence[str] | None = None,
    refusals: Sequence[str] | None = None,
    openers: Sequence[str] | None = None,
    openers_heldout: Sequence[str] | None = None,
) -> Corpus:
    """Reads a prepared data set. Refusals and instructions that its sources brought are used unless others are given.

    Args:
        root: The folder.
        scoring, instruction, refusals, openers, openers_heldout: As in `dataset=local`.

    Raises:
        ConfigError: An unknown `scoring`, or an instruction that cannot be filled in.
        DataError: No prepared data set there, of another schema, or with files that are not as they were written.
    """
    folder = Path(root).expanduser()
    facts = read_facts(folder)
    stated = {name: facts["files"].get(name) for name in FILES}
    present = [name for name in FILES if stated[name] is not None or (folder / name).exists()]
    read, origin = gather((folder / name, _examples(folder / name, name, stated[name])) for name in present)
    if instruction is None:
        instruction = facts.get("instructions") or None
    if refusals is None:
        refusals = facts.get("refusals") or None
    return corpus_of(
        read,
        origin,
        name="prepared",
        scoring=scoring,
        instruction=instruction,
        refusals=refusals,
        openers=openers,
        openers_heldout=openers_heldout,
    )


def read_facts(folder: Path) -> dict[str, Any]:
    """`dataset.json` of a prepared folder.

    Raises:
        DataError: Missing, unreadable, or of another schema.
    """
    path = folder / FACTS
    if not path.is_file():
        hint = (
            "It looks like data of your own: dataset=local"
            if any(folder.glob("*.jsonl"))
            else "Make one with: harmonize prepare source=<source> output=<folder>"
        )
        raise DataError(f"dataset.root={folder}: no prepared data set is there ({FACTS} is missing). {hint}")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). Prepare the data again, with overwrite=true."
        ) from None
    version = facts.get("schema_version") if isinstance(facts, dict) else None
    if version != SCHEMA_VERSION or not isinstance(facts.get("files"), dict):
        raise DataError(
            f"{path}: schema version {version}, but this version of harmonize reads {SCHEMA_VERSION}. Prepare the data "
            "again, with overwrite=true."
        )
    return dict(facts)


def _examples(path: Path, name: str, stated: Any) -> list[Example]:
    role, split, _ = name.split(".")
    wanted = stated.get("examples") if isinstance(stated, dict) else 0
    if not path.exists():
        raise DataError(f"{path} is missing; {FACTS} counts {wanted} examples in it. Prepare the data again.")
    examples = read_examples(path, role)
    if len(examples) != wanted:
        raise DataError(
            f"{path} holds {len(examples)} examples, but {FACTS} counts {wanted}: it was changed since. "
            "Prepare the data again, or use the changed files as data of your own: dataset=local dataset.examples=..."
        )
    for example in examples:
        if example.split != split:
            raise DataError(
                f"{path}, example '{example.id}', field 'split': '{example.split}' in a file of split '{split}'."
            )
    return examples
