"""Exporting a model: safetensors, tokenizer, generation settings and a model card, in one folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from harmonize.errors import RunError
from harmonize.models.load import LoadedModel
from harmonize.models.lora import adapter_layers, has_adapters, merged_weight

GUARD, GUARD_FOLDER = "guard.json", "guard"  # what stands around the weights of a guarded model


def export(
    loaded: LoadedModel,
    folder: str | Path,
    card: str,
    merge: bool = True,
    guard: Callable[[Path], object] | None = None,
) -> Path:
    """Writes a model folder that `AutoModelForCausalLM` loads.

    Adapters are merged into a copy of the matrices they touch; the live model stays as it is. Files are written
    beside the folder and then moved in, weights last, so that a failure never damages an earlier export.

    Args:
        loaded: The model.
        folder: Where to; made if needed.
        card: Text of README.md.
        merge: False writes the adapter alone, which leaves the knowledge in the base model.
        guard: Writes the guard that stands around the weights into a folder; it is in place before they are.

    Returns:
        The folder.

    Raises:
        ModelError: Adapters on 4-bit weights, which cannot be merged exactly.
        RunError: The disk is full or the place is not writable.
    """
    folder = Path(folder)
    model, options = loaded.model, {}
    if has_adapters(model) and merge:
        options["state_dict"] = merged_state(model)
        model = model.get_base_model()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            # saving looks into DeepSpeed, where it is installed, which would tell of a machine without GPUs
            if not torch.cuda.is_available():
                os.environ.setdefault("DS_ACCELERATOR", "cpu")
            model.save_pretrained(work, **options)
            loaded.tokenizer.save_pretrained(work)
            (work / "README.md").write_text(card, encoding="utf-8")
            if guard is not None:
                guard(work)
            _move(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors wraps what the disk says
        why = getattr(error, "strerror", None) or error
        raise RunError(f"The model cannot be written to {folder}: {why}.") from error
    return folder


@torch.no_grad()
def merged_state(model: Any) -> dict[str, Tensor]:
    """State dict of the base model with its active adapters added to the matrices they touch.

    Untouched tensors are shared with the live model; sums are taken in fp32.

    Raises:
        ModelError: Quantized weights, or an adapter that is more than an added matrix (such as DoRA).
    """
    base = model.get_base_model()
    layers = dict(adapter_layers(base))
    state = {}
    for name, value in base.state_dict().items():
        if ".lora_" in name or ".modules_to_save." in name:
            continue
        state[name.replace(".base_layer.", ".").replace(".original_module.", ".")] = value
    for name, layer in layers.items():
        state[f"{name}.weight"] = merged_weight(layer)
    for name, module in base.named_modules():
        if hasattr(module, "modules_to_save"):
            for key, value in module.modules_to_save[module.active_adapters[0]].state_dict().items():
                state[f"{name}.{key}"] = value
    return state


def _move(work: Path, folder: Path) -> None:
    """Moves files in, weights last, then removes weights of an earlier export that the new one does not have."""
    fresh = sorted(work.iterdir(), key=lambda p: (".safetensors" in p.name, p.name))
    names = {p.name for p in fresh}
    for path in fresh:
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    for stale in folder.glob("*.safetensors*"):
        if stale.name not in names:
            stale.unlink()
    if GUARD not in names:  # one of an earlier export would stand around weights that it was not made for
        (folder / GUARD).unlink(missing_ok=True)
        shutil.rmtree(folder / GUARD_FOLDER, ignore_errors=True)
