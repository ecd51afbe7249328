"""Figures of the models a result is read against (target, instructed teacher, gold), cached by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import harmonize.data
import harmonize.evaluation
import harmonize.models
from harmonize.config.attack_checks import chosen
from harmonize.config.instantiate import call, resolve
from harmonize.console import say, warn
from harmonize.data.corpus import Corpus, content_hash
from harmonize.errors import RunError
from harmonize.evaluation.attacks import ineffective
from harmonize.models.load import LoadedModel
from harmonize.tracking.files import make_folder, write_text
from harmonize.tracking.results import Metric


@dataclass(frozen=True)
class Figures:
    """What one evaluation found, without any model text."""

    metrics: dict[str, Metric]
    outcomes: dict[str, dict[str, float]]
    notes: list[str]

    def values(self) -> dict[str, float]:
        """Measured values by name."""
        return {k: m.value for k, m in self.metrics.items() if m.value is not None}


class Evaluations:
    """Runs the configured suite on models, and remembers its figures by the content of everything they depend on.

    Args:
        cfg: The command's configuration (suite, dataset.prefill, teacher, paths, seed).
        corpus: The data set.
    """

    def __init__(self, cfg: Any, corpus: Corpus) -> None:
        self.cfg, self.corpus = cfg, corpus
        self._suite = resolve(cfg.suite._target_, allow=cfg.allow)
        self._attacks = chosen(cfg)
        self._folder = Path(cfg.paths.cache_dir) / "evaluations"

    def run(
        self,
        loaded: LoadedModel,
        split: str = "test",
        instruction: str | None = None,
        axes: Sequence[str] | None = None,
        progress: bool = True,
        seed: int | None = None,
    ) -> Any:
        """One evaluation, with samples; further attacks (`attack`) run where all axes are measured."""
        attacks = self._attacks.values() if axes is None else ()
        further = {"attacks": [call(a, allow=self.cfg.allow) for a in attacks]} if attacks else {}
        return self._suite(
            loaded,
            self.corpus,
            self.cfg.suite,
            split=split,
            prefill=self.cfg.dataset.prefill,
            instruction=instruction,
            instruct_roles=tuple(self.cfg.teacher.instruct_roles),
            seed=self.cfg.seed if seed is None else seed,
            axes=axes,
            progress=progress,
            **further,
        )

    def cached(
        self,
        loaded: LoadedModel,
        label: str,
        split: str = "test",
        instruction: str | None = None,
        axes: Sequence[str] | None = None,
    ) -> Figures:
        """Figures of a model that is not being trained; measured once per content, not per run."""
        shown = self.cfg.dataset.prefill
        key = content_hash(
            "figures-2",
            code_digest(),
            loaded.digest,
            loaded.renderer.digest,
            [self.corpus.digest, self.corpus.scoring],
            OmegaConf.to_container(self.cfg.suite, resolve=True),
            [list(shown.eval_depths), list(shown.depths), shown.heldout_share],
            [
                instruction,
                list(self.cfg.teacher.instruct_roles) if instruction else [],
                split,
                list(axes or ()),
            ],
            [str(next(loaded.model.parameters()).device.type), str(loaded.model.dtype)],
            *([self._attacks] if self._attacks and axes is None else []),
        )
        path = self._folder / f"{key[:32]}.json"
        if (found := _read(path)) is not None:
            return found
        say(f"Measuring the {label} ({split}) ...")
        # seed 0: a seed moves nothing but the bootstrap, and all runs of a study share these figures
        report = self.run(loaded, split, instruction, axes, seed=0)
        figures = Figures(dict(report.metrics), dict(report.outcomes), list(report.notes))
        make_folder(self._folder)
        data = {
            "metrics": {k: m.to_dict() for k, m in figures.metrics.items()},
            "outcomes": figures.outcomes,
            "notes": figures.notes,
        }
        write_text(path, json.dumps(data, indent=1))
        return figures


def proof_notes(cfg: Any, untouched: Figures | None) -> list[str]:
    """Which attacks prove nothing, because the untouched model withstands them, too.

    Args:
        cfg: The command's configuration. untouched: Figures of the model before unlearning, if it was measured.
    """
    if untouched is None:
        if not chosen(cfg):
            return []
        return [
            "The untouched model was not measured, so whether these attacks work at all is not known. Name it: "
            "target=<folder or hf:owner/name>."
        ]
    weak = ineffective(untouched.metrics)
    if not weak:
        return []
    return [f"These attacks fail on the untouched model already, so they prove nothing: {', '.join(weak)}."]


def _read(path: Path) -> Figures | None:
    """Remembered figures; None where there are none, or a file that is damaged (they are measured again)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        metrics = {k: Metric.from_dict(m, f"{path}: {k}") for k, m in data["metrics"].items()}
        return Figures(metrics, data["outcomes"], data["notes"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RunError):
        warn(f"{path} is damaged, so what it held is measured again.")
        return None


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Content key of the code that an evaluation runs through, so that a mended metric is measured anew."""
    digest = hashlib.sha256()
    for package in (harmonize.evaluation, harmonize.data, harmonize.models):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
