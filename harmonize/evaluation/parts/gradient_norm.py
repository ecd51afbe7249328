"""The gradient-norm membership attack: a part of its own, since it needs a backward pass for every text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harmonize.evaluation.likelihood import Pair, target_log_probs
from harmonize.evaluation.parts.membership import NOTHING_LEFT, Against, area_metric, pairs_of
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import NotMeasured, Scene
from harmonize.models.batching import batched
from harmonize.models.body import evaluating
from harmonize.tracking.direction import Better

NAME = "mia_gradient_norm_auc"


@dataclass(frozen=True)
class GradientNorm(Against):
    """How large is the gradient of a text's loss? Small speaks for a member.

    `mia_gradient_norm_auc`, read like the other membership attacks. One forward and backward pass per text.

    Args:
        holdout: As in `Against`.
        p: Order of the norm.

    Source: Wang et al. 2024, arXiv 2402.17012; all weights and p = 2 as in open-unlearning. No official code was read.
    """

    p: float = 2.0

    def problems(self, at: str) -> list[str]:
        """A norm, and what membership needs."""
        found = super().problems(at)
        if not self.p >= 1:
            found.append(f"{at}.p={self.p}: the order of a norm is at least 1. For example {at}.p=2.")
        return found

    def figures(self) -> Mapping[str, Better]:
        """One."""
        return {NAME: NOTHING_LEFT}

    def measure(self, scene: Scene) -> Report:
        """One backward pass per text; gradients and modes are left as they were."""
        model: Any = getattr(scene.surface, "model", None)
        guard = getattr(scene.surface, "guard", None)
        if model is None or (guard is not None and not guard.removes):
            raise NotMeasured(
                "the gradient is that of a model's own weights, and this one does not lend them"
            )
        members, others = self.texts(scene.corpus, scene.suite)
        texts = [*members, *others]
        norms = gradient_norms(model, pairs_of(scene, texts), scene.renderer.pad_id, self.p, scene)
        scores = [-n for n in norms]
        report = Report({NAME: area_metric(scene, NAME, scores, members, others)})
        for i, (t, norm) in enumerate(zip(texts, norms, strict=True)):
            kind, role = ("member", "forget") if i < len(members) else ("holdout", "")
            report.samples.append(
                scene.sample(
                    kind,
                    t.id,
                    t.subject,
                    role,
                    question=t.question or "",
                    reference=t.text,
                    gradient_norm=norm,
                )
            )
        return report


def gradient_norms(
    model: nn.Module, pairs: Sequence[Pair], pad_id: int, p: float = 2.0, scene: Scene | None = None
) -> list[float]:
    """p-norm of the gradient of each target's mean loss with respect to all weights.

    Gradients that were there before, and which weights are trained, are as before afterwards.

    Raises:
        ModelError: The gradients of one text do not fit into memory.
    """
    found: list[float] = []
    with _differentiable(model) as weights, evaluating(model):

        def norm(part: Sequence[Pair]) -> float:
            loss = -target_log_probs(model, part, pad_id).sum() / len(part[0][1])
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            norms = [torch.linalg.vector_norm(g.detach().double(), ord=p) for g in gradients if g is not None]
            return float(torch.linalg.vector_norm(torch.stack(norms), ord=p))

        for _, value in batched(pairs, 1, norm):  # one by one: the norm is of each text's own gradient
            found.append(value)
            if scene is not None and scene.progress is not None:
                scene.progress(len(found), len(pairs))
    return found


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """All floating-point weights with gradients allowed."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    before = [p.requires_grad for p in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            yield weights
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)
