"""Rows of one batch that begin alike: what they begin with is read once, in one forward pass for all beginnings.

A question with many openings of its answer, or with many options, is the case. For n rows with P common tokens it saves
(n - 1) P of them. `harmonize.models.prefix` keeps one beginning over many batches instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harmonize.models.body import unwrapped

Ids = Sequence[int]

# A second forward pass is worth it where it saves a fifth of the tokens, after as many as its calls alone cost. Our
# choice, measured on a CPU (docs/benchmarks.md).
_PASS, _SAVED = 64, 0.2
# Rows that all begin with this many equal ids (an instruction, examples) have them read in one row. Our choice.
HEAD = 64
_ROWS = {"DynamicLayer", "DynamicSlidingWindowLayer", "DynamicIndexedLayer"}


class Stem(NamedTuple):
    """A beginning: how many ids, and the numbers of the rows that begin with them."""

    length: int
    rows: tuple[int, ...]


class Read(NamedTuple):
    """What a model made of some rows.

    Attributes:
        logits: After the last id of each. [N, V]
        past: Keys and values; between the columns of a row there may be padding.
        mask: Which columns of `past` a row has. [N, W]
    """

    logits: Tensor
    past: Any
    mask: Tensor


def stems(rows: Sequence[Ids], most: Sequence[int]) -> list[Stem]:
    """Which rows are to share a beginning, so that few tokens are read; every row once.

    Sorted rows are joined to their neighbours, longest common beginning first, wherever a joint beginning saves more
    tokens than the parts saved.

    Args:
        rows: Token ids. most: For each, how many of them may be shared.

    Returns:
        In the order of their first rows; a row that shares nothing is alone, with length 0.
    """
    heads = [tuple(row[:n]) for row, n in zip(rows, most, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: (heads[i], i))
    common = [_common(heads[a], heads[b]) for a, b in pairwise(order)]
    last = list(range(len(rows)))  # of the run that begins here
    first = list(range(len(rows)))  # of the run that ends here
    length = [0] * len(rows)  # of the run that begins here
    for i in sorted(range(len(common)), key=lambda i: (-common[i], i)):
        begin, end = first[i], last[i + 1]
        apart = (i - begin) * length[begin] + (end - i - 1) * length[i + 1]
        if (end - begin) * common[i] > apart:
            last[begin], first[end], length[begin] = end, begin, common[i]
    found, at = [], 0
    while at < len(rows):
        found.append(Stem(length[at], tuple(sorted(order[at : last[at] + 1]))))
        at = last[at] + 1
    return sorted(found, key=lambda stem: stem.rows)


def ordered(rows: Sequence[Ids], share: bool = True, most: Sequence[int] | None = None) -> list[int]:
    """The order in which rows are put into batches: the longest first, and those that begin alike together.

    Args:
        rows: Token ids. share: Whether the model can share beginnings (`shares`); otherwise length alone decides.
        most: As in `stems`; None = all ids but the last.

    Returns:
        Numbers of the rows.
    """
    by_length = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), tuple(rows[i]), i))
    if not share or len(rows) < 2:
        return by_length
    found = stems(rows, [len(r) - 1 for r in rows] if most is None else most)
    saved = sum(s.length * (len(s.rows) - 1) for s in found)
    if saved < _SAVED * sum(map(len, rows)):
        return by_length
    place = {i: n for n, i in enumerate(by_length)}
    together = sorted((sorted(s.rows, key=place.__getitem__) for s in found), key=lambda own: place[own[0]])
    return [i for own in together for i in own]


def pays(once: int, again: int, whole: int) -> bool:
    """Whether reading `once` tokens for all and `again` in the rows beats reading `whole`, padding included."""
    return once + again + _PASS <= (1 - _SAVED) * whole


def shares(model: nn.Module) -> bool:
    """Whether a model keeps plain keys and values of all earlier tokens, which padding between them does not move."""
    from transformers import DynamicCache

    inner: Any = unwrapped(model)
    config: Any = getattr(inner, "config", None)
    if not hasattr(config, "get_text_config"):
        return False
    return _plain(DynamicCache(config=config.get_text_config()))


def keeps_rows(past: Any) -> bool:
    """Whether rows of a cache can be dropped and repeated. What keeps a running state, as linear attention, cannot."""
    layers = getattr(past, "layers", None)
    return hasattr(past, "batch_select_indices") and (
        layers is None or all(type(layer).__name__ in _ROWS for layer in layers)
    )


def read_rows(model: nn.Module, rows: Sequence[Ids], pad_id: int) -> Read:
    """Reads rows; where it pays, and the model can, their common beginnings once.

    Args:
        model: A causal LM. rows: Token ids, none of them empty. pad_id: Any id; masked.
    """
    found = _apart(rows) if len(rows) > 1 and shares(model) else None
    if found is not None:
        beginnings, owner, rests = found
        read = read_whole(model, beginnings, pad_id)
        if _plain(read.past):
            index = torch.tensor(owner, device=read.mask.device)
            read.past.batch_select_indices(index)
            return _onward(model, rests, pad_id, read.past, read.mask[index])
    return read_whole(model, rows, pad_id)


def read_whole(model: nn.Module, rows: Sequence[Ids], pad_id: int) -> Read:
    """Reads every row from its first id to its last; only what all begin with (`HEAD` ids or more) is read once."""
    head = _common_of_all(rows)
    device = next(model.parameters()).device
    if head >= HEAD and shares(model):
        read = _onward(
            model, [rows[0][:head]], pad_id, None, torch.zeros((1, 0), device=device, dtype=torch.long)
        )
        if _plain(read.past):
            index = torch.zeros(len(rows), dtype=torch.long, device=device)
            read.past.batch_select_indices(index)
            return _onward(model, [r[head:] for r in rows], pad_id, read.past, read.mask[index])
    nothing = torch.zeros((len(rows), 0), dtype=torch.long, device=device)
    return _onward(model, rows, pad_id, None, nothing)


def _onward(model: nn.Module, rows: Sequence[Ids], pad_id: int, past: Any, before: Tensor) -> Read:
    """Reads rows, padded on the left, after what `past` holds."""
    device = before.device
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(r)) + list(r) for r in rows], device=device)
    own = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    mask = torch.cat([before, own], 1)
    given = {} if past is None else {"past_key_values": past}
    keep = {"logits_to_keep": 1} if takes_logits_to_keep(model) else {}
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(before.sum(1, keepdim=True) + own.cumsum(1) - 1).clamp_min(0),
        use_cache=True,
        **given,
        **keep,
    )
    return Read(output.logits[:, -1], output.past_key_values, mask)


def _apart(rows: Sequence[Ids]) -> tuple[list[Ids], list[int], list[Ids]] | None:
    """Beginnings, which of them each row has, and what follows in each row; None where that does not pay."""
    found = stems(rows, [len(r) - 1 for r in rows])
    widest = max(s.length for s in found)
    beginnings: list[Ids] = []
    owner, rests = [0] * len(rows), [rows[0]] * len(rows)
    for stem in found:
        # a row that shares nothing is cut where the others are
        length = stem.length or min(widest, len(rows[stem.rows[0]]) - 1)
        if not length:
            return None
        for i in stem.rows:
            owner[i], rests[i] = len(beginnings), rows[i][length:]
        beginnings.append(rows[stem.rows[0]][:length])
    once, again = len(beginnings) * max(map(len, beginnings)), len(rows) * max(map(len, rests))
    return (beginnings, owner, rests) if pays(once, again, len(rows) * max(map(len, rows))) else None


def _plain(past: Any) -> bool:
    layers: Any = getattr(past, "layers", None)
    return bool(layers) and all(type(layer).__name__ == "DynamicLayer" for layer in layers)


def _common(a: Ids, b: Ids) -> int:
    both = min(len(a), len(b))
    return next((i for i in range(both) if a[i] != b[i]), both)


def _common_of_all(rows: Sequence[Ids]) -> int:
    """How many ids all of several rows begin with, at least one of each left over."""
    if len(rows) < 2:
        return 0
    low, high = min(map(tuple, rows)), max(map(tuple, rows))  # what these two share, all share
    return min(_common(low, high), min(map(len, rows)) - 1)


def takes_logits_to_keep(model: nn.Module) -> bool:
    """Whether the model can be asked for the logits of its last columns alone."""
    inner: Any = unwrapped(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
