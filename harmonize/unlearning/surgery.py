"""How several gradients become one: pure functions of their inner products.

Every rule here gives a linear combination of the G gradients, so it needs no more than their [G, G] matrix of inner
products (float64, on the CPU) and returns G coefficients. Vectors in this module are such coefficients: the gradient
`sum_i v_i g_i` is written v, and `<v, w>` is `v @ inner @ w`. All losses are minimised; the update is minus the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Metric = Callable[[int], Tensor | None]
ALWAYS, CONFLICT = "always", "conflict"
WHEN = (ALWAYS, CONFLICT)


def inner_products(gradients: Sequence[Sequence[Tensor | None]], metric: Metric | None = None) -> Tensor:
    """Inner products of G gradients over all parameters.

    Args:
        gradients: G gradients of one tensor per parameter each; None is zero.
        metric: Parameter's place to positive weights of its shape, None for ones.

    Returns:
        [G, G] float64 on the CPU, symmetric.
    """
    n = len(gradients)
    sums: dict[tuple[int, int], Tensor] = {}
    for place in range(len(gradients[0]) if n else 0):
        own = [None if g[place] is None else g[place].detach().flatten().double() for g in gradients]  # type: ignore[union-attr]
        if all(g is None for g in own):
            continue
        weight = metric(place) if metric else None
        for i, a in enumerate(own):
            if a is None:
                continue
            scaled = a if weight is None else a * weight.flatten()
            for j in range(i, n):
                b = own[j]
                if b is not None:
                    product = torch.dot(scaled, b)
                    sums[i, j] = sums[i, j] + product if (i, j) in sums else product
    inner = torch.zeros(n, n, dtype=torch.float64)
    for (i, j), value in sums.items():
        inner[i, j] = inner[j, i] = float(value)
    return inner


def unit(n: int, place: int) -> Tensor:
    """[n] the gradient number `place` itself."""
    vector = torch.zeros(n, dtype=torch.float64)
    vector[place] = 1.0
    return vector


def project(a: Tensor, off: Tensor, inner: Tensor, when: str = ALWAYS) -> Tensor:
    """The part of `a` that is orthogonal to `off`: a - <a, off> / <off, off> off.

    Args:
        a, off: [G] vectors.
        inner: [G, G] inner products; those of a metric project in that metric.
        when: `always`, or `conflict`: only where <a, off> < 0.

    Returns:
        [G]; `a` itself where `off` has length zero.

    Serves GU (arXiv 2511.17100), BLUR (arXiv 2506.08164) and PCGrad (arXiv 2001.06782).
    """
    length, overlap = float(off @ inner @ off), float(a @ inner @ off)
    if length <= 0 or (when == CONFLICT and overlap >= 0):
        return a
    return a - overlap / length * off


def off_retain(
    inner: Tensor, *, forget_weight: float = 1.0, retain_weight: float = 1.0, when: str = ALWAYS
) -> Tensor:
    """GU: the forget gradient without its component along the retain gradient, plus the retain gradient.

        gamma (g_f - <g_f, g_r> / <g_r, g_r> g_r) + alpha g_r

    In the optimizer's metric (`inner` weighted by one over Adam's denominator) the forget part changes the retain loss
    by nothing to first order.

    Args:
        inner: [2, 2] inner products of forget and retain.
        forget_weight, retain_weight: gamma and alpha.
        when: `conflict` projects only where the two disagree.

    Source: arXiv 2511.17100, read in its code, where the gradients are scaled, combined and scaled back: the same.
    """
    forget, retain = unit(2, 0), unit(2, 1)
    return forget_weight * project(forget, retain, inner, when) + retain_weight * retain


def bilevel(
    inner: Tensor, *, upper: str = "retain", upper_weight: float = 1.0, lower_weight: float = 1.0
) -> Tensor:
    """BLUR: the lower level (forget) has priority; the upper one keeps what is orthogonal to it.

        alpha (g_r - <g_r, g_f> / <g_f, g_f> g_f) + gamma g_f

    Args:
        inner: [2, 2] inner products of forget and retain.
        upper: `retain`, or `forget`, which swaps the levels.
        upper_weight, lower_weight: alpha and gamma.

    Source: arXiv 2506.08164, read in its code (alpha = gamma = 1 on MUSE and TOFU, alpha = 800 with RMU's losses).
    """
    above, below = (unit(2, 1), unit(2, 0)) if upper == "retain" else (unit(2, 0), unit(2, 1))
    return upper_weight * project(above, below, inner) + lower_weight * below


def without_conflicts(inner: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """PCGrad: each gradient is projected off every other that it disagrees with, one after another; then all add up.

    Args:
        inner: [G, G] inner products.
        orders: For each gradient, the order in which it meets the others (all but itself).

    Source: Yu et al. 2020, arXiv 2001.06782, algorithm 1.
    """
    n = len(inner)
    total = torch.zeros(n, dtype=torch.float64)
    for i, order in enumerate(orders):
        vector = unit(n, i)
        for j in order:
            vector = project(vector, unit(n, j), inner, CONFLICT)
        total += vector
    return total


def normalized(inner: Tensor) -> Tensor:
    """NGDiff: every gradient at length one; those of length zero stay out.

    With gradient ascent as the forget loss this is g_R / |g_R| - g_F / |g_F| for the gradients of the two
    cross-entropies: the minus is in the loss.

    Source: arXiv 2410.22086.
    """
    norms = inner.diagonal().clamp_min(0).sqrt()
    return torch.where(norms > 0, 1.0 / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def min_norm(inner: Tensor, tolerance: float = 1e-10) -> Tensor:
    """MGDA: the shortest vector in the convex hull of the gradients.

    Its negative is a direction in which no loss grows, to first order: <d, g_i> >= |d|^2 for every i. Wolfe's method:
    a face of the simplex grows by the gradient that most disagrees, and shrinks until its own minimum lies inside. It
    ends after finitely many steps, for any number of gradients.

    Args:
        inner: [G, G] inner products, G >= 1.
        tolerance: Of optimality, relative to the longest gradient's squared length.

    Returns:
        [G] weights, none negative, sum 1.

    Source: Wolfe 1976 (Finding the nearest point in a polytope); as a multi-objective direction Desideri 2012.
    """
    n = len(inner)
    scale = float(inner.diagonal().max())
    if scale <= 0:
        return torch.full((n,), 1.0 / n, dtype=torch.float64)
    matrix = inner / scale
    face = [int(matrix.diagonal().argmin())]
    weights = torch.ones(1, dtype=torch.float64)
    for _ in range(100 * n):
        slopes = matrix[:, face] @ weights
        entering = int(slopes.argmin())
        if entering in face or float(slopes[entering]) >= float(weights @ slopes[face]) - tolerance:
            break
        face.append(entering)
        weights = torch.cat([weights, weights.new_zeros(1)])
        face, weights = _into_face(matrix, face, weights)
    result = torch.zeros(n, dtype=torch.float64)
    result[face] = weights / weights.sum()
    return result


def _into_face(matrix: Tensor, face: list[int], weights: Tensor) -> tuple[list[int], Tensor]:
    """Moves to the minimum over the face's affine hull, dropping corners until it lies inside the face."""
    while True:
        target = _affine_minimum(matrix[face][:, face])
        if bool((target > 0).all()):
            return face, target
        falling = target <= 0
        steps = torch.where(falling, weights / (weights - target).clamp_min(1e-300), torch.inf)
        share = float(steps.min().clamp(0, 1))
        weights = (1 - share) * weights + share * target
        leaving = int(steps.argmin())
        kept = [i for i in range(len(face)) if i != leaving]
        face, weights = [face[i] for i in kept], weights[kept].clamp_min(0)
        if len(face) == 1:
            return face, torch.ones(1, dtype=torch.float64)


def _affine_minimum(matrix: Tensor) -> Tensor:
    """Weights with sum 1, of any sign, that minimise w' M w."""
    n = len(matrix)
    system = torch.ones(n + 1, n + 1, dtype=torch.float64)
    system[:n, :n] = matrix
    system[n, n] = 0
    right = torch.zeros(n + 1, dtype=torch.float64)
    right[n] = 1
    # least squares: gradients that depend on each other make the system singular
    found: Tensor = torch.linalg.lstsq(system, right, driver="gelsd").solution
    return found[:n]
