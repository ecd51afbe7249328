"""The commands as functions, for notebooks and scripts. Overrides are those of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.config.compose import compose_config

if TYPE_CHECKING:
    from harmonize.models.load import LoadedModel
    from harmonize.tracking.results import Run
    from harmonize.tracking.sequence import SequenceResults


def load(path: str | Path, **settings: Any) -> LoadedModel:
    """A causal LM with its tokenizer and renderer. Of a guarded model the weights alone, with a warning.

    Args:
        path: A folder, or `hf:owner/name` for the hub.
        settings: Fields of the `model` group, such as `dtype="bfloat16"`.

    Raises:
        ModelError: It cannot be found or loaded.
    """
    from harmonize.config.schema import ModelConfig
    from harmonize.guards.saved import warn_of_guard
    from harmonize.models.load import load_model

    warn_of_guard(str(path))
    return load_model(ModelConfig(name_or_path=str(path), **settings))


def unlearn(*overrides: str, folder: str | Path | None = None) -> Run:
    """Does what `harmonize unlearn` does, and returns the finished run.

    Args:
        overrides: Such as `"method=bidirectional"`, `"seed=1"`.
        folder: The run folder; None takes `<paths.runs>/<study>/<job or method>`.

    Raises:
        HarmonizeError: Anything that the command would refuse.
    """
    from harmonize.unlearning.run import run

    return _run("unlearn", run, overrides, folder)


def sequence(*overrides: str, folder: str | Path | None = None) -> SequenceResults:
    """Does what `harmonize sequence` does, and returns the finished sequence.

    Args:
        overrides: Such as `"dataset.requests=3"`, `"sequence.order=[B,A,C]"`.
        folder: The sequence's folder; None takes `<paths.runs>/<study>/<job or method>`.

    Raises:
        HarmonizeError: Anything that the command would refuse.
    """
    from harmonize.tracking.sequence import read_sequence
    from harmonize.unlearning.sequence import run

    return read_sequence(_done("sequence", run, overrides, folder))


def evaluate(*overrides: str, folder: str | Path | None = None) -> Run:
    """Does what `harmonize evaluate` does, and returns the finished run. Arguments as in `unlearn`."""
    from harmonize.unlearning.measure import run

    return _run("evaluate", run, overrides, folder)


def read_run(folder: str | Path) -> Run:
    """A finished run's configuration, status, results and samples.

    Raises:
        RunError: The folder holds no readable run.
    """
    from harmonize.tracking.results import read_run as read

    return read(folder)


def _run(command: str, action: Any, overrides: tuple[str, ...], folder: str | Path | None) -> Run:
    return read_run(_done(command, action, overrides, folder))


def _done(command: str, action: Any, overrides: tuple[str, ...], folder: str | Path | None) -> Path:
    """The folder of a command that has run."""
    cfg = compose_config(command, list(overrides))
    name = cfg.job or (cfg.method.name if "method" in cfg else command)
    place = Path(folder) if folder is not None else Path(cfg.paths.runs) / cfg.study / name
    action(cfg, place)
    return place
