"""Figures of the models a result is read against (target, instructed teacher, gold), cached by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf

import harmonize.data
import harmonize.evaluation
import harmonize.models
from harmonize.caches.use import touch
from harmonize.config.attack_checks import chosen
from harmonize.config.instantiate import call, resolve, to_plain
from harmonize.console import say, warn
from harmonize.data.corpus import Corpus, content_hash
from harmonize.data.example import Split
from harmonize.errors import ConfigError, HarmonizeError, RunError
from harmonize.evaluation.beside import Beside
from harmonize.evaluation.likelihood import Pair
from harmonize.evaluation.prior import prior_strength, question_key, with_priors
from harmonize.evaluation.questions import ask, heldout_facts, used_facts
from harmonize.evaluation.reference import ROWS, read_reference, record_of
from harmonize.evaluation.report import measured
from harmonize.evaluation.suite import Part, measure_parts
from harmonize.evaluation.surface import as_surface, context_length
from harmonize.models.load import LoadedModel
from harmonize.tracking.files import make_folder, write_text
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import CURVES


@dataclass(frozen=True)
class Figures:
    """What one evaluation found, without any model text."""

    metrics: dict[str, Metric]
    outcomes: dict[str, dict[str, float]]
    notes: list[str]
    rows: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, report: Any) -> Figures:
        """Those of a report."""
        return cls(
            dict(report.metrics),
            dict(report.outcomes),
            list(report.notes),
            dict(report.rows),
            dict(report.curves),
        )

    def values(self) -> dict[str, float]:
        """Measured values by name."""
        return measured(self.metrics)


class Evaluations:
    """Runs the configured suite on models, and remembers its figures by the content of everything they depend on.

    Args:
        cfg: The command's configuration (suite, dataset.prefill, teacher, paths, seed).
        corpus: The data set.

    Raises:
        HarmonizeError: Data of a part of the suite that is missing or malformed, or a reference record of other data.
    """

    def __init__(self, cfg: Any, corpus: Corpus) -> None:
        self.cfg, self.corpus = cfg, corpus
        self._suite = resolve(cfg.suite._target_, allow=cfg.allow)
        self._attacks = chosen(cfg)
        self._folder = Path(cfg.paths.cache_dir) / "evaluations"
        nodes = to_plain(cfg.suite.get("parts") or {})
        self.parts: dict[str, Part] = {str(k): call(n, allow=cfg.allow) for k, n in nodes.items() if n}
        self._axes = cfg.suite.get("axes")
        self._keys = {name: part.check(corpus, cfg.suite) for name, part in self.parts.items()}
        given = cfg.suite.get("reference")
        if given and not any(part.compares for part in self.parts.values()):
            raise ConfigError(
                f"suite.reference={given}: no part of suite={cfg.suite.name} ({', '.join(self.parts)}) is compared "
                "with another model. Use suite.reference=null, or a suite that has such a part: harmonize ls suites."
            )
        self.references = read_reference(given, self.parts, self._keys) if given else {}
        self.beside: dict[str, Beside] = {}

    def stand_beside(self, name: str, digest: str, open_model: Callable[[], LoadedModel]) -> None:
        """Lets parts look into another model, which is loaded when one asks for it.

        Args:
            name: `gold` or `target`. digest: Content of its weights.
        """
        if any(name in part.looks_at for part in self.parts.values()):
            self.beside[name] = Beside(digest, open_model)

    def run(
        self,
        loaded: LoadedModel,
        split: str = "test",
        instruction: str | None = None,
        axes: Sequence[str] | None = None,
        progress: bool = True,
        seed: int | None = None,
    ) -> Any:
        """One evaluation, with samples; further attacks (`attack`) and the suite's parts run where `axes` is None."""
        attacks = self._attacks.values() if axes is None else ()
        wanted = self._axes if axes is None else axes
        further = {"attacks": [call(a, allow=self.cfg.allow) for a in attacks]} if attacks else {}
        seed = self.cfg.seed if seed is None else seed
        report = self._call(
            loaded,
            self.cfg.suite,
            split=split,
            instruction=instruction,
            seed=seed,
            axes=None if wanted is None else tuple(wanted),
            progress=progress,
            **further,
        )
        if axes is not None:
            return report
        return measure_parts(
            self.parts,
            loaded,
            self.corpus,
            self.cfg.suite,
            report,
            references=self.references,
            beside=self.beside,
            split=split,
            seed=seed,
            instruction=instruction,
            instruct_roles=tuple(self.cfg.teacher.instruct_roles),
            progress=progress,
        )

    def refer_to(self, gold: Figures | None) -> None:
        """Takes a gold model's rows as the reference of the parts, where no record was given."""
        if gold is not None and not self.cfg.suite.get("reference"):
            self.references = {
                n: gold.rows[n] for n, p in self.parts.items() if p.compares and n in gold.rows
            }

    def record(self, report: Any) -> dict[str, Any]:
        """What `results.json` keeps of a report, so that it can serve as a reference: `rows`, if there are any."""
        return {ROWS: record_of(report.rows, self._keys)} if report.rows else {}

    def _call(self, model: Any, suite: Any, **arguments: Any) -> Any:
        return self._suite(
            model,
            self.corpus,
            suite,
            prefill=self.cfg.dataset.prefill,
            instruct_roles=tuple(self.cfg.teacher.instruct_roles),
            **arguments,
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
        key = content_hash("figures-2", *self.content(loaded, split, instruction, axes))
        path = self._folder / f"{key[:32]}.json"
        if (found := _read(path)) is not None:
            touch(path)
            return found
        say(f"Measuring the {label} ({split}) ...")
        # seed 0: a seed moves nothing but the bootstrap, and all runs of a study share these figures
        report = self.run(loaded, split, instruction, axes, seed=0)
        raise_failures(report)  # half an evaluation is not remembered
        figures = Figures.of(report)
        make_folder(self._folder)
        data = {
            **self._about(loaded, label, split),
            "metrics": {k: m.to_dict() for k, m in figures.metrics.items()},
            "outcomes": figures.outcomes,
            "notes": figures.notes,
            **({ROWS: figures.rows} if figures.rows else {}),
            **({CURVES: figures.curves} if figures.curves else {}),
        }
        write_text(path, json.dumps(data, indent=1))
        return figures

    def probe(self, model: Any, questions: int, axes: Sequence[str]) -> dict[str, float]:
        """Values on val of a few questions per axis: cheap enough to ask every few steps. Not cached."""
        settings = {
            "max_examples": questions,
            "val_max_examples": questions,
            "relearn": False,
            "bootstrap": 0,
        }
        suite = OmegaConf.merge(self.cfg.suite, settings)
        report = self._call(model, suite, split="val", axes=axes, progress=False, seed=0)
        return report.values()

    def priors(self, loaded: LoadedModel, split: str) -> dict[str, float]:
        """Log-probability per token that a model gives the true answer of each forget question, cached by content.

        Keys are `question_key`s, which tell nothing of the data. Whole answers, the question alone before them: our
        choice.
        """
        suite = self.cfg.suite
        limit = suite.max_examples if split == Split.TEST else suite.val_max_examples
        key = content_hash("priors-1", *self.content(loaded, split, axes=("forget",)))
        path = self._folder / f"{key[:32]}.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["priors"]
            touch(path)
            return {str(k): float(v) for k, v in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none yet, or a damaged file
        facts = (
            *used_facts(self.corpus, "forget", limit),
            *heldout_facts(self.corpus, "forget", split, limit),
        )
        room = context_length(loaded.model) or float("inf")
        asked: list[tuple[str, Pair]] = []
        for q in ask(facts, split, loaded.renderer):
            answer = loaded.renderer.answer_ids(q.example.answer)
            if answer and len(q.prompt) + len(answer) <= room:  # others have no prior
                asked.append((question_key(q.example.fact_id, q.text), (q.prompt, answer)))
        pairs = [pair for _, pair in asked]
        sums = as_surface(loaded).log_probs(pairs, suite.batch_size) if pairs else []
        priors = {name: total / len(answer) for (name, (_, answer)), total in zip(asked, sums, strict=True)}
        make_folder(self._folder)
        data = {**self._about(loaded, "prior strength", split), "priors": priors}
        write_text(path, json.dumps(data, indent=1))
        return priors

    def _about(self, loaded: LoadedModel, label: str, split: str) -> dict[str, Any]:
        """What people see of a file who look at their caches; nothing reads it back."""
        names = {"model": loaded.name, "data": self.corpus.name}
        return {"for": names, "about": {"label": label, "split": split}}

    def by_prior(self, report: Any, priors: Mapping[str, float]) -> dict[str, Any]:
        """Notes the priors in a report's samples; its figures by their quartiles, as `results.json` keeps them."""
        suite = self.cfg.suite
        report.samples = with_priors(report.samples, priors)
        return prior_strength(
            report.samples, confidence=suite.confidence, resamples=suite.bootstrap, seed=self.cfg.seed
        )

    def content(
        self,
        loaded: LoadedModel,
        split: str,
        instruction: str | None = None,
        axes: Sequence[str] | None = None,
    ) -> list[Any]:
        """Everything that an evaluation of a model depends on, but its seed."""
        shown = self.cfg.dataset.prefill
        return [
            code_digest(harmonize.evaluation, harmonize.data, harmonize.models),
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
            *([self._keys, self.references] if self.parts and axes is None else []),
            *([{n: b.digest for n, b in self.beside.items()}] if self.beside and axes is None else []),
        ]


def curves_beside(models: Mapping[str, Any]) -> dict[str, Any]:
    """What `results.json` keeps of the curves of several models: `curves`, if there are any.

    Args:
        models: Figures or reports by name, or None.
    """
    found = {name: dict(each.curves) for name, each in models.items() if each is not None and each.curves}
    return {CURVES: found} if found else {}


def raise_failures(report: Any) -> None:
    """Raises the first error of a part of the suite, once what the others found is safe.

    Raises:
        RunError: A part failed in a way that its user can mend.
    """
    for name, error in report.failures.items():
        if not isinstance(error, HarmonizeError):
            raise error
        rest = " The figures of the other parts are in results.json." if report.metrics else ""
        raise RunError(f"Part '{name}' of the suite failed: {error}{rest}") from error


def _read(path: Path) -> Figures | None:
    """Remembered figures; None where there are none, or a file that is damaged (they are measured again)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        metrics = {k: Metric.from_dict(m, f"{path}: {k}") for k, m in data["metrics"].items()}
        return Figures(metrics, data["outcomes"], data["notes"], data.get(ROWS, {}), data.get(CURVES, {}))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RunError):
        warn(f"{path} is damaged, so what it held is measured again.")
        return None


@lru_cache(maxsize=8)
def code_digest(*packages: ModuleType) -> str:
    """Content key of the code of some packages, so that what a mended one computes is computed anew."""
    digest = hashlib.sha256()
    for package in packages:
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
