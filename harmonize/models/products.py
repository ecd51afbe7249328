"""Vocabulary products of the head in fp32, with the backward passes that keep no positions x vocabulary tensor.

A positions, K ids per position, H hidden size, V vocabulary. Source: our choice (knowledge of Liger, CCE and TRL
chunked heads; none of them serves a loss on raw logits at selected ids).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_BYTES = 256 << 20  # of fp32 logits; thinner chunks waste the matrix units, thicker ones only memory
GATHER_BYTES = 64 << 20  # of gathered rows of the weight
_TILES = (64, 32)  # vocabulary entries whose maximum stands for them in the first stage of a selection
_SORTED_TILES = (*_TILES, 16, 8)  # and of one by sorts, which take a multiple of what they sort
_HALF = (torch.bfloat16, torch.float16)
_FP32_OUTPUT = hasattr(torch.ops.aten.mm, "dtype")  # half-precision products that return fp32, on CUDA


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Switches autocast off, which would otherwise turn the head's product into bf16."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def fp32_by_default() -> Iterator[None]:
    """New tensors are fp32 inside. Lightning makes them bf16 around a step of `bf16-true`, sums of losses included."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def rows_per_chunk(vocabulary: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Positions whose fp32 logits fill one chunk."""
    return max(1, chunk_bytes // (4 * vocabulary))


def product(hidden: Tensor, weight: Tensor) -> Tensor:
    """`hidden @ weight.T` in fp32, without autograd. [A, H] x [V, H] -> [A, V].

    Half-precision weights accumulate and return fp32: in one product on CUDA, elsewhere by upcasting
    slices of the vocabulary.
    """
    if weight.dtype not in _HALF:
        return hidden.to(weight.dtype) @ weight.t()
    if weight.is_cuda and _FP32_OUTPUT:
        return torch.mm(hidden.to(weight.dtype), weight.t(), out_dtype=torch.float32)
    out = hidden.new_empty((hidden.shape[0], weight.shape[0]), dtype=torch.float32)
    h = hidden.float()
    step = max(1, GATHER_BYTES // (4 * weight.shape[1]))
    for start in range(0, weight.shape[0], step):
        part = weight[start : start + step].float()
        torch.mm(h, part.t(), out=out[:, start : start + step])
    return out


class HalfWeightProduct(torch.autograd.Function):
    """`product` for half-precision weights, with gradients in their precision (fp32 accumulation)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(hidden, weight)
        return product(hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        hidden, weight = ctx.saved_tensors
        grad_hidden = grad_weight = None
        with full_precision(grad.device):
            low = grad.to(weight.dtype)
            if ctx.needs_input_grad[0]:
                grad_hidden = (low @ weight).to(hidden.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight = low.t() @ hidden.to(weight.dtype)
        return grad_hidden, grad_weight


def linear(hidden: Tensor, weight: Tensor) -> Tensor:
    """Differentiable `product`; autocast must be off (`full_precision`)."""
    if weight.dtype in _HALF:
        return HalfWeightProduct.apply(hidden, weight)  # type: ignore[no-any-return]
    return F.linear(hidden.to(weight.dtype), weight)


def gather_products(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """`hidden[a] . weight[ids[a, k]]` in fp32 without autograd; never holds more than `GATHER_BYTES` of rows."""
    count, width = ids.shape
    out = hidden.new_empty((count, width), dtype=torch.float32)
    step = max(1, GATHER_BYTES // max(1, 4 * width * weight.shape[1]))
    for start in range(0, count, step):
        rows = weight[ids[start : start + step]].float()
        h = hidden[start : start + step].float().unsqueeze(2)
        out[start : start + step] = torch.bmm(rows, h).squeeze(2)
    return out


class ValuesAtIds(torch.autograd.Function):
    """Gives raw products at given ids, computed elsewhere, their gradients with respect to hidden, weight and bias.

    The gradient of the hidden states is a weighted sum of weight rows (`embedding_bag`), that of the weight a
    scatter of hidden states accumulated in fp32. Neither builds [A, K, H] or [A, V].
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, values: Tensor
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, ids)
        ctx.bias = None if bias is None else (bias.shape, bias.dtype)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, ids = ctx.saved_tensors
        grad_hidden = grad_weight = grad_bias = None
        with full_precision(grad.device):
            if ctx.needs_input_grad[0]:
                grad_hidden = F.embedding_bag(
                    ids, weight.detach(), per_sample_weights=grad.to(weight.dtype), mode="sum"
                ).to(hidden.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight = _weight_gradient(grad, hidden, weight, ids)
            if ctx.needs_input_grad[2]:
                shape, dtype = ctx.bias
                total = grad.new_zeros(shape, dtype=torch.float32)
                grad_bias = total.index_add_(0, ids.reshape(-1), grad.reshape(-1).float()).to(dtype)
        return grad_hidden, grad_weight, grad_bias, None, None


def _weight_gradient(grad: Tensor, hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    count, width = ids.shape
    fixed = grad.is_cuda and torch.are_deterministic_algorithms_enabled()  # CUDA scatters with atomics
    fast = grad.is_cuda and weight.dtype in _HALF and _FP32_OUTPUT
    if fixed or (fast and _by_product(count, width, weight.shape[0])):
        return _weight_gradient_by_product(grad, hidden, weight, ids)
    total = weight.new_zeros(weight.shape, dtype=torch.float32)
    step = max(1, GATHER_BYTES // max(1, 4 * width * weight.shape[1]))
    for start in range(0, count, step):
        part = slice(start, start + step)
        outer = grad[part].float().unsqueeze(2) * hidden[part].float().unsqueeze(1)
        total.index_add_(0, ids[part].reshape(-1), outer.reshape(-1, weight.shape[1]))
    return total.to(weight.dtype)


def _by_product(count: int, width: int, vocabulary: int) -> bool:
    """Whether a product with scattered values beats a scatter of rows, in the gradient of a half-precision weight.

    Scattering moves `width` fp32 rows per position and one fp32 copy of the weight, a product multiplies with the
    whole vocabulary. On an H200 a row costs 11 ps per hidden unit, a vocabulary entry 2.9 fs, the copy 2.5 ps.
    """
    return 2.9e-3 * count * vocabulary < 11.0 * count * width + 2.5 * vocabulary


def _weight_gradient_by_product(grad: Tensor, hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """The same from products in the weight's precision, summed in fp32, over [positions, V] chunks that hold `grad`."""
    step = max(1, 2 * CHUNK_BYTES // (weight.element_size() * weight.shape[0]))
    total: Tensor | None = None
    for start in range(0, grad.shape[0], step):
        part = slice(start, start + step)
        spread = _spread(grad[part].to(weight.dtype), ids[part], weight.shape[0])
        states = hidden[part].to(weight.dtype)
        if grad.shape[0] <= step:
            return spread.t() @ states
        if weight.dtype in _HALF and weight.is_cuda and _FP32_OUTPUT:
            found = torch.mm(spread.t(), states, out_dtype=torch.float32)
        else:
            found = (spread.t() @ states).float()
        del spread  # or two of them would be alive
        total = found if total is None else total.add_(found)
    return weight.new_zeros(weight.shape) if total is None else total.to(weight.dtype)


def _spread(grad: Tensor, ids: Tensor, vocabulary: int) -> Tensor:
    """[A, V] with `grad` at `ids` [A, K], values of an id that is met twice added up."""
    out = grad.new_zeros((grad.shape[0], vocabulary))
    if not torch.are_deterministic_algorithms_enabled():
        return out.scatter_add_(1, ids, grad)
    for k in range(ids.shape[1]):  # one id per row at a time, so no two writes meet
        out.scatter_(1, ids[:, k : k + 1], out.gather(1, ids[:, k : k + 1]) + grad[:, k : k + 1])
    return out


def topk(values: Tensor, k: int) -> Tensor:
    """Ids of the k largest of each row, by value descending, tie order open. [A, V] -> [A, k].

    Over a large vocabulary in two stages: the k tiles with the largest maxima hold the k largest values. Exact, and
    the many passes of a selection run over k tiles instead of V values.
    """
    tile = _tile(k, values.shape[1])
    if not tile:
        return torch.topk(values, k, dim=1).indices
    ids = _within(torch.topk(_maxima(values, tile), k, dim=1).indices, tile, values.shape[1])
    return ids.gather(1, torch.topk(values.gather(1, ids), k, dim=1).indices)


def canonical_topk(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k of each row as (ids, values), ordered by value descending, then id ascending, also across the border.

    `torch.topk` leaves ties to the backend; a stored list must not depend on it.
    """
    if values.is_cuda:
        return topk_by_sorting(values, k)
    ids = topk(values, min(k + 1, values.shape[1]))
    top = values.gather(1, ids)
    tied = (top[:, k:] == top[:, k - 1 : k]).any(
        1
    )  # the next one is as large: which are meant, says the whole row
    ids, order = ids[:, :k].sort(dim=1)
    top, order = top[:, :k].gather(1, order).sort(dim=1, descending=True, stable=True)
    ids = ids.gather(1, order)
    if bool(tied.any()):
        exact, exact_ids = values[tied].sort(dim=1, descending=True, stable=True)
        top[tied], ids[tied] = exact[:, :k], exact_ids[:, :k]
    return ids, top


def topk_by_sorting(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`canonical_topk` without a look at the values, for which the device would be waited for.

    Stable sorts keep equal values in the order of their ids: of the tiles, of which the first k by maximum hold the
    list, and of what is in those.
    """
    tile = _tile(k, values.shape[1], _SORTED_TILES)
    if not tile:
        top, ids = values.sort(dim=1, descending=True, stable=True)
        return ids[:, :k], top[:, :k]
    best = _maxima(values, tile).sort(dim=1, descending=True, stable=True).indices[:, :k]
    ids = _within(best.sort(dim=1).values, tile, values.shape[1])
    top, order = values.gather(1, ids).sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order[:, :k]), top[:, :k]


def _tile(k: int, vocabulary: int, tiles: Sequence[int] = _TILES) -> int:
    """Entries of a tile; 0 where one stage is as fast (measured on a CPU)."""
    return next((tile for tile in tiles if k * tile * 8 <= vocabulary), 0)


def _maxima(values: Tensor, tile: int) -> Tensor:
    """[A, V // tile]"""
    tiles = values.shape[1] // tile
    return values[:, : tiles * tile].unflatten(1, (tiles, tile)).amax(2)


def _within(best: Tensor, tile: int, vocabulary: int) -> Tensor:
    """Ids of all entries of some tiles [A, k], and of the last, shorter one, which always takes part."""
    ids = (best.unsqueeze(2) * tile + torch.arange(tile, device=best.device)).flatten(1)
    if rest := vocabulary % tile:
        tail = torch.arange(vocabulary - rest, vocabulary, device=best.device)
        ids = torch.cat([ids, tail.expand(len(ids), -1)], 1)
    return ids
