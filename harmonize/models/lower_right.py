"""Causal attention of rows that continue a beginning, by a kernel that needs no mask for it.

Rows are right-padded behind a beginning of one length, so every token sees all that is before it: the diagonal of what
is seen ends in the lower right corner. transformers would write out a mask, and kernels that take one are slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NAME = "lower_right"


@contextmanager
def without_mask(config: Any) -> Iterator[list[nn.Module]]:
    """Inside, a model of this configuration attends by `attention`. Yields the attention layers that were called."""
    from transformers import AttentionInterface

    called: list[nn.Module] = []

    def counted(module: nn.Module, *arguments: Any, **more: Any) -> tuple[Tensor, None]:
        called.append(module)
        return attention(module, *arguments, **more)

    before = config._attn_implementation
    AttentionInterface.register(_NAME, counted)
    config._attn_implementation = _NAME
    try:
        yield called
    finally:
        config._attn_implementation = before


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
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls; the last query sees every key, each one before it a key less.

    [B, heads, T, D] and [B, groups, P + T, D] in, [B, T, heads, D] out.
    """
    from torch.nn.attention.bias import causal_lower_right

    if any(more.get(name) is not None for name in ("softcap", "position_bias")):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        mask = seen.tril(key.shape[2] - query.shape[2])[None, None]
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, mask, dropout, scaling, **more
        )
        return found
    groups = query.shape[1] // key.shape[1]
    flash = query.dtype in (torch.float16, torch.bfloat16)
    if groups > 1 and not flash:  # no other kernel shares heads
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=causal_lower_right(query.shape[2], key.shape[2]),
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=groups > 1 and flash,
    )
    return out.transpose(1, 2).contiguous(), None
