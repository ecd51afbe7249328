"""Guarded models on disk: `guard.json` beside the weights says what stands around them, `guard/` holds the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from harmonize.config.instantiate import resolve
from harmonize.console import warn
from harmonize.errors import ModelError
from harmonize.guards.guard import Guard, Guarded
from harmonize.models.load import LoadedModel
from harmonize.models.save import GUARD, GUARD_FOLDER
from harmonize.tracking.files import make_folder, write_bytes, write_text

FORMAT = 1
_TENSORS, _SECRETS = f"{GUARD_FOLDER}/tensors.safetensors", f"{GUARD_FOLDER}/secrets.json"
_FILES = (_TENSORS, _SECRETS)


def save_guard(guarded: Guarded, folder: Path) -> None:
    """Writes the guard into the folder of an exported model, readable by its owner alone.

    Raises:
        RunError: The disk is full or the place is not writable.
    """
    contents: dict[str, bytes] = {}
    if tensors := guarded.tensors():
        contents[_TENSORS] = save_tensors(tensors)
    if (secrets := guarded.secrets()) is not None:
        contents[_SECRETS] = (json.dumps(secrets, ensure_ascii=False) + "\n").encode()
    for name, data in contents.items():
        make_folder((folder / name).parent)
        write_bytes(folder / name, data)
    kind = type(guarded.guard)
    header = {
        "format": FORMAT,
        "name": kind.name,
        "about": kind.about,
        "_target_": f"{kind.__module__}.{kind.__qualname__}",
        "settings": guarded.settings(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    write_text(folder / GUARD, json.dumps(header, indent=1, ensure_ascii=False) + "\n")


def secret_files(folder: Path) -> list[Path]:
    """Files of an exported guard that tell of forgotten things."""
    return [p for p in (folder / _SECRETS,) if p.exists()]


def saved_guard(name: str) -> Path | None:
    """The guard file that a model's name leads to, or None for a model without one."""
    path = Path(name).expanduser() / GUARD
    return path if path.is_file() else None


def open_guard(path: Path, loaded: LoadedModel, allow: Iterable[str] = ()) -> Guarded:
    """The guarded model of an exported folder.

    Args:
        path: Its guard file.
        loaded: The model of the same folder.
        allow: Packages that a guard from outside may come from.

    Raises:
        ModelError: A file is missing, altered or of another version, or does not fit the model.
    """
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        version, target, settings, files = (header[k] for k in ("format", "_target_", "settings", "files"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read as a guard ({error}). {_ADVICE}") from error
    if version != FORMAT:
        raise ModelError(
            f"{path} is of format {version}, and this version of harmonize reads {FORMAT}. {_ADVICE}"
        )
    data = {name: _read(path.parent / name, digest) for name, digest in files.items() if name in _FILES}
    kind = resolve(target, allow)
    if not (isinstance(kind, type) and issubclass(kind, Guard)):
        raise ModelError(f"{path}: {target} is no guard. {_ADVICE}")
    try:
        tensors = load_tensors(data[_TENSORS]) if _TENSORS in data else {}
        secrets = json.loads(data[_SECRETS]) if _SECRETS in data else None
        return kind.opened(settings, loaded, tensors, secrets)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} does not hold what {kind.name} needs ({error}). {_ADVICE}") from error


def warn_of_guard(name: str) -> None:
    """Says that a folder is guarded, where its weights alone are read."""
    if saved_guard(name):
        warn(
            f"{name} is a guarded model (guard.json), and this command reads its weights alone, without the guard. "
            "They may still know what the guard keeps back."
        )


def _read(path: Path, digest: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"The guard's file {path} is missing ({error.strerror}); was it purged? The weights alone may still know "
            f"what it kept back. {_ADVICE}"
        ) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ModelError(f"The guard's file {path} is not the one that was exported. {_ADVICE}")
    return data


_ADVICE = "Export the run again, or measure the weights alone: guard=removed."
