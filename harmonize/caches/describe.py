"""What an entry of the cache is, in a few words: from its header where it says so, else from its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harmonize.caches.entries import Entry


def describe(entry: Entry) -> str:
    """A few words on an entry; those written by earlier versions say less."""
    if entry.leftover:
        return entry.leftover
    try:
        return _SAID[entry.kind](entry.path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its header cannot be read"


def _teacher(path: Path) -> str:
    shapes = _shapes(path)
    per = _per_position(shapes)
    mode = "hidden" if "hidden" in shapes else "topk"
    kept = f"{mode}, top {shapes['top_ids'][0][1]}"
    size = f"{shapes['targets'][0][0]:,} positions of {per:,} B"
    return _joined(_subject(_about(path)), kept, size)


def _reference(path: Path) -> str:
    shapes = _shapes(path)
    positions = next(iter(shapes.values()))[0][0]
    kinds = " + ".join(name.replace("_", " ") for name in sorted(shapes))
    return _joined(_subject(_about(path)), kinds, f"{positions:,} positions of {_per_position(shapes):,} B")


def _statistics(path: Path) -> str:
    about = _about(path)
    roles = "+".join(about.get("roles", ()))
    model = _subject(about) or f"weights {str(about.get('weights'))[:8]}"
    return _joined(f"{str(about.get('kind')).replace('_', ' ')} of {roles}", model)


def _finetuned(path: Path) -> str:
    about = _about(path)
    model = _subject(about) or f"weights {str(about.get('weights'))[:8]}"
    return _joined(f"fine-tuned on {about.get('rows')} rows", model)


def _guard(path: Path) -> str:
    return _joined(_subject(_about(path)), "fitted detector: " + ", ".join(sorted(_shapes(path))))


def _model(path: Path) -> str:
    preset, which, _ = path.name.rsplit("-", 2)
    return f"{preset}, {which}"


def _figures(path: Path) -> str:
    data = json.loads(path.read_text(encoding="utf-8"))
    about = {**data.get("about", {}), **data.get("for", {})}
    said = " on ".join(str(about[k]) for k in ("label", "split") if k in about)
    found = f"{len(data['metrics'])} figures" if "metrics" in data else f"{len(data['priors'])} questions"
    return _joined(said, _subject(about), found)


def _report(path: Path) -> str:
    if (path / "report.json").is_file():
        data = json.loads((path / "report.json").read_text(encoding="utf-8"))
        return f"a finished evaluation, {len(data['metrics'])} figures and the answers"
    return "answers of an evaluation that was stopped"


def _rewrites(path: Path) -> str:
    return f"rewrites by {path.stem.rpartition('-')[0] or path.stem}"


_SAID: dict[str, Callable[[Path], str]] = {
    "teacher": _teacher,
    "reference": _reference,
    "statistics": _statistics,
    "finetuned": _finetuned,
    "guards": _guard,
    "models": _model,
    "evaluations": _figures,
    "evaluated": _report,
    "rewrites": _rewrites,
}


def _about(path: Path) -> Mapping[str, Any]:
    header = json.loads((path / "header.json").read_text(encoding="utf-8"))
    return {**header.get("about", {}), **header.get("for", {})}


def _subject(about: Mapping[str, Any]) -> str:
    """Which model and which data, where a header names them."""
    model = str(about.get("model", ""))
    if not model.startswith("hf:"):
        model = model.rstrip("/").rpartition("/")[2]  # the end of a path says most
    return _joined(model, str(about.get("data", "")))


def _joined(*words: str) -> str:
    return ", ".join(w for w in words if w)


def _shapes(path: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    """Array to its shape and the bytes of one number, from the first bytes of each file."""
    import numpy as np

    found = {}
    for file in sorted(path.glob("*.npy")):
        with file.open("rb") as handle, suppress(ValueError):
            version = np.lib.format.read_magic(handle)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(handle)
            found[file.stem] = (shape, dtype.itemsize)
    return found


def _per_position(shapes: Mapping[str, tuple[tuple[int, ...], int]]) -> int:
    """Bytes of one position, over the arrays that have a row for each."""
    return sum(
        (shape[1] if len(shape) > 1 else 1) * item
        for name, (shape, item) in shapes.items()
        if name != "offsets"
    )
