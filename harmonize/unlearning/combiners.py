"""Combiners that keep the gradients of several groups of losses apart: GU, BLUR, PCGrad, NGDiff, MGDA.

Each micro-batch costs one backward pass per group through the same forward, and each group one buffer of the size
of the trained weights. Groups are summed over the micro-batches of a step, averaged over ranks, combined, and only then
clipped, so accumulating equals a big batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harmonize.config.rules import at_least, finite, one_of, positive, present
from harmonize.data.corpus import content_hash
from harmonize.unlearning import surgery
from harmonize.unlearning.auto_rate import AutoRate
from harmonize.unlearning.cosines import add, cosine
from harmonize.unlearning.gradient import Combiner, StepTools, TermLosses, sum_of
from harmonize.unlearning.grouping import RETAIN, SIDES, Groups, group_of, group_problems, memoryless, trained


class Separate(Combiner):
    """Keeps one gradient per group; a subclass says with which coefficients they add up.

    Args:
        groups: Which (term, role) losses share a gradient (`harmonize.unlearning.grouping.group_of`).
    """

    sides_only = False
    default_groups = "sides"

    def __init__(self, *, groups: Groups | None = None) -> None:
        self.groups: Groups = self.default_groups if groups is None else groups
        self._held: dict[str, list[Tensor | None]] = {}

    def coefficients(self, inner: Tensor, tools: StepTools) -> Tensor:
        """[G] coefficients of the groups' gradients, given their [G, G] inner products."""
        raise NotImplementedError

    def metric(self, tools: StepTools) -> surgery.Metric | None:
        """Weights of the inner product by parameter, or None for the plain one."""
        return None

    def accumulate(self, weighted: TermLosses, tools: StepTools) -> None:
        """One backward pass per group that has a loss in this micro-batch."""
        grouped: dict[str, list[Tensor]] = {}
        for (term, role), loss in weighted.items():
            if loss.requires_grad:
                grouped.setdefault(group_of(self.groups, term, role), []).append(loss)
        for place, (name, losses) in enumerate(grouped.items(), 1):
            found = torch.autograd.grad(
                sum_of(losses), tools.parameters, retain_graph=place < len(grouped), allow_unused=True
            )
            # float32 buffers: many small contributions would vanish in bfloat16
            self._held[name] = add(self._held.get(name), (None if g is None else g.float() for g in found))

    def finish(self, tools: StepTools) -> dict[str, float]:
        """Averages over ranks, combines, and writes `.grad`."""
        held, self._held = self._held, {}
        names = list(SIDES) if self.sides_only else list(held)
        gradients = [held.get(n, [None] * len(tools.parameters)) for n in names]
        for gradient in gradients:
            tools.average([g for g in gradient if g is not None])
        inner = surgery.inner_products(gradients, self.metric(tools))
        if not names:
            return {}
        if bool(inner.isfinite().all()):
            found = self.coefficients(inner, tools)
        else:  # the sum carries what is not finite on, and the training step refuses it
            found = torch.ones(len(names), dtype=torch.float64)
        for place, parameter in enumerate(tools.parameters):
            parts = [
                c * g[place]  # type: ignore[operator]
                for c, g in zip(found.tolist(), gradients, strict=True)
                if g[place] is not None
            ]
            parameter.grad = sum_of(parts).to(parameter.dtype) if parts else None
        return figures(names, inner, found)

    @classmethod
    def problems(cls, cfg: Any) -> list[str]:
        """What in the configuration this combination cannot work with."""
        node = present(cfg.gradient)
        groups = node.get("groups")
        problems = group_problems(
            cls.default_groups if groups is None else groups, trained(cfg), cls.sides_only
        )
        if cfg.trainer.precision == "16-mixed":
            problems.append(
                "trainer.precision=16-mixed scales the losses before the backward pass, and gradient combinations "
                "other than sum take gradients unscaled. Use trainer.precision=bf16-mixed, or gradient=sum."
            )
        return problems


