"""Local files in the place of the data set of the hub that a task of lm-evaluation-harness names.

The task keeps its prompt, its few-shot examples' order and its metrics; only where rows come from changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from harmonize.data.example import Example
from harmonize.data.records import Record
from harmonize.data.sources import arc, mmlu, wmdp
from harmonize.data.sources.files import look
from harmonize.data.sources.rows import rows
from harmonize.errors import DataError

Docs = dict[str, list[dict[str, Any]]]
"""Rows as the task's own data set has them, by the names of its splits."""


def read_docs(config: Mapping[str, Any], path: str) -> Docs:
    """Rows for a task.

    Args:
        config: The task's, of the harness: `dataset_path`, `dataset_name` and the names of its splits are read.
        path: A folder or a file. MMLU, WMDP and ARC in any layout that `harmonize prepare` reads; for other tasks
            `<split>.jsonl` (json, csv, parquet), or one file that is the split the task is evaluated on, with the
            columns of the data set of the hub.

    Returns:
        Without rows for a split that is not there; empty where the files hold nothing for this task.

    Raises:
        DataError: There is no such path, or what is there is malformed.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"{path}: there is no such file or folder.")
    own = READERS.get(str(config.get("dataset_path")))
    if own is not None:
        return own(str(place), config)
    return _plain(place, config)


def evaluated(config: Mapping[str, Any]) -> str:
    """Name of the split that a task is evaluated on."""
    return str(config.get("test_split") or config.get("validation_split") or "test")


def _mmlu(path: str, config: Mapping[str, Any]) -> Docs:
    subject = str(config.get("dataset_name"))
    found: Docs = {}
    for split, name in (("test", "test"), ("dev", "dev"), ("val", "validation")):
        own = [e for e in _mmlu_split(path, split) if e.source == f"mmlu/{subject}"]
        if own:
            found[name] = [{**_listed(e), "subject": subject} for e in own]
    return found


@lru_cache(maxsize=8)
def _mmlu_split(path: str, split: str) -> tuple[Example, ...]:
    try:
        source = mmlu.read(name="mmlu", root=path, splits=(split,))
    except DataError:
        if split == "test":
            raise
        return ()  # only few-shot prompts need it
    return _examples(source.read())


def _wmdp(path: str, config: Mapping[str, Any]) -> Docs:
    domain = str(config.get("dataset_name")).removeprefix("wmdp-")
    own = [_listed(e) for e in _wmdp_all(path) if e.meta["domain"] == domain]
    return {"test": own} if own else {}


@lru_cache(maxsize=4)
def _wmdp_all(path: str) -> tuple[Example, ...]:
    return _examples(wmdp.read(name="wmdp", root=path).read())


def _arc(path: str, config: Mapping[str, Any]) -> Docs:
    subset = str(config.get("dataset_name")).rpartition("-")[2].lower()
    found: Docs = {}
    for e in _arc_all(path, subset):
        split = {"val": "validation"}.get(str(e.meta.get("benchmark_split")), e.meta.get("benchmark_split"))
        labels = [chr(ord("A") + n) for n in range(len(e.choices))]
        found.setdefault(str(split or "test"), []).append(
            {
                "id": str(e.meta.get("benchmark_id") or e.id),
                "question": e.question,
                "choices": {"text": list(e.choices), "label": labels},
                "answerKey": labels[int(e.answer_index or 0)],
            }
        )
    return found


@lru_cache(maxsize=4)
def _arc_all(path: str, subset: str) -> tuple[Example, ...]:
    try:
        source = arc.read(name="arc", root=path, subset=subset)
    except DataError:  # files of the other subset alone
        return ()
    return _examples(source.read())


def _examples(records: Iterable[Record]) -> tuple[Example, ...]:
    return tuple(r for r in records if isinstance(r, Example))


def _listed(e: Example) -> dict[str, Any]:
    return {"question": e.question, "choices": list(e.choices), "answer": int(e.answer_index or 0)}


READERS: Mapping[str, Callable[[str, Mapping[str, Any]], Docs]] = {
    "cais/mmlu": _mmlu,
    "cais/wmdp": _wmdp,
    "allenai/ai2_arc": _arc,
}


def _plain(place: Path, config: Mapping[str, Any]) -> Docs:
    """Files with the columns of the task's own data set."""
    if place.is_file():
        return {evaluated(config): [r.data for r in rows(place)]}
    few = config.get("fewshot_split") or (config.get("fewshot_config") or {}).get("split")
    wanted = [config.get(f"{name}_split") for name in ("test", "validation", "training")]
    found: Docs = {}
    for split in dict.fromkeys(str(s) for s in (*wanted, few) if s):
        stems = [
            split,
            f"{config.get('dataset_name')}/{split}",
            f"{config.get('task')}_{split}",
            f"data/{split}",
        ]
        if files := look(place, *stems):
            found[split] = [r.data for file in files for r in rows(file)]
    return found
