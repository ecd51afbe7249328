"""Attention of rows that continue one beginning, by kernels that need no mask for it.

Rows are right-padded behind a beginning of one length, so every token sees all that is before it: the diagonal of what
is seen ends in the lower right corner. transformers would write out a mask, and kernels that take one are slower.

Where cuDNN's kernel runs (Hopper and later), which knows no such diagonal, a row's tokens attend to the beginning and
to their row apart, and the two are one by their softmax's sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NAME = "lower_right"
_HALF = (torch.float16, torch.bfloat16)


class Call(NamedTuple):
    """What an attention layer was given."""

    layer: Any
    key: Tensor
    value: Tensor
    mask: Tensor | None


@contextmanager
def without_mask(config: Any, past: Any = None) -> Iterator[list[Call]]:
    """Inside, a model of this configuration attends by `attention`. Yields the calls, where there is no `past`.

    Args:
        config: Of the model.
        past: A cache whose layers hold the keys and values [1, groups, P, D] of the beginning; None without one.
    """
    from transformers import AttentionInterface

    calls: list[Call] = []

    def called(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
    ) -> tuple[Tensor, None]:
        before = None
        if past is None:
            calls.append(Call(module, key, value, attention_mask))
        else:
            layer = past.layers[module.layer_idx]
            before = (layer.keys, layer.values)
        return attention(module, query, key, value, attention_mask, before=before, **more)

    known = config._attn_implementation
    AttentionInterface.register(_NAME, called)
    config._attn_implementation = _NAME
    try:
        yield calls
    finally:
        config._attn_implementation = known
        AttentionInterface.register(_NAME, attention)  # or what `called` holds would live on


def worthwhile(config: Any, device: torch.device) -> bool:
    """Whether there is a kernel to gain by it: elsewhere the mask is as fast."""
    return device.type == "cuda" and getattr(config, "_attn_implementation", None) in ("sdpa", "varlen")


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    before: tuple[Tensor, Tensor] | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls: causal, and all of the beginning.

    Args:
        module: The layer that attends.
        query: [B, heads, T, D]. key, value: [B, groups, T, D] of the rows.
        attention_mask: One that the model made by itself, over the beginning and the rows; None as a rule.
        dropout, scaling: As transformers gives them.
        before: [1, groups, P, D] keys and values of the beginning.

    Returns:
        [B, T, heads, D].
    """
    odd = attention_mask is not None or any(
        more.get(name) is not None for name in ("softcap", "position_bias")
    )
    if before is not None:
        if not odd and not dropout and merges(query, key, value):
            return merged(query, key, value, *before, scaling).transpose(1, 2).contiguous(), None
        key, value = joined(before[0], key), joined(before[1], value)
    if odd:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        mask = attention_mask
        if mask is None:
            seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
            mask = seen.tril(key.shape[2] - query.shape[2])[None, None]
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, mask, dropout, scaling, **more
        )
        return found
    return _lower_right(query, key, value, dropout, scaling).transpose(1, 2).contiguous(), None


def joined(first: Tensor, rows: Tensor) -> Tensor:
    """Keys or values [1, groups, P, D] that every row begins with, and the rows' own [B, groups, T, D], as one."""
    return torch.cat([first.expand(len(rows), -1, -1, -1), rows], 2)


def _lower_right(query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None) -> Tensor:
    """The last query sees every key, each one before it a key less."""
    from torch.nn.attention.bias import causal_lower_right

    groups = query.shape[1] // key.shape[1]
    flash = query.dtype in _HALF
    if groups > 1 and not flash:  # no other kernel shares heads
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    out: Tensor = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=causal_lower_right(query.shape[2], key.shape[2]),
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=groups > 1 and flash,
    )
    return out


def merges(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether cuDNN's kernel takes these: then the two parts apart are faster than flash attention over both."""
    if (
        not query.is_cuda
        or query.dtype not in _HALF
        or torch.cuda.get_device_capability(query.device) < (9, 0)
    ):
        return False
    from torch.backends.cuda import SDPAParams, can_use_cudnn_attention

    grouped = query.shape[1] != key.shape[1]
    return bool(can_use_cudnn_attention(SDPAParams(query, key, value, None, 0.0, True, grouped)))


def merged(
    query: Tensor, key: Tensor, value: Tensor, first_key: Tensor, first_value: Tensor, scaling: float | None
) -> Tensor:
    """[B, heads, T, D] from attention to the beginning and to the row, weighted by the sums of their softmaxes."""
    first_key, first_value = (x.expand(len(query), -1, -1, -1).contiguous() for x in (first_key, first_value))
    first, first_sum = with_sums(query, first_key, first_value, False, scaling)
    own, own_sum = with_sums(query, key, value, True, scaling)
    return torch.lerp(own, first, torch.sigmoid(first_sum - own_sum).to(own.dtype))


def with_sums(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Attention [B, heads, T, D] and the logarithm of its softmax's sum [B, heads, T, 1], by cuDNN."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kernel = torch.ops.aten._scaled_dot_product_cudnn_attention
    out, sums = kernel(query, key, value, None, True, 0.0, causal, False, scale=scale)[:2]
    return out, sums if sums.dim() == 4 else sums.unsqueeze(-1)