class GU(Separate):
    """Forget gradient without its component along the retain gradient, in Adam's metric (`surgery.off_retain`).

    Formula: gamma (g_f - proj of g_f on g_r) + alpha g_r, orthogonal in Adam's metric
    Needs: Adam, AdamW or SGD without momentum and weight decay

    Args:
        groups: As in `Separate`; the names must be forget and retain.
        forget_weight, retain_weight: gamma and alpha.
        when: `always`, or `conflict`: project only where the two disagree.

    Source: arXiv 2511.17100 (code).
    """

    sides_only = True

    def __init__(
        self,
        *,
        groups: Groups | None = None,
        forget_weight: float = 1.0,
        retain_weight: float = 1.0,
        when: str = surgery.ALWAYS,
    ) -> None:
        super().__init__(groups=groups)
        self.settings: dict[str, Any] = {
            "forget_weight": forget_weight,
            "retain_weight": retain_weight,
            "when": when,
        }

    def coefficients(self, inner: Tensor, tools: StepTools) -> Tensor:
        """Of forget and retain."""
        return surgery.off_retain(inner, **self.settings)

    def metric(self, tools: StepTools) -> surgery.Metric | None:
        """One over Adam's denominator, as it stands before this step; ones while there is none."""
        return adam_metric(tools.optimizer, tools.parameters)

    @classmethod
    def problems(cls, cfg: Any) -> list[str]:
        """The projection holds for an update that is the scaled gradient and nothing else."""
        node = present(cfg.gradient)
        problems = super().problems(cfg) + one_of(
            "gradient.when", node.get("when", surgery.ALWAYS), surgery.WHEN
        )
        problems += finite("gradient.forget_weight", node.get("forget_weight", 1.0))
        problems += finite("gradient.retain_weight", node.get("retain_weight", 1.0))
        return problems + memoryless(cfg)


class BLUR(Separate):
    """Retain gradient orthogonal to the forget gradient, plus the forget gradient (`surgery.bilevel`).

    Formula: alpha (g_r - proj of g_r on g_f) + gamma g_f

    Clipped afterwards, as every combination here is; the fork of a public framework clips before, which has no effect.

    Args:
        groups: As in `Separate`; the names must be forget and retain.
        upper: The level that gives way: `retain`, or `forget`.
        upper_weight, lower_weight: alpha and gamma.

    Source: arXiv 2506.08164 (code).
    """

    sides_only = True

    def __init__(
        self,
        *,
        groups: Groups | None = None,
        upper: str = "retain",
        upper_weight: float = 1.0,
        lower_weight: float = 1.0,
    ) -> None:
        super().__init__(groups=groups)
        self.settings: dict[str, Any] = {
            "upper": upper,
            "upper_weight": upper_weight,
            "lower_weight": lower_weight,
        }

    def coefficients(self, inner: Tensor, tools: StepTools) -> Tensor:
        """Of forget and retain."""
        return surgery.bilevel(inner, **self.settings)

    @classmethod
    def problems(cls, cfg: Any) -> list[str]:
        """Levels and weights."""
        node = present(cfg.gradient)
        problems = super().problems(cfg) + one_of("gradient.upper", node.get("upper", RETAIN), SIDES)
        problems += finite("gradient.upper_weight", node.get("upper_weight", 1.0))
        return problems + finite("gradient.lower_weight", node.get("lower_weight", 1.0))


class PCGrad(Separate):
    """Each group's gradient is projected off those it disagrees with, in an order that seed and step decide.

    Formula: sum over groups of g_i, off every g_j in turn where <g_i, g_j> < 0

    Args:
        groups: As in `Separate`, any number.

    Source: arXiv 2001.06782; two groups, forget and retain, by default (our choice).
    """

    def coefficients(self, inner: Tensor, tools: StepTools) -> Tensor:
        """Of every group."""
        n = len(inner)
        orders = [
            sorted(
                (j for j in range(n) if j != i),
                key=lambda j: content_hash(tools.seed, "pcgrad", tools.step, i, j),
            )
            for i in range(n)
        ]
        return surgery.without_conflicts(inner, orders)


