"""Whole evaluations, kept by content: what `harmonize evaluate` does not do twice, and goes on with after a kill."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harmonize.guards
from harmonize.caches.use import touch
from harmonize.config.attack_checks import chosen
from harmonize.config.instantiate import resolve
from harmonize.console import say
from harmonize.data.corpus import content_hash
from harmonize.errors import ModelError
from harmonize.evaluation.remembered import ANSWERS, REPORT, Remembered, read_report, write_report
from harmonize.evaluation.report import Report
from harmonize.evaluation.surface import as_surface
from harmonize.guards.guard import Guarded
from harmonize.models.load import LoadedModel, tensors_digest
from harmonize.tracking.files import make_folder
from harmonize.unlearning.figures import Evaluations, code_digest
from harmonize.unlearning.targets import locked

FOLDER = "evaluated"


def kept_report(
    cfg: Any,
    evaluations: Evaluations,
    loaded: LoadedModel,
    model: Any,
    instruction: str | None,
    record: Callable[[Path], object],
) -> tuple[Report, Path | None]:
    """The report of a model: the one that is kept for the same content, or a new one, which is kept.

    Args:
        cfg: Configuration of `harmonize evaluate`; `cache=false` neither reads nor writes anything.
        evaluations: Runs the suite.
        loaded: The weights. model: What is measured: the same, or guarded.
        instruction: What the model reads before questions.
        record: Told the folder, which holds what the model said.

    Returns:
        The report, and the folder it was read from, or None where it is new.
    """
    if not cfg.cache:
        return evaluations.run(model, cfg.split, instruction), None
    key = content_hash(
        "report-2",
        evaluations.content(loaded, cfg.split, instruction),
        cfg.seed,
        _guard_content(model),
        foreign_code(cfg),
        cfg.backend,
    )
    folder = Path(cfg.paths.cache_dir) / FOLDER / key[:32]
    with locked(folder.with_suffix(".lock")):
        record(make_folder(folder))
        if (found := read_report(folder)) is not None:
            touch(folder / REPORT)
            say(
                f"Read from the cache: this model, suite, data and code were measured before ({folder}). "
                "cache=false measures anew."
            )
            return found, folder
        if (folder / ANSWERS).exists():
            say(f"Going on with the answers that an earlier evaluation left ({folder}).")
        surface: Any = Remembered(as_surface(model), folder / ANSWERS)
        report: Report = evaluations.run(surface, cfg.split, instruction)
        if not report.failures:  # half a report is none; its answers stay, to go on with
            write_report(folder, report)
    return report, None


def _guard_content(model: Any) -> list[Any]:
    if not isinstance(model, Guarded):
        return []
    kind = type(model.guard)
    said = [f"{kind.__module__}.{kind.__qualname__}", model.settings(), model.secrets()]
    return [said, tensors_digest(model.tensors()), code_digest(harmonize.guards), model.renderer.digest]


def foreign_code(cfg: Any) -> dict[str, str]:
    """Content keys of the files that suite, parts and attacks from outside the package are written in."""
    nodes = [*(cfg.suite.get("parts") or {}).values(), *chosen(cfg).values()]
    targets = [cfg.suite._target_, *(n["_target_"] for n in nodes if n)]
    found = {}
    for target in targets:
        function = resolve(target, cfg.allow)
        file = inspect.getsourcefile(function) if not _ours(function) else None
        if file is not None:
            found[target] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def _ours(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] == "harmonize"


def check_vocabulary(loaded: LoadedModel, other: LoadedModel, role: str) -> None:
    """Refuses two models whose figures would stand side by side but that do not speak the same tokens.

    Args:
        loaded: The model that is measured. other: What it is read against. role: Its key, such as `model.gold`.

    Raises:
        ModelError: Their vocabularies differ (answer prefixes and log-probabilities are about tokens).
    """
    own, theirs = (dict(m.tokenizer.get_vocab()) for m in (loaded, other))
    if own == theirs:
        return
    differ = sorted(w for w in own.keys() | theirs.keys() if own.get(w) != theirs.get(w))
    shown = ", ".join(repr(w) for w in differ[:3])
    raise ModelError(
        f"{role}={other.name} has another vocabulary than {loaded.name}: {len(theirs)} tokens against {len(own)}, "
        f"{len(differ)} of which differ ({shown}{', ...' if len(differ) > 3 else ''}). Give one of the same base "
        f"model, or none: {role}=null."
    )
