"""REMIND: the loss landscape around forget texts, and whether it gives away that they were unlearned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from harmonize.data.corpus import Corpus
from harmonize.data.example import Role
from harmonize.evaluation.intervals import generator
from harmonize.evaluation.likelihood import Pair
from harmonize.evaluation.parts.membership import NOTHING_LEFT, Text, area_metric, read_texts
from harmonize.evaluation.parts.rows import content_key, limited, role_problems, shown_facts
from harmonize.evaluation.probing import grouped_probabilities
from harmonize.evaluation.report import Report, curve
from harmonize.evaluation.scores.landscape import NAMES, Landscape, landscape
from harmonize.evaluation.suite import NotMeasured, Part, Scene
from harmonize.tracking.direction import Better
from harmonize.tracking.metric import Metric

PANEL = "loss landscape"
QUESTION, ANSWER, ALL = "question", "answer", "all"
_REPORTED = ("loss", "rise", "slope", "curvature")
_CHUNK = 1 << 24  # similarities that are held at once
_HOLDOUT = "holdout"


@dataclass(frozen=True)
class Remind(Part):
    """How the loss of a text rises when a few of its tokens give way to their nearest neighbours in embedding space.

    - `remind_<role>_loss`, `_rise`, `_slope`, `_curvature`: means over texts (`harmonize.evaluation.scores.landscape`).
    - `remind_auc`: can a classifier of these features tell forget texts from those of `versus`, which the model was
      shown or knows? 0.5 = it cannot. Read it against gold's, which never saw the forget texts.
    - `remind_gold_auc`: can it tell this model's landscape around forget texts from gold's around the same texts? 0.5 =
      like a model that never saw them. Needs the reference model's record.
    - with `holdout`: `remind_ovr_auc`, the source's three classes (forgotten, retained, never seen), one against the
      rest, mean of the three; 0.5 is chance.

    A classifier is logistic regression on standardised features, cross-validated over groups of subjects. It needs
    queries alone, so guarded models are measured, too; the neighbours are those of the model's own input embeddings.

    Args:
        versus: The role that the forget texts are told from.
        tokens: How many tokens are replaced.
        draws: Perturbed texts for each of these numbers.
        neighbours: Nearest tokens (by cosine) that one of them is drawn from.
        where: Tokens that may be replaced: `question`, `answer` or `all`. The loss is that of the answer as it is read.
        holdout: A JSON or JSON Lines file of {question, answer} or {text} that no model was trained on.
        folds: Groups of subjects at most.

    Source: REMIND, arXiv 2511.04228 [abstract]: neighbours by embedding proximity, loss over small input variations,
        flat around unlearned texts, classified from these patterns. Numbers, features, classifier and the comparison
        with gold are our choice; no code was read.
    """

    compares: ClassVar[bool] = True

    versus: str = "retain"
    tokens: Sequence[int] = (1, 2, 4)
    draws: int = 8
    neighbours: int = 8
    where: str = ALL
    holdout: str | None = None
    folds: int = 5

    def problems(self, at: str) -> list[str]:
        """A role, numbers above 0, a place, and a file that is there."""
        found = role_problems(f"{at}.versus", [self.versus])
        if self.versus == Role.FORGET:
            found.append(f"{at}.versus=forget: it is told from another role. For example {at}.versus=retain.")
        wrong = [k for k in self.tokens if not isinstance(k, int) or isinstance(k, bool) or k < 1]
        if wrong or not self.tokens:
            found.append(
                f"{at}.tokens: {wrong or 'nothing'} is no number of tokens. For example {at}.tokens=[1,2,4]."
            )
        for name, least in {"draws": 1, "neighbours": 1, "folds": 2}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                found.append(f"{at}.{name}={value}: expected a whole number from {least} on.")
        if self.where not in (QUESTION, ANSWER, ALL):
            found.append(f"{at}.where={self.where}: expected {QUESTION}, {ANSWER} or {ALL}.")
        if self.holdout and not Path(self.holdout).expanduser().is_file():
            found.append(
                f"{at}.holdout={self.holdout}: there is no such file. Correct it: {at}.holdout=<file>."
            )
        return found

    def figures(self) -> Mapping[str, Better]:
        """The landscape around both roles, and the two areas."""
        found: dict[str, Better] = {"remind_auc": NOTHING_LEFT, "remind_gold_auc": NOTHING_LEFT}
        for role in (Role.FORGET, self.versus):
            found |= {f"remind_{role}_{name}": _up(role, name) for name in _REPORTED}
        return found

    def check(self, corpus: Corpus, suite: Any) -> str:
        """The texts of both roles, and the file."""
        sets = self._texts(corpus, suite)
        return content_key(*(vars(t) for some in sets.values() for t in some))

    def measure(self, scene: Scene) -> Report:
        """A batch of queries for each text."""
        sets = self._texts(scene.corpus, scene.suite)
        texts = [(role, t) for role, some in sets.items() for t in some]
        if not sets[Role.FORGET] or not sets[self.versus]:
            raise NotMeasured(f"there are no facts of forget, or none of {self.versus}")
        found, by_step = self._landscapes(scene, [t for _, t in texts])
        report = Report({})
        own: dict[str, list[tuple[Text, Landscape]]] = {role: [] for role in sets}
        for (role, text), each in zip(texts, found, strict=True):
            own[role].append((text, each))
        for role, rows in own.items():
            for name in _REPORTED:
                key, values = f"remind_{role}_{name}", [float(getattr(each, name)) for _, each in rows]
                report.metrics[key] = scene.mean(
                    key, values, [t.subject for t, _ in rows], _up(role, name), share=False
                )
            points = []
            for k in sorted({k for steps in by_step for k in steps}):
                at = [i for i, (r, _) in enumerate(texts) if r == role and k in by_step[i]]
                rises = [by_step[i][k] - found[i].loss for i in at]
                of = [texts[i][1].subject for i in at]
                points.append((float(k), scene.mean("remind", rises, of, False, share=False)))
            report.curves[f"remind_{role}_rise"] = curve(
                PANEL, "replaced tokens", "rise of the loss, nats", points
            )
        forget = own[Role.FORGET]
        areas = {"remind_auc": self._told_apart(scene, "remind_auc", forget, own[self.versus])}
        if _HOLDOUT in own:
            areas["remind_ovr_auc"] = self._three(list(own.values()))
        report.metrics.update(areas)
        report.notes += [
            f"Not measured: {name}: too few subjects to train a classifier on some and test it on others."
            for name, metric in areas.items()
            if metric.value is None
        ]
        self._against_gold(scene, report, forget)
        report.rows = {scene.part: {n: {t.id: float(getattr(e, n)) for t, e in forget} for n in NAMES}}
        for (role, text), each in zip(texts, found, strict=True):
            figures = {f"remind_{n}": float(getattr(each, n)) for n in NAMES}
            known = role if role != _HOLDOUT else ""
            shown = {"question": text.question or "", "reference": text.text}
            report.samples.append(scene.sample(role, text.id, text.subject, known, **shown, **figures))
        return report

    def _texts(self, corpus: Corpus, suite: Any) -> dict[str, list[Text]]:
        sets = {
            str(role): [
                Text(e.id, e.answer, e.subject, e.phrasings("test")[0])
                for e in shown_facts(corpus, suite, role)
            ]
            for role in (Role.FORGET, self.versus)
        }
        if self.holdout:
            sets[_HOLDOUT] = limited(read_texts(self.holdout), suite.max_examples, lambda t: t.id)
        return sets

    def _landscapes(
        self, scene: Scene, texts: Sequence[Text]
    ) -> tuple[list[Landscape], list[dict[int, float]]]:
        """Figures of each text, and its mean loss by number of replaced tokens."""
        places = [self._places(scene, t) for t in texts]
        close = nearest_tokens(scene, {ids[p] for ids, _, where in places for p in where}, self.neighbours)
        pairs: list[Pair] = []
        steps: list[list[int]] = []
        for text, (ids, start, where) in zip(texts, places, strict=True):
            pairs.append((ids[:start], ids[start:]))
            steps.append([])
            for k in sorted({min(k, len(where)) for k in self.tokens}):
                for draw in range(self.draws):
                    changed = replaced(ids, where, close, k, (text.id, k, draw))
                    pairs.append((changed[:start], changed[start:]))
                    steps[-1].append(k)
        losses = iter(
            -value / len(target) for value, (_, target) in zip(self._ask(scene, pairs), pairs, strict=True)
        )
        found, means = [], []
        for own in steps:
            loss, around = next(losses), dict[int, list[float]]()
            for k in own:
                around.setdefault(k, []).append(next(losses))
            found.append(landscape(loss, around))
            means.append({k: float(np.mean(v)) for k, v in around.items()})
        return found, means

    def _ask(self, scene: Scene, pairs: Sequence[Pair]) -> list[float]:
        size, found = scene.suite.batch_size, list[float]()
        part = 16 * size  # sorted by length within, so that batches are of neighbouring lengths
        for start in range(0, len(pairs), part):
            found += scene.surface.log_probs(pairs[start : start + part], size)
            if scene.progress is not None:
                scene.progress(len(found), len(pairs))
        return found

    def _places(self, scene: Scene, text: Text) -> tuple[tuple[int, ...], int, list[int]]:
        """All ids of a text, where its scored ones begin, and which may be replaced."""
        if text.question is None:
            (head, body) = scene.passage(text.text, f"text '{text.id}'")
            ids = (*head, *body)
            return ids, len(head), list(range(len(head), len(ids)))
        prompt, target = scene.prompt(text.question), scene.target(text.text, f"text '{text.id}'")
        scene.check_room([(prompt, target)])
        first, stop = own_span(scene, text.question, prompt)
        asked = list(range(first, stop)) if self.where != ANSWER else []
        said = list(range(len(prompt), len(prompt) + len(target))) if self.where != QUESTION else []
        if not asked and not said:
            said = list(range(len(prompt), len(prompt) + len(target)))
        return (*prompt, *target), len(prompt), [*asked, *said]

    def _told_apart(
        self,
        scene: Scene,
        name: str,
        left: Sequence[tuple[Text, Landscape]],
        right: Sequence[tuple[Text, Landscape]],
    ) -> Metric:
        rows = [*left, *right]
        x = np.asarray([each.features() for _, each in rows])
        y = np.asarray([1] * len(left) + [0] * len(right))
        scores = grouped_probabilities(x, y, [t.subject for t, _ in rows], self.folds)
        if scores is None:
            return Metric.of(None, 0, better=NOTHING_LEFT)
        return area_metric(scene, name, scores[:, 1].tolist(), [t for t, _ in left], [t for t, _ in right])

    def _three(self, sets: Sequence[Sequence[tuple[Text, Landscape]]]) -> Metric:
        from sklearn.metrics import roc_auc_score

        rows = [(n, t, e) for n, some in enumerate(sets) for t, e in some]
        x, y = np.asarray([e.features() for _, _, e in rows]), np.asarray([n for n, _, _ in rows])
        scores = grouped_probabilities(x, y, [t.subject for _, t, _ in rows], self.folds)
        if scores is None:
            return Metric.of(None, 0, better=NOTHING_LEFT)
        area = float(roc_auc_score(y, scores, multi_class="ovr"))
        return Metric.of(area, len(rows), better=NOTHING_LEFT)

    def _against_gold(self, scene: Scene, report: Report, forget: Sequence[tuple[Text, Landscape]]) -> None:
        name = "remind_gold_auc"
        known: Mapping[str, Mapping[str, float]] = scene.reference or {}
        if any(n not in known for n in NAMES):
            report.metrics[name] = Metric.of(None, 0, better=NOTHING_LEFT)
            report.notes.append(
                f"Not measured: {name}: it compares with a model that never saw the forget set. Give its record: "
                "suite.reference=<run folder>."
            )
            return
        theirs = [(t, Landscape(**{n: known[n][t.id] for n in NAMES})) for t, _ in forget]
        report.metrics[name] = self._told_apart(scene, name, forget, theirs)


def _up(role: str, name: str) -> bool:
    """Whether unlearning wants more of it: loss of what is to go, a sharp landscape around what stays."""
    return (role == Role.FORGET) == (name == "loss")


def own_span(scene: Scene, question: str, prompt: Sequence[int]) -> tuple[int, int]:
    """Where a prompt's ids are the question's own and not its template's: from, and up to.

    Found by asking something else in the same template; ids that both share at either end count as the template's.
    """
    other = scene.prompt("0" if not question.startswith("0") else "1")
    least = min(len(prompt), len(other))
    first = next((i for i in range(least) if prompt[i] != other[i]), least)
    last = next((i for i in range(least - first) if prompt[-1 - i] != other[-1 - i]), 0)
    return first, len(prompt) - last


def nearest_tokens(scene: Scene, ids: Iterable[int], count: int) -> dict[int, tuple[int, ...]]:
    """The ids of the nearest tokens by cosine of input embeddings, itself, special and padding ids left out.

    Raises:
        NotMeasured: The surface lends no embeddings.
    """
    model: Any = getattr(scene.surface, "model", None)
    layer = getattr(model, "get_input_embeddings", lambda: None)()
    weight = getattr(layer, "weight", None)
    if weight is None:
        raise NotMeasured(
            "this model shows no input embeddings, which the neighbours of a token are found by"
        )
    tokenizer = scene.renderer.tokenizer
    wanted = sorted(set(ids))
    usable = torch.ones(weight.shape[0], dtype=torch.bool, device=weight.device)
    usable[len(tokenizer) :] = False
    usable[[i for i in tokenizer.all_special_ids if 0 <= i < weight.shape[0]]] = False
    found: dict[int, tuple[int, ...]] = {}
    with torch.no_grad():
        unit = torch.nn.functional.normalize(weight.float(), dim=1)
        size = max(1, _CHUNK // weight.shape[0])
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
            close = unit[part] @ unit.t()
            close[:, ~usable] = float("-inf")
            close[torch.arange(len(part)), part] = float("-inf")
            # equal ones by id, so that no backend decides
            order = close.sort(dim=1, descending=True, stable=True).indices[:, :count]
            found.update(zip(part, map(tuple, order.tolist()), strict=True))
    return found


def replaced(
    ids: Sequence[int],
    where: Sequence[int],
    close: Mapping[int, Sequence[int]],
    count: int,
    key: tuple[object, ...],
) -> tuple[int, ...]:
    """The ids with so many of them, at places that the key decides, replaced by one of their nearest."""
    draw = generator("remind", *key)
    changed = list(ids)
    for at in draw.choice(len(where), size=count, replace=False):
        place = where[int(at)]
        options = close[ids[place]]
        changed[place] = options[int(draw.integers(len(options)))]
    return tuple(changed)
