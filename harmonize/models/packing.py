"""Batches without padding: the rows of a batch one after the other, and attention that stays inside each.

A padded batch of rows of uneven lengths spends its padding's share on columns that nobody reads. Kernels for rows of
uneven lengths (`varlen`) take the rows end to end, with the places where each begins.

    varlen               of torch itself: its flash kernel on CUDA in 16 bits, SDPA row by row elsewhere
    flash_attention_2/3  of transformers, with the flash-attn package

The bounds go to the kernel as `cu_seq_lens_q` and `_k`, in transformers' words; without them `varlen` is SDPA, so
generation and prefixes work as ever. torch: https://docs.pytorch.org/docs/main/nn.attention.varlen.html
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harmonize.data.batch import Batch
from harmonize.errors import ModelError

VARLEN = "varlen"
_INSTEAD = "Use model.attention=sdpa (or eager)."
KERNELS: tuple[str, ...] = (VARLEN, "flash_attention_2", "flash_attention_3")


def packable(model: nn.Module, batch: Batch) -> bool:
    """Whether a model can read this batch without its padding: there is some, and the attention takes bounds."""
    if batch.columns is None or batch.columns.numel() == batch.input_ids.numel():
        return False
    return getattr(getattr(model, "config", None), "_attn_implementation", None) in KERNELS


def check(model: nn.Module, block: nn.Module) -> None:
    """Refuses a model that would read rows without padding as one.

    Args:
        model: One whose attention is of `KERNELS`.
        block: Its first.

    Raises:
        ModelError: Its blocks take no further arguments, so bounds cannot reach their attention.
    """
    kinds = {p.kind for p in inspect.signature(type(block).forward).parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ModelError(f"{type(model).__name__} does not tell its attention where rows begin. {_INSTEAD}")


def packed_inputs(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """What a model is called with: N real tokens as one row [1, N], and where each row of the batch begins.

    Args:
        model: One that `packable` accepts.
        batch: Right-padded.
    """
    assert batch.columns is not None and batch.bounds is not None
    config: Any = model.config
    inputs = {
        "input_ids": batch.input_ids.flatten()[batch.columns].unsqueeze(0),
        "position_ids": batch.position_ids.flatten()[batch.columns].unsqueeze(0),
        "cu_seq_lens_q": batch.bounds,
        "cu_seq_lens_k": batch.bounds,
        "max_length_q": batch.longest,
        "max_length_k": batch.longest,
    }
    if config._attn_implementation == VARLEN:
        # a finished mask is passed on as it is; without one, transformers would make [N, N] of the positions
        inputs["attention_mask"] = batch.bounds.new_zeros(1, 1, 1, 1)
    return inputs


def packed_positions(batch: Batch) -> Tensor:
    """[A] the batch's answer positions among its N real tokens."""
    assert batch.bounds is not None
    width = batch.input_ids.shape[1]
    return batch.positions - batch.row * width + batch.bounds[batch.row]


def register() -> None:
    """Makes `varlen` known to transformers; may be called again and again."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(VARLEN, attention)
    AttentionMaskInterface.register(VARLEN, sdpa_mask)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls; [1, heads, N, D] in, [1, N, heads, D] out.

    Raises:
        ModelError: A model that keeps the bounds from its attention, or softcaps it.
    """
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None:
        if attention_mask is not None and attention_mask.numel() < query.shape[2]:
            raise ModelError(f"{_name(module)} does not tell its attention where rows begin. {_INSTEAD}")
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if kwargs.get("softcap") is not None:
        raise ModelError(f"{_name(module)} softcaps its attention, which varlen cannot. {_INSTEAD}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = kwargs.get("sliding_window")
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        out = _flash(query, key, value, bounds, int(kwargs["max_length_q"]), scale, window)
    else:
        out = by_rows(query, key, value, bounds.tolist(), scale, dropout, window)
    return out, None


def by_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Sequence[int],
    scale: float,
    dropout: float = 0.0,
    window: int | None = None,
) -> Tensor:
    """Causal attention inside each row, one SDPA call a row. [1, heads, N, D] -> [1, N, heads, D]."""
    grouped = query.shape[1] != key.shape[1]
    out = []
    for start, end in pairwise(bounds):
        n = end - start
        near = window is not None and n > window
        out.append(
            F.scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=_near(n, int(window or 0), query.device) if near else None,
                dropout_p=dropout,
                is_causal=not near,
                scale=scale,
                enable_gqa=grouped,
            )
        )
    return torch.cat(out, 2).transpose(1, 2)


def _near(n: int, window: int, device: torch.device) -> Tensor:
    place = torch.arange(n, device=device)
    behind = place[:, None] - place[None, :]
    return (behind >= 0) & (behind < window)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float, window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    known = _parameters()
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    options: dict[str, Any] = {}
    if "enable_gqa" in known:
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    elif q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    if "scale" in known:
        options["scale"] = scale
    else:
        q = q * (scale * q.shape[-1] ** 0.5)  # the kernel divides by the root itself
    if "window_size" in known:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None or window >= longest:
        options["is_causal"] = True
    else:
        raise ModelError(f"This torch has no sliding window for rows without padding. {_INSTEAD}")
    out: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)
    return out.unsqueeze(0)


@cache
def _parameters() -> frozenset[str]:
    """What this torch's `varlen_attn` takes: 2.10 knows is_causal alone, later ones window, scale and groups."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def _name(module: nn.Module) -> str:
    return type(module).__name__
