"""Linear probes: can a classifier read forget answers, or that they were memorised, off the hidden states?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example, Role, Split
from harmonize.evaluation.parts.inside import (
    Answer,
    answer_to,
    answers_of,
    each_states,
    inner_model,
    nothing_yet,
    split_states,
    with_value,
)
from harmonize.evaluation.parts.rows import content_key, limited, role_problems, shown_facts
from harmonize.evaluation.probing import Probed, Swap, across_groups, fit, flipped, permuted, swaps
from harmonize.evaluation.questions import ask
from harmonize.evaluation.report import Report, curve
from harmonize.evaluation.suite import Part, Scene
from harmonize.models.body import blocks_of
from harmonize.tracking.metric import Metric

ANSWER, MEMORIZATION = "answer probe", "memorization probe"
_FORGET, _RETAIN = "forget_answer_probe", "retain_answer_probe"
_SIGNATURE, _RETAIN_SIGNATURE = "forget_memorization_probe", "retain_memorization_probe"


@dataclass(frozen=True, eq=False)
class _Points:
    """States and classes: x [layers, n, H], y [n], the subject of each, which answer it belongs to, and its name."""

    x: np.ndarray
    y: np.ndarray
    subjects: list[str]
    answer: list[int]
    names: list[str]

    def of(self, chosen: np.ndarray) -> _Points:
        """Some of them."""
        at = np.flatnonzero(chosen)
        own = ([every[i] for i in at] for every in (self.subjects, self.answer, self.names))
        return _Points(self.x[:, at], self.y[at], *own)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Probes(Part):
    """Two probes by logistic regression, layer by layer, each tested on subjects that it was not trained on.

    *Answer probe*: from the state before a scored token (the true answer before it given) to that token. Trained on
    facts of other roles that the model was shown, tested on forget facts: `forget_answer_probe`. The same probe on
    held-out facts of `retain`, which the model knows, says whether it works at all: `retain_answer_probe`. Chance: the
    commonest training class (`_chance`).

    *Memorization probe* (PGA's cross-sequence protocol): does the mean state after the scored tokens tell true forget
    answers from the same answers given to another subject? Groups of subjects are left out in turn. Every answer stands
    once as true and once as control in its group, so questions and answers by themselves say nothing: chance is 0.5.
    `forget_memorization_probe`; `_projected`: fitted anew without the direction that was found;
    `retain_memorization_probe`: the same of held-out retain facts, all of which the model knows.

    Each is the highest over the layers (the curves have all): read it against gold's, which is chosen the same way.
    `_selectivity`: minus the accuracy of the same probe trained on shuffled labels, in the same layer.

    Args:
        trained_on: Roles whose facts the answer probe learns from.
        c: Inverse strength of the L2 penalty, on standardised states.
        folds: Groups of the memorization probe that are left out in turn, at most.
        layers: Layers at most, evenly spaced from the first to the last.
        tokens: Scored tokens of an answer at most, the first ones.
        classes: Tokens that the answer probe tells apart at most, the commonest among the tested ones.
        most: Training facts at most.
        random_init: Also the same probes on a model of this architecture with random weights (as much memory again).

    Source: PGA, arXiv 2605.01699 [abstract]: leave-one-out over sequences, memorised against control, the gap over
        chance by layer, controls by random initialisation and by projecting the direction out. What a control is, the
        features, the penalty, selectivity (Hewitt and Liang 2019) [recall] and the answer probe are our choice.
    """

    trained_on: Sequence[str] = ("neighbor", "retain")
    c: float = 0.1
    folds: int = 10
    layers: int = 9
    tokens: int = 4
    classes: int = 50
    most: int = 500
    random_init: bool = False

    def problems(self, at: str) -> list[str]:
        """Roles, and numbers above 0."""
        found = role_problems(f"{at}.trained_on", self.trained_on)
        if not self.trained_on or Role.FORGET in self.trained_on:
            found.append(
                f"{at}.trained_on: facts of other roles than forget. For example {at}.trained_on=[retain]."
            )
        low = {"folds": 2, "layers": 1, "tokens": 1, "classes": 2, "most": 2}
        for name, least in low.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                found.append(f"{at}.{name}={value}: expected a whole number from {least} on.")
        if not isinstance(self.c, int | float) or isinstance(self.c, bool) or not self.c > 0:
            found.append(f"{at}.c={self.c}: expected a number above 0. For example {at}.c=0.1.")
        return found

    def figures(self) -> dict[str, bool]:
        """The two probes, their controls, and whether they work."""
        own = (_FORGET, f"{_FORGET}_chance", f"{_FORGET}_selectivity")
        signature = (_SIGNATURE, f"{_SIGNATURE}_projected", f"{_SIGNATURE}_selectivity")
        return dict.fromkeys((*own, *signature), False) | dict.fromkeys((_RETAIN, _RETAIN_SIGNATURE), True)

    def check(self, corpus: Corpus, suite: Any) -> str:
        """The facts of the roles."""
        return content_key(*shown_facts(corpus, suite, Role.FORGET), *self._known(corpus, ()))

    def measure(self, scene: Scene) -> Report:
        """One forward per batch, then a few small fits per layer."""
        model = inner_model(scene)
        report = nothing_yet(self)
        self._measure(scene, model, report, "")
        if self.random_init:
            self._measure(scene, random_copy(model), report, "_random_init")
        return report

    def _measure(self, scene: Scene, model: Any, report: Report, suffix: str) -> None:
        depth = len(blocks_of(model))
        layers = sorted({round(v) for v in np.linspace(0, depth, min(self.layers, depth + 1))})
        forget = shown_facts(scene.corpus, scene.suite, Role.FORGET)
        self._answer_probe(scene, model, report, layers, forget, suffix)
        self._memorization_probe(scene, model, report, layers, forget, suffix)

    def _known(self, corpus: Corpus, without: Sequence[str]) -> list[Example]:
        """Facts that the model was shown, of subjects that are not tested."""
        facts = [e for role in self.trained_on for e in corpus.facts(role, Split.TRAIN)]
        return limited([e for e in facts if e.subject not in without], self.most, lambda e: e.fact_id)

    # --- answers -------------------------------------------------------------------------------------------------

    def _answer_probe(
        self,
        scene: Scene,
        model: Any,
        report: Report,
        layers: Sequence[int],
        forget: Sequence[Example],
        suffix: str,
    ) -> None:
        retain = shown_facts(scene.corpus, scene.suite, Role.RETAIN)
        asked = {
            _FORGET: answers_of(scene, forget, self.tokens),
            _RETAIN: answers_of(scene, retain, self.tokens),
        }
        tested = {e.subject for e in (*forget, *retain)}
        known = answers_of(scene, self._known(scene.corpus, sorted(tested)), self.tokens)
        train = _before(scene, model, known, layers)
        points = {name: _before(scene, model, some, layers) for name, some in asked.items() if some}
        wanted = _commonest(points[_FORGET].y, self.classes) if _FORGET in points else set()
        classes = wanted & set(train.y.tolist())
        train = train.of(np.isin(train.y, sorted(classes)))
        seen = {name: p.of(np.isin(p.y, sorted(classes))) for name, p in points.items()}
        count, of = (len(seen[_FORGET].y), len(points[_FORGET].y)) if _FORGET in points else (0, 0)
        if len(classes) < 2 or count < 2 or 2 * count < of:
            report.metrics.update({f"{n}{suffix}": Metric(None, 0, None, None, n == _RETAIN) for n in asked})
            report.notes.append(
                f"Not measured: {_FORGET}{suffix}: {count} of {of} scored forget tokens also stand in answers of "
                f"{', '.join(self.trained_on)} that a probe could learn them from."
            )
            return
        if count < of:
            report.notes.append(
                f"{_FORGET}{suffix}: {of - count} of {of} scored forget tokens are left out, since no training answer "
                "has them."
            )
        if _RETAIN not in seen or not len(seen[_RETAIN].y):
            report.metrics[f"{_RETAIN}{suffix}"] = Metric(None, 0, None, None, True)
            report.notes.append(
                f"Not measured: {_RETAIN}{suffix}, which would show that the probe works: no training answer has a "
                "scored token of a held-out retain answer."
            )
        controls = permuted(train.y, train.names, (scene.seed,))
        commonest = int(np.bincount(train.y).argmax())
        curves: dict[str, list[Metric]] = {}

        def note(name: str, right: np.ndarray, points: _Points) -> None:
            up = name.startswith(_RETAIN)
            curves.setdefault(name, []).append(
                scene.mean(name, right.astype(float).tolist(), points.subjects, up)
            )

        decoded: list[list[int]] = [[] for _ in asked[_FORGET]]
        for i, layer in enumerate(layers):
            probe, control = fit(train.x[i], train.y, self.c), fit(train.x[i], controls, self.c)
            for name, p in seen.items():
                if len(p.y):
                    note(name, probe.predict(p.x[i]) == p.y, p)
            p = seen[_FORGET]
            note(f"{_FORGET}_control", control.predict(p.x[i]) == p.y, p)
            note(f"{_FORGET}_chance", p.y == commonest, p)
            right = probe.predict(p.x[i]) == p.y
            for n in range(len(decoded)):
                own = right[np.asarray(p.answer) == n]
                if len(own) and own.all():
                    decoded[n].append(layer)
        self._keep(report, curves, layers, ANSWER, suffix, _FORGET)
        if not suffix:
            for a, found in zip(asked[_FORGET], decoded, strict=True):
                e = a.example
                row = scene.sample(
                    "answer", e.id, e.subject, str(e.role), question=a.question, reference=e.answer
                )
                report.samples.append({**row, "layers_decoded": found})

    # --- memorised or not ----------------------------------------------------------------------------------------

    def _memorization_probe(
        self,
        scene: Scene,
        model: Any,
        report: Report,
        layers: Sequence[int],
        forget: Sequence[Example],
        suffix: str,
    ) -> None:
        retain = shown_facts(scene.corpus, scene.suite, Role.RETAIN)
        curves: dict[str, list[Metric]] = {}
        for name, facts in ((_SIGNATURE, forget), (_RETAIN_SIGNATURE, retain)):
            tied = swaps(facts)
            if len({s.group for s in tied}) < 2:
                report.metrics[f"{name}{suffix}"] = Metric(None, 0, None, None, name == _RETAIN_SIGNATURE)
                report.notes.append(
                    f"Not measured: {name}{suffix}: it needs two groups of two subjects each, with answers that "
                    f"differ; there are {len({s.group for s in tied})}."
                )
                continue
            sequences = [s for swap in tied for s in _sequences(scene, swap, self.tokens)]
            for each, metrics in self._signatures(scene, model, layers, sequences, name).items():
                curves[each] = metrics
        if _SIGNATURE in curves:
            self._keep(report, curves, layers, MEMORIZATION, suffix, _SIGNATURE)

    def _signatures(
        self, scene: Scene, model: Any, layers: Sequence[int], sequences: Sequence[_Sequence], name: str
    ) -> dict[str, list[Metric]]:
        """By layer: can the true sequences be told from the controls, across groups? With controls for forget."""
        states = each_states(
            scene,
            model,
            [s.answer for s in sequences],
            lambda states, some: [_after(own, layers) for own in split_states(states, some)],
        )
        x = np.stack(states, axis=1)  # [layers, n, H]
        y = np.asarray([s.true for s in sequences])
        groups = [s.group for s in sequences]
        labels = {name: y}
        if name == _SIGNATURE:
            labels |= {
                f"{name}_control": flipped(y, [s.fact for s in sequences], (scene.seed,)),
                f"{name}_projected": y,
            }
        found: dict[str, list[Metric]] = {}
        for each, classes in labels.items():
            for states_of_layer in x:
                project = each.endswith("_projected")
                probed = across_groups(
                    states_of_layer, classes, groups, c=self.c, folds=self.folds, project=project
                )
                found.setdefault(each, []).append(_accuracy(scene, each, probed, groups))
        return found

    def _keep(
        self,
        report: Report,
        curves: dict[str, list[Metric]],
        layers: Sequence[int],
        panel: str,
        suffix: str,
        name: str,
    ) -> None:
        """Curves of all layers; as figures the best layer, and what the controls are there."""
        for each, metrics in curves.items():
            points = zip([float(n) for n in layers], metrics, strict=True)
            report.curves[f"{each}{suffix}"] = curve(panel, "layer", "accuracy", points)
        values = [m.value or 0.0 for m in curves[name]]
        best = values.index(max(values))
        for each, metrics in curves.items():
            if each in (name, _RETAIN, _RETAIN_SIGNATURE):
                report.metrics[f"{each}{suffix}"] = max(metrics, key=lambda m: m.value or 0.0)
            elif not each.endswith("_control"):
                report.metrics[f"{each}{suffix}"] = metrics[best]
        own, control = curves[name][best], curves[f"{name}_control"][best]
        gap = (own.value or 0.0) - (control.value or 0.0)
        report.metrics[f"{name}_selectivity{suffix}"] = Metric(gap, own.n, None, None, False)


@dataclass(frozen=True)
class _Sequence:
    """An answer that is true (1) or a control (0), its fact and its group."""

    answer: Answer
    true: int
    fact: str = field(repr=False)
    group: str = ""


def _sequences(scene: Scene, swap: Swap, tokens: int) -> list[_Sequence]:
    """The true answer and the control, once for each question."""
    fact, other = swap.fact, swap.other
    control = with_value(fact, other.value if fact.value and other.value else other.answer)
    found = []
    for q in ask([fact], scene.split, scene.renderer, scene.instruction, scene.instruct_roles):
        for true, example in ((1, fact), (0, control)):
            answer = answer_to(scene, example, q.text, q.prompt, tokens)
            found.append(_Sequence(answer, true, fact.fact_id, swap.group))
    return found


def _before(scene: Scene, model: Any, answers: Sequence[Answer], layers: Sequence[int]) -> _Points:
    """The state before every scored token, and that token."""

    def pick(states: Tensor, some: list[Answer]) -> list[np.ndarray]:
        at = torch.tensor(layers, device=states.device)
        return [own[at, :-1].float().cpu().numpy() for own in split_states(states, some)]

    found = each_states(scene, model, answers, pick)
    x = np.concatenate(found, axis=1) if found else np.empty((len(layers), 0, 1), dtype=np.float32)
    y = [t for a in answers for t in a.scored]
    which = [(i, j) for i, a in enumerate(answers) for j in range(len(a.scored))]
    names = [f"{answers[i].example.id} {j} {answers[i].question}" for i, j in which]
    subjects = [answers[i].example.subject for i, _ in which]
    return _Points(x, np.asarray(y, dtype=np.int64), subjects, [i for i, _ in which], names)


def _after(states: Tensor, layers: Sequence[int]) -> np.ndarray:
    """The mean state over the positions that have read a scored token. [L + 1, K + 1, H] -> [layers, H]."""
    at = torch.tensor(layers, device=states.device)
    found: np.ndarray = states[at, 1:].float().mean(1).cpu().numpy()
    return found


def _accuracy(scene: Scene, name: str, probed: Probed, groups: Sequence[str]) -> Metric:
    chosen = np.flatnonzero(probed.tested)
    right = probed.right[chosen].astype(float).tolist()
    return scene.mean(name, right, [groups[int(i)] for i in chosen], name == _RETAIN_SIGNATURE)


def _commonest(y: np.ndarray, most: int) -> set[int]:
    values, counts = np.unique(y, return_counts=True)
    order = sorted(range(len(values)), key=lambda i: (-counts[i], values[i]))[:most]
    return {int(values[i]) for i in order}


def random_copy(model: Any) -> Any:
    """A model of the same architecture with random weights, always the same ones."""
    from transformers import AutoModelForCausalLM

    first = next(model.parameters())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(model.config)
    return made.to(first.device, first.dtype).eval()