class NormalizedDifference(Separate):
    """Both gradients at length one (`surgery.normalized`), optionally with a learning rate that finds itself.

    Formula: g_r / |g_r| + g_f / |g_f|
    Costs: with auto_lr three forwards without gradient every `every` steps

    Args:
        groups: As in `Separate`; the names must be forget and retain.
        auto_lr: Choose the rate by a parabola through the retain loss (`auto_rate.AutoRate`).
        every: Steps between two choices (about 10 in the source).
        offset_share: Distance of the outer points, as a share of the rate (our choice; a public implementation has
            the absolute 1e-5).
        min_lr, max_lr: Bounds of the rate (of a public implementation).

    Source: arXiv 2410.22086; no code of its authors was found.
    """

    sides_only = True

    def __init__(
        self,
        *,
        groups: Groups | None = None,
        auto_lr: bool = False,
        every: int = 10,
        offset_share: float = 0.5,
        min_lr: float = 1e-7,
        max_lr: float = 1e-3,
    ) -> None:
        super().__init__(groups=groups)
        self.rate = (
            AutoRate(every=every, offset_share=offset_share, least=min_lr, most=max_lr) if auto_lr else None
        )

    def coefficients(self, inner: Tensor, tools: StepTools) -> Tensor:
        """One over each length."""
        return surgery.normalized(inner)

    def take(self, tools: StepTools) -> dict[str, float]:
        """The optimizer's step, at the rate that the retain loss chose where it is asked."""
        if self.rate is None:
            return super().take(tools)

        def retain_loss() -> float:
            found = tools.evaluate()
            return sum(v for key, v in found.items() if group_of(self.groups, *key) == RETAIN)

        return {
            "gradient/auto_lr": self.rate.take(tools.optimizer, tools.parameters, retain_loss, tools.step)
        }

    def state_dict(self) -> dict[str, Any]:
        """The factor on the scheduler's rate."""
        return {} if self.rate is None else {"factor": self.rate.factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the factor."""
        if self.rate is not None:
            self.rate.factor = float(state.get("factor", 1.0))

    @classmethod
    def problems(cls, cfg: Any) -> list[str]:
        """Ranges."""
        node = present(cfg.gradient)
        problems = super().problems(cfg) + at_least("gradient.every", node.get("every", 10), 1)
        share = node.get("offset_share", 0.5)
        problems += positive("gradient.offset_share", share)
        for key, default in (("min_lr", 1e-7), ("max_lr", 1e-3)):
            problems += positive(f"gradient.{key}", node.get(key, default))
        if not problems and node.get("min_lr", 1e-7) > node.get("max_lr", 1e-3):
            problems.append("gradient.min_lr is above gradient.max_lr. For example gradient.min_lr=1e-7.")
        return problems


class MGDA(Separate):
    """The shortest convex combination of the groups' gradients, along which no group's loss grows (`surgery.min_norm`).

    Formula: argmin |sum of w_i g_i| over w_i >= 0, sum of w_i = 1

    A group whose gradient is zero has no say (our choice): it would make the shortest combination zero.

    Args:
        groups: As in `Separate`, any number; each term by default.
        normalize: Give every gradient length one first, so that a group's scale has no say (our choice).

    Source: Desideri 2012; MOLLM (arXiv 2412.20412) names it "DS-MGDA" (its code is not public, so the form is ours).
    """

    default_groups = "terms"

    def __init__(self, *, groups: Groups | None = None, normalize: bool = False) -> None:
        super().__init__(groups=groups)
        self.normalize = normalize

    def coefficients(self, inner: Tensor, tools: StepTools) -> Tensor:
        """Weights on the simplex, over the lengths where they are normalised."""
        found = torch.zeros(len(inner), dtype=torch.float64)
        alive = [i for i in range(len(inner)) if float(inner[i, i]) > 0]
        if not alive:
            return found
        scale = (
            surgery.normalized(inner)[alive]
            if self.normalize
            else torch.ones(len(alive), dtype=torch.float64)
        )
        found[alive] = scale * surgery.min_norm(inner[alive][:, alive] * scale[:, None] * scale[None, :])
        return found


def figures(names: Sequence[str], inner: Tensor, found: Tensor) -> dict[str, float]:
    """What is logged of a combination: coefficient and length of every group, cosine of every pair."""
    angles, lengths = cosine(inner), inner.diagonal().clamp_min(0).sqrt()
    result = {}
    for i, name in enumerate(names):
        result[f"gradient/coefficient/{name}"] = float(found[i])
        result[f"gradient/norm/{name}"] = float(lengths[i])
        for j in range(i + 1, len(names)):
            if bool(angles[i, j].isfinite()):
                result[f"gradient/cosine/{name}|{names[j]}"] = float(angles[i, j])
    return result


def adam_metric(optimizer: Any, parameters: Sequence[Tensor]) -> surgery.Metric | None:
    """1 / (sqrt(v / (1 - beta2^t)) + eps) by parameter, from the optimizer's state; None without a second moment."""
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    if not any("exp_avg_sq" in optimizer.state.get(p, {}) for p in parameters):
        return None

    def weight(place: int) -> Tensor | None:
        parameter = parameters[place]
        state = optimizer.state.get(parameter, {})
        if "exp_avg_sq" not in state:
            return None
        group = settings[id(parameter)]
        corrected = state["exp_avg_sq"].double() / (1 - group["betas"][1] ** float(state["step"]))
        return 1.0 / (corrected.sqrt() + group["eps"])

    return weight
