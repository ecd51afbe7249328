"""Logit lens: is the true answer decodable in a layer below the last one, with the model's own norm and head?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harmonize.data.corpus import Corpus
from harmonize.data.example import Role
from harmonize.errors import ModelError
from harmonize.evaluation.one_pass import token_statistics
from harmonize.evaluation.parts.inside import Answer, answers_of, each_states, inner_model, nothing_yet
from harmonize.evaluation.parts.rows import content_key, role_problems, shown_facts
from harmonize.evaluation.report import Report, curve
from harmonize.evaluation.scores.lens import Reading, decodable, earliest
from harmonize.evaluation.suite import NotMeasured, Part, Scene
from harmonize.models.layers import Lens

PANEL = "logit lens"


@dataclass(frozen=True)
class LogitLens(Part):
    """What the model's own final norm and head read of the true answer after every layer.

    At the positions that predict the scored tokens (the value; all of the answer where there is none), the true answer
    before them given. Layer 0 is what enters the first block; below the last: all layers but the last.

    - `<role>_lens_below_last`: the probability of the scored tokens (geometric mean), its mean over questions in the
      layer below the last where that is highest. `<role>_lens_last`: the same in the last layer, which is the output.
    - `<role>_lens_decodable_top<k>`: share of questions whose first scored token is among the k likeliest in some
      layer below the last. `<role>_lens_decodable_whole`: all scored tokens are the likeliest, in one such layer.
    - `<role>_lens_hidden`: share with the first token likeliest below the last layer but not in it.
    - `<role>_internal_answer_score`: share of (question, layer below the last) with the first token likeliest.
    - `<role>_lens_earliest_top<k>`: the earliest such layer as a share of the depth, over questions that have one.

    Facts as in `memorization`: forget facts that unlearning was shown, others of held-out subjects.

    Args:
        roles: Whose answers.
        top: The ks.

    Source: the logit lens (nostalgebraist 2020) [recall]; an answer alive until the last layer and the Internal Answer
        Score: arXiv 2410.00382 [note], whose exact definition was not read. The other figures are ours.
    """

    roles: Sequence[str] = ("forget", "retain")
    top: Sequence[int] = (1, 5)

    def problems(self, at: str) -> list[str]:
        """Roles with answers, and ranks from 1 on."""
        found = role_problems(f"{at}.roles", self.roles)
        wrong = [k for k in self.top if not isinstance(k, int) or k < 1]
        if wrong or not self.top:
            found.append(
                f"{at}.top: {wrong or 'nothing'} is no number of tokens. For example {at}.top=[1,5]."
            )
        return found

    def figures(self) -> dict[str, bool]:
        """All of each role."""
        plain = ("lens_below_last", "lens_last", "lens_decodable_whole", "internal_answer_score")
        names = dict.fromkeys((*plain, *(f"lens_decodable_top{k}" for k in self.top)), False)
        names |= dict.fromkeys((f"lens_earliest_top{k}" for k in self.top), True)
        found = {f"{role}_{n}": up == (role == Role.FORGET) for role in self.roles for n, up in names.items()}
        return found | {f"{role}_lens_hidden": False for role in self.roles}

    def check(self, corpus: Corpus, suite: Any) -> str:
        """The facts of the roles."""
        return content_key(*(e for role in self.roles for e in shown_facts(corpus, suite, role)))

    def measure(self, scene: Scene) -> Report:
        """One forward per batch of answers; the head runs on scored positions alone, a chunk at a time."""
        model = inner_model(scene)
        try:
            lens = Lens.of(model)
        except ModelError as error:
            raise NotMeasured(str(error).rstrip(".")) from error
        report = nothing_yet(self)
        for role in self.roles:
            answers = answers_of(scene, shown_facts(scene.corpus, scene.suite, role))
            if not answers:
                report.notes.append(
                    f"Not measured: {role}_lens_below_last and the like: no {role} fact to ask."
                )
                continue
            readings = each_states(
                scene, model, answers, lambda states, some: read_answers(lens, states, some)
            )
            self._report(scene, report, role, answers, readings)
        return report

    def _report(
        self, scene: Scene, report: Report, role: str, answers: Sequence[Answer], readings: Sequence[Reading]
    ) -> None:
        subjects, up = [a.example.subject for a in answers], role != Role.FORGET
        layers = range(readings[0].depth + 1)

        def mean(name: str, values: Sequence[float], of: Sequence[str] = subjects, better: bool = up) -> Any:
            return scene.mean(f"{role}_{name}", values, of, better)

        by_layer = {
            "probability": [
                mean("lens", [float(r.probability[layer]) for r in readings]) for layer in layers
            ],
            "whole": [mean("lens", [float(r.whole[layer]) for r in readings]) for layer in layers],
            **{
                f"top{k}": [mean("lens", [float(r.rank[layer] < k) for r in readings]) for layer in layers]
                for k in self.top
            },
        }
        for name, points in by_layer.items():
            shown = PANEL if name == "probability" else ""
            report.curves[f"{role}_lens_{name}"] = curve(
                shown,
                "layer",
                "probability" if shown else "share",
                [(float(n), m) for n, m in zip(layers, points, strict=True)],
            )
        below, last = by_layer["probability"][:-1], by_layer["probability"][-1]
        found = {"lens_below_last": max(below, key=lambda m: m.value), "lens_last": last}
        for k in self.top:
            found[f"lens_decodable_top{k}"] = mean("lens", [decodable(r.rank < k) for r in readings])
            firsts = [(earliest(r.rank < k), r.depth, s) for r, s in zip(readings, subjects, strict=True)]
            reached = [(at / depth, s) for at, depth, s in firsts if at is not None]
            found[f"lens_earliest_top{k}"] = mean(
                "lens", [v for v, _ in reached], [s for _, s in reached], not up
            )
        first = [r.rank < 1 for r in readings]
        found["lens_decodable_whole"] = mean("lens", [decodable(r.whole) for r in readings])
        hidden = [float(f[:-1].any() and not f[-1]) for f in first]
        found["lens_hidden"] = mean("lens", hidden, better=False)
        found["internal_answer_score"] = mean("lens", [float(f[:-1].mean()) for f in first])
        report.metrics.update({f"{role}_{name}": metric for name, metric in found.items()})
        for a, r in zip(answers, readings, strict=True):
            e = a.example
            report.samples.append(
                scene.sample(
                    role,
                    e.id,
                    e.subject,
                    str(e.role),
                    question=a.question,
                    reference=e.answer,
                    lens_probability=r.probability.tolist(),
                    lens_rank=r.rank.tolist(),
                )
            )


def read_answers(lens: Lens, states: Tensor, answers: Sequence[Answer]) -> list[Reading]:
    """What the lens reads of each answer.

    Args:
        states: [L + 1, A, H], as `each_states` has them.
    """
    starts = np.cumsum([0, *(len(a.scored) + 1 for a in answers)])
    kept = [int(starts[i]) + j for i, a in enumerate(answers) for j in range(len(a.scored))]
    at = torch.tensor(kept, device=states.device)
    labels = torch.tensor([t for a in answers for t in a.scored], device=states.device)
    table = []
    for layer in states:
        parts = zip(layer[at].split(lens.chunk), labels.split(lens.chunk), strict=True)
        # log-probability and rank, the first two of the four
        table.append(torch.cat([token_statistics(lens.logits(h), y)[:2] for h, y in parts], dim=1))
    found = torch.stack(table).cpu().numpy()  # [L + 1, 2, A]
    cuts = np.cumsum([len(a.scored) for a in answers])[:-1]
    return [Reading(part[:, 0], part[:, 1]) for part in np.split(found, cuts, axis=2)]
