"""What every command does first: threads, device, configuration, data set."""

from __future__ import annotations

from typing import Any, cast

import torch
from omegaconf import OmegaConf

from harmonize import warm
from harmonize.console import say
from harmonize.data.corpus import Corpus
from harmonize.data.read import read_turn
from harmonize.errors import ConfigError, RunError
from harmonize.models.load import LoadedModel
from harmonize.tracking.environment import reset_peak_memory
from harmonize.tracking.run_folder import RunFolder

SHARDED = "sharded"  # of `model.device`


def prepare_process(settings: Any) -> None:
    """Threads of this process, where the user asked for a number; no bars of libraries beside our own."""
    from transformers.utils import logging

    reset_peak_memory()
    logging.disable_progress_bar()
    if settings.num_threads:
        torch.set_num_threads(int(settings.num_threads))


def plain_config(cfg: Any) -> dict[str, Any]:
    """The resolved configuration as plain containers."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def same_configuration(cfg: Any, place: RunFolder) -> None:
    """A resumed run must be the run it resumes.

    Raises:
        RunError: It was started with another configuration.
    """
    if not cfg.resume or not place.config.exists():
        return
    before, now = plain_config(OmegaConf.load(place.config)), plain_config(cfg)
    changed = [k for k in now if k not in ("resume", "overwrite") and before.get(k) != now[k]]
    if changed:
        raise RunError(
            f"{place.path} was started with another configuration (different: {', '.join(map(str, changed))}). "
            "Resume with the same overrides, or start anew with overwrite=true."
        )


def device_of(cfg: Any) -> str:
    """Where a whole model lies: `model.device`; one that is to be sharded comes into main memory first.

    `auto` follows a trainer that is bound to the CPU: both must be in one place.
    """
    if cfg.model.device == SHARDED:
        return "cpu"
    bound = cfg.model.device == "auto" and cfg.trainer.accelerator == "cpu"
    return "cpu" if bound else str(cfg.model.device)


def to_device(loaded: LoadedModel, device: str) -> None:
    """Moves the model to `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("model.device=cuda, but torch sees no GPU here. Use model.device=cpu.")
    if not getattr(loaded.model, "is_quantized", False):
        loaded.model.to(device)


def load_corpus(cfg: Any) -> Corpus:
    """Reads the configured data set, as the request in turn sees it, and tells what is missing from it.

    Raises:
        DataError: The data cannot be read, or has no such request.
    """
    corpus = warm.keep("data set", _data_identity(cfg), lambda: read_turn(cfg))
    for note in corpus.notes:
        say(f"Note: {note}")
    return corpus


def _data_identity(cfg: Any) -> list[Any] | None:
    """What reading the data depends on, or None where a reader from outside the package may read anything."""
    if not warm.keeping() or not str(cfg.dataset.get("_target_")).startswith("harmonize."):
        return None
    settings = {k: v for k, v in plain_config(cfg.dataset).items() if k != "prefill"}
    files = warm.files_of({k: v for k, v in settings.items() if k not in ("name", "_target_")})
    sequence = cfg.get("sequence")
    return None if files is None else [settings, None if sequence is None else plain_config(sequence), files]
