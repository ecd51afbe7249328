"""Prompts that begin alike are read once: keys and values of a common beginning, shared by every row that follows it.

Saves (n - 1) P of n (P + T) tokens for n rows with P common ones: the instruction of a teacher, few-shot examples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.models.body import output_layer, text_config, unwrapped
from harmonize.models.lower_right import Call, joined, without_mask, worthwhile

LEAST = 32  # common tokens from which sharing pays for its own forward pass
KEPT = 4  # beginnings whose keys and values are kept


def alike(prompts: Sequence[Sequence[int]], least: int = LEAST) -> list[tuple[int, list[int]]]:
    """Groups of prompts that share their first tokens.

    Args:
        prompts: Token ids. At least one token of each stays outside the shared part, to predict from.
        least: Shortest beginning worth sharing.

    Returns:
        (shared tokens, numbers of the prompts) of each group, together all prompts once; 0 shared tokens for those
        that no other prompt begins like.
    """
    order = sorted(range(len(prompts)), key=lambda i: (tuple(prompts[i]), i))
    groups: list[tuple[int, list[int]]] = []
    alone: list[int] = []
    run: list[int] = []
    length = 0
    for number in order:
        common = _common(prompts[run[-1]], prompts[number]) if run else 0
        if len(run) < 2:
            length = common
        # joining makes the others read again what they have in common beyond this
        if common >= least and (len(run) - 1) * (length - common) <= common:
            length = min(length, common)
            run.append(number)
            continue
        _close(run, length, groups, alone)
        run = [number]
    _close(run, length, groups, alone)
    if alone:
        groups.append((0, sorted(alone)))
    return groups


class SharedPrefix:
    """Keys and values of beginnings under one frozen model, the latest few kept.

    Only caches of plain attention over all earlier tokens can be shared; `keys_of` says None for every other model.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[int, ...], Any] = {}
        self.possible = True

    @torch.no_grad()
    def keys_of(self, model: nn.Module, ids: Sequence[int]) -> Any:
        """A cache with the keys and values of `ids`, for any number of forward passes; None if not possible.

        It lends them to every row and keeps nothing of what comes after them. The model must be the same at every call,
        adapters included.
        """
        key = tuple(ids)
        if not self.possible or not key:
            return None
        if key not in self._found:
            kept = _read(model, key)
            self.possible = all(type(layer).__name__ == "DynamicLayer" for layer in kept.layers)
            if not self.possible:
                return None
            for layer in kept.layers:
                # without a mask the attention itself looks up what comes before
                layer.update = _alone if kept.maskless else partial(_lend, layer.keys, layer.values)
            while len(self._found) >= KEPT:
                self._found.pop(next(iter(self._found)))
            self._found[key] = kept
        return self._found[key]


def _lend(keys: Tensor, values: Tensor, more_keys: Tensor, more_values: Tensor, *_: Any, **__: Any) -> Any:
    """What a cache layer's `update` returns, for rows that all begin with the one whose [1, G, P, D] are given."""
    return joined(keys, more_keys), joined(values, more_values)


def _alone(keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Any:
    return keys, values


def _read(model: nn.Module, ids: tuple[int, ...]) -> Any:
    """Keys and values of one row, and whether rows behind it can do without a mask (`maskless`)."""
    config = text_config(unwrapped(model))
    if worthwhile(config, next(model.parameters()).device):
        with contextlib.suppress(Exception), without_mask(config) as calls:  # some models count on their mask
            cache = _filled(model, ids)
            if len(calls) == len(cache.layers) and all(_plain(call, cache) for call in calls):
                cache.maskless = True
                return cache
    cache = _filled(model, ids)
    cache.maskless = False
    return cache


def _plain(call: Call, cache: Any) -> bool:
    """Whether a layer attends to what its cache holds, and has no mask of its own."""
    kept = cache.layers[call.layer.layer_idx]
    return call.mask is None and call.key is kept.keys and call.value is kept.values


def _filled(model: nn.Module, ids: tuple[int, ...]) -> Any:
    from transformers import DynamicCache

    def nothing(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:1, :1], *args[1:])  # no logits of a beginning are needed

    inner: Any = unwrapped(model)
    cache: Any = DynamicCache(config=text_config(inner))
    handle = output_layer(inner).register_forward_pre_hook(nothing)
    try:
        device = next(model.parameters()).device
        model(input_ids=torch.tensor([ids], device=device), past_key_values=cache, use_cache=True)
    finally:
        handle.remove()
    return cache


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    most = min(len(a), len(b)) - 1
    return next((i for i in range(most) if a[i] != b[i]), max(0, most))


def _close(run: list[int], length: int, groups: list[tuple[int, list[int]]], alone: list[int]) -> None:
    if len(run) > 1:
        groups.append((length, sorted(run)))
    else:
        alone.extend(run)
