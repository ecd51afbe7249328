"""What is handed to W&B when a run ends, beside its numbers: rows of tables, and copies that carry no user's name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harmonize.tracking.files import make_folder, write_text
from harmonize.tracking.metric import AXES, METRIC_NAMES
from harmonize.tracking.results import CONFIG, RESULTS, Results, read_json
from harmonize.tracking.tracker import without_home

AXES_COLUMNS = ("axis", "metric", "better", "value", "low", "high", "n", "target", "teacher", "gold")
SAMPLE_COLUMNS = ("example", "role", "split", "used", "attack", "verdict", "score", "said")
TEXT_COLUMNS = ("question", "opened_with", "true_answer", "output")
EACH = 20  # samples of each role and attack: a table to read in, not a copy
LONGEST = 500  # characters of a text


def axes_rows(results: Results) -> list[list[Any]]:
    """The five axes, a metric a row: value, interval, n, and the references; what was not measured is left out."""
    beside = (results.target_metrics, results.teacher_metrics, results.gold_metrics)
    rows: list[list[Any]] = []
    for axis, names in AXES.items():
        for name, better in names.items():
            own = results.metrics.get(name)
            if own is None or own.value is None:
                continue
            references = [(block or {}).get(name) for block in beside]
            others = [None if metric is None else metric.value for metric in references]
            rows.append([axis, name, better.name, own.value, own.ci_low, own.ci_high, own.n, *others])
    return rows


def references(results: Results) -> dict[str, float]:
    """The axes of target, teacher and gold as `target/forget_accuracy` and so on, and what the run cost."""
    blocks = {
        "target": results.target_metrics,
        "teacher": results.teacher_metrics,
        "gold": results.gold_metrics,
    }
    found = {
        f"{model}/{name}": metric.value
        for model, block in blocks.items()
        for name, metric in (block or {}).items()
        if name in METRIC_NAMES and metric.value is not None
    }
    found |= {f"cost/{part}_s": float(seconds) for part, seconds in results.timing.items()}
    if results.peak_memory_bytes is not None:
        found["cost/peak_memory_bytes"] = float(results.peak_memory_bytes)
    return found


def sample_rows(path: Path, with_text: bool) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: the first answers of each role and attack.

    Without `with_text` no row holds what was asked or said, whatever its role: an answer to a permitted question may
    give away what was to be forgotten.
    """
    seen: Counter[tuple[Any, Any]] = Counter()
    rows = []
    for sample in _samples(path):
        key = sample.get("role"), sample.get("attack")
        seen[key] += 1
        if seen[key] > EACH:
            continue
        names = ("example_id", "role", "split", "trained", "attack", "verdict", "score", "said")
        row = [sample.get(name) for name in names]
        if with_text:
            asked = sample.get("asked") or sample.get("question")
            texts = (asked, sample.get("prefill"), sample.get("reference"), sample.get("output"))
            row += [str(text or "")[:LONGEST] for text in texts]
        rows.append(row)
    return [*SAMPLE_COLUMNS, *(TEXT_COLUMNS if with_text else ())], rows


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                sample = json.loads(line)
            except ValueError:
                continue
            if isinstance(sample, dict):
                yield sample


def copies(folder: Path, into: Path) -> list[Path]:
    """config.yaml and results.json of a run as they may leave the machine: the home directory is `~`."""
    make_folder(into)
    found = []
    if (folder / CONFIG).is_file():
        text = without_home((folder / CONFIG).read_text(encoding="utf-8"))
        found.append(write_text(into / CONFIG, text))
    if (folder / RESULTS).is_file():
        data = without_home(read_json(folder / RESULTS))
        found.append(write_text(into / RESULTS, json.dumps(data, indent=1, ensure_ascii=False) + "\n"))
    return found
