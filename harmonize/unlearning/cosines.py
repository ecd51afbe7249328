"""Do the tasks' gradients agree? Cosine similarity between the gradients of several losses, by layer and in total.

Pure functions of tensors: used before training by `harmonize diagnose`, and usable in any training step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

TOTAL = "total"
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
_EMBEDDINGS = ("embed", "wte", "wpe")


def layer_of(name: str) -> str:
    """The part of a model that a parameter belongs to: `embedding`, `layer <n>`, or `head` (final norm and output).

    The first number in the name is the layer's, as all transformers name their blocks; adapters carry their block's.
    """
    number = _NUMBER.search(name)
    if number:
        return f"layer {int(number.group(1))}"
    return "embedding" if any(word in name for word in _EMBEDDINGS) else "head"


def gradients(
    losses: Mapping[str, Tensor], parameters: Sequence[Tensor]
) -> dict[str, tuple[Tensor | None, ...]]:
    """The gradient of every loss, one backward pass each; None where a parameter does not reach it.

    The graph is kept, so the losses may share a forward and may be used afterwards; `.grad` is not touched.
    """
    return {
        name: torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for name, loss in losses.items()
    }


def gram(found: Sequence[Sequence[Tensor | None]], layers: Sequence[str]) -> dict[str, Tensor]:
    """Inner products of G gradients by layer and in total.

    Args:
        found: G gradients, each with one tensor (or None, which is zero) per parameter.
        layers: The layer of each parameter, such as `layer_of` gives.

    Returns:
        Layer to [G, G] float64 on the CPU, in the order in which layers first occur; last `total`, their sum.

    Raises:
        ValueError: A gradient with another number of tensors than there are layers named.
    """
    if any(len(g) != len(layers) for g in found):
        raise ValueError("every gradient needs one tensor for each parameter")
    n = len(found)
    sums: dict[str, Tensor] = {layer: torch.zeros(n, n, dtype=torch.float64) for layer in layers}
    for place, layer in enumerate(layers):
        own = [g[place] for g in found]
        for i, a in enumerate(own):
            for j in range(i, n):
                b = own[j]
                if a is None or b is None:
                    continue
                product = float(torch.dot(a.detach().flatten().double(), b.detach().flatten().double()))
                sums[layer][i, j] += product
                if i != j:
                    sums[layer][j, i] += product
    total = torch.zeros(n, n, dtype=torch.float64)
    for matrix in sums.values():
        total += matrix
    return {**sums, TOTAL: total}


def cosine(inner: Tensor) -> Tensor:
    """[G, G] cosines of a matrix of inner products; NaN where a gradient is zero."""
    norms = inner.diagonal().clamp_min(0).sqrt()
    scale = norms[:, None] * norms[None, :]
    return torch.where(scale > 0, inner / scale, torch.full_like(inner, torch.nan)).clamp(-1, 1)


def pairwise(
    found: Mapping[str, Sequence[Tensor | None]], layers: Sequence[str]
) -> dict[str, dict[tuple[str, str], float]]:
    """Cosines as layer -> (name, name) -> value, for every pair of different names in their order."""
    names = list(found)
    result: dict[str, dict[tuple[str, str], float]] = {}
    for layer, inner in gram([found[n] for n in names], layers).items():
        matrix = cosine(inner)
        result[layer] = {
            (names[i], names[j]): float(matrix[i, j])
            for i in range(len(names))
            for j in range(i + 1, len(names))
        }
    return result


def add(one: Sequence[Tensor | None] | None, other: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Sum of two gradients, for losses that are taken in parts; None counts as zero."""
    if one is None:
        return list(other)
    return [b if a is None else a if b is None else a + b for a, b in zip(one, other, strict=True)]
