"""Activation distance: how far are a model's hidden states from gold's, and from those before unlearning?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harmonize.data.corpus import Corpus
from harmonize.evaluation.beside import GOLD, TARGET
from harmonize.evaluation.distances import cosine_distance, linear_cka, relative_distance
from harmonize.evaluation.intervals import cluster_weights, percentiles
from harmonize.evaluation.parts.inside import (
    Answer,
    answers_of,
    each_states,
    inner_model,
    nothing_yet,
    split_states,
)
from harmonize.evaluation.parts.rows import content_key, role_problems, shown_facts
from harmonize.evaluation.report import Report, curve
from harmonize.evaluation.suite import NotMeasured, Part, Scene
from harmonize.models.body import blocks_of
from harmonize.tracking.metric import Metric

_WHERE_FROM = {GOLD: "model.gold=<folder or hf:owner/name>", TARGET: "target=<folder or hf:owner/name>"}
States = list[np.ndarray]


@dataclass(frozen=True)
class ActivationDistance(Part):
    """Hidden states of this model against those of gold and of the target, layer by layer.

    At the positions that predict the scored tokens, the true answer before them given, after every layer but the one
    that enters the first block (the curves have that one, too).

    - `<role>_distance_to_<gold|target>`: |h - h'| / |h'| with h' of the other model, mean over positions and layers.
    - `<role>_cka_to_<...>`: linear CKA of all positions' states, mean over layers; blind to rotation and scale.
    - `<role>_distance_ratio`: distance to gold over the target's distance to gold: 0 = gold, 1 = as far as before.
    - among the curves alone: `<role>_cosine_distance_to_<...>`, 1 - cos(h, h').

    Args:
        roles: Whose answers.
        tokens: Scored tokens of an answer at most, the first ones.
        layers: Layers at most, evenly spaced from the first to the last. Layers, positions and hidden sizes decide
            what is held in memory of each model, 4 bytes a value.

    Source: activation distance to a retrained model is a usual measure of unlearning, here after the definitions above,
        which are our choice; linear CKA: arXiv 1905.00414 [recall].
    """

    looks_at: ClassVar[tuple[str, ...]] = (GOLD, TARGET)

    roles: Sequence[str] = ("forget", "neighbor", "retain")
    tokens: int = 4
    layers: int = 9

    def problems(self, at: str) -> list[str]:
        """Roles with answers, and numbers above 0."""
        found = role_problems(f"{at}.roles", self.roles)
        for name, least in {"tokens": 1, "layers": 2}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                found.append(f"{at}.{name}={value}: expected a whole number from {least} on.")
        return found

    def figures(self) -> dict[str, bool]:
        """Distance and alignment to both models, and the ratio."""
        found: dict[str, bool] = {}
        for role in self.roles:
            found[f"{role}_distance_ratio"] = False
            for other in self.looks_at:
                found |= {f"{role}_distance_to_{other}": False, f"{role}_cka_to_{other}": True}
        return found

    def check(self, corpus: Corpus, suite: Any) -> str:
        """The facts of the roles."""
        return content_key(*(e for role in self.roles for e in shown_facts(corpus, suite, role)))

    def measure(self, scene: Scene) -> Report:
        """One forward per batch of each model."""
        model = inner_model(scene)
        if not scene.beside:
            raise NotMeasured(
                "there is no model to compare with; give one that never saw the forget set, "
                f"{_WHERE_FROM[GOLD]}, or the one before unlearning, {_WHERE_FROM[TARGET]}"
            )
        report = nothing_yet(self)
        for name in self.looks_at:
            if name not in scene.beside:
                report.notes.append(
                    f"Not measured: part '{scene.part}': what compares with {name}, which is not there. Name it: "
                    f"{_WHERE_FROM[name]}."
                )
        depth = len(blocks_of(model))
        layers = sorted({round(v) for v in np.linspace(0, depth, min(self.layers, depth + 1))})
        for role in self.roles:
            answers = answers_of(scene, shown_facts(scene.corpus, scene.suite, role), self.tokens)
            if answers:
                self._role(scene, report, model, role, answers, layers)
            else:
                report.notes.append(
                    f"Not measured: {role}_distance_to_gold and the like: no {role} fact to ask."
                )
        return report

    def _role(
        self,
        scene: Scene,
        report: Report,
        model: Any,
        role: str,
        answers: Sequence[Answer],
        layers: Sequence[int],
    ) -> None:
        own = states_of(scene, model, answers, layers)
        key = content_key([a.pair for a in answers], list(layers))
        others = {
            name: beside.look(key, lambda loaded: states_of(scene, loaded.model, answers, layers))
            for name, beside in scene.beside.items()
        }
        subjects = [a.example.subject for a in answers]
        figures: dict[str, list[float]] = {}
        for name, theirs in others.items():
            if own[0].shape != theirs[0].shape:
                report.notes.append(
                    f"Not measured: {role}_distance_to_{name}: its states have another size or number of layers."
                )
                continue
            figures |= self._to(scene, report, role, name, (own, theirs), subjects, layers)
        if (
            GOLD in others
            and TARGET in others
            and others[GOLD][0].shape == others[TARGET][0].shape == own[0].shape
        ):
            far, base = (by_answer(a, others[GOLD], relative_distance) for a in (own, others[TARGET]))
            name = f"{role}_distance_ratio"
            report.metrics[name] = ratio(scene, name, far[:, 1:].mean(1), base[:, 1:].mean(1), subjects)
            points = [
                (float(n), ratio(scene, name, far[:, i], base[:, i], subjects)) for i, n in enumerate(layers)
            ]
            report.curves[name] = curve("", "layer", "ratio", points)
        for i, a in enumerate(answers):
            e = a.example
            row = scene.sample(role, e.id, e.subject, str(e.role), question=a.question, reference=e.answer)
            report.samples.append({**row, **{n: v[i] for n, v in figures.items()}})

    def _to(
        self,
        scene: Scene,
        report: Report,
        role: str,
        name: str,
        states: tuple[States, States],
        subjects: Sequence[str],
        layers: Sequence[int],
    ) -> dict[str, list[float]]:
        """Figures and curves against one model; returns its distances answer by answer."""
        found: dict[str, list[float]] = {}
        for kind, measure in (("distance", relative_distance), ("cosine_distance", cosine_distance)):
            far, key = by_answer(*states, measure), f"{role}_{kind}_to_{name}"
            values = found[f"{kind}_to_{name}"] = far[:, 1:].mean(1).tolist()
            if kind == "distance":
                report.metrics[key] = scene.mean(key, values, subjects, False, share=False)
            points = [
                (float(n), scene.mean(key, far[:, i].tolist(), subjects, False, share=False))
                for i, n in enumerate(layers)
            ]
            panel = f"distance to {name}" if kind == "distance" else ""
            report.curves[key] = curve(panel, "layer", "|h - h'| / |h'|" if panel else "1 - cos", points)
        own, theirs = (np.concatenate(s, axis=1) for s in states)  # [layers, positions, H]
        alike = [linear_cka(a, b) for a, b in zip(own, theirs, strict=True)]
        key, n = f"{role}_cka_to_{name}", own.shape[1]
        known = [v for v in alike[1:] if v is not None]
        report.metrics[key] = Metric(
            float(np.mean(known)) if known else None, n if known else 0, None, None, True
        )
        report.curves[key] = curve(
            f"CKA to {name}",
            "layer",
            "CKA",
            [(float(i), Metric(v, n)) for i, v in zip(layers, alike, strict=True)],
        )
        return found


def states_of(scene: Scene, model: Any, answers: Sequence[Answer], layers: Sequence[int]) -> States:
    """For each answer the states before its K scored tokens, [layers, K, H] float32."""

    def pick(states: Tensor, some: list[Answer]) -> States:
        at = torch.tensor(layers, device=states.device)
        return [own[at, :-1].float().cpu().numpy() for own in split_states(states, some)]

    if max(layers) != len(blocks_of(model)):  # another depth: what there is, and the shapes tell
        layers = range(len(blocks_of(model)) + 1)
    return each_states(scene, model, answers, pick)


def by_answer(own: States, theirs: States, measure: Any) -> np.ndarray:
    """Distances, mean over an answer's positions. [answers, layers]"""
    return np.stack([measure(a, b).mean(1) for a, b in zip(own, theirs, strict=True)])


def ratio(scene: Scene, name: str, far: np.ndarray, base: np.ndarray, subjects: Sequence[str]) -> Metric:
    """Mean of one over mean of the other, with an interval over subjects; None where the latter is 0."""
    if not base.mean() > 0:
        return Metric(None, 0, None, None, False)
    low = high = None
    weights = cluster_weights(subjects, scene.suite.bootstrap, (name, scene.seed))
    if weights is not None:
        over = weights @ base
        drawn = (weights @ far)[over > 0] / over[over > 0]
        low, high = percentiles(drawn, scene.suite.confidence) if len(drawn) else (None, None)
    return Metric(float(far.mean() / base.mean()), len(far), low, high, False)
