"""Greedy and sampled generation in sorted, left-padded batches with a key-value cache.

What prompts of a batch begin with is read once (`harmonize.models.stems`), and rows that are finished leave the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harmonize.errors import ModelError
from harmonize.models.batching import batched
from harmonize.models.body import evaluating
from harmonize.models.stems import Read, keeps_rows, ordered, read_rows, shares, takes_logits_to_keep

Progress = Callable[[int, int], None]
# ([N, V] next-token logits, N prompts, what was said after each) -> [N, V]; may change its first argument.
Adjust = Callable[[Tensor, Sequence[Sequence[int]], Sequence[Sequence[int]]], Tensor]

# Finished rows are dropped when they are this share of a batch. Our choice, measured on a CPU (docs/benchmarks.md).
_FINISHED = 1 / 8


def greedy(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    stop_ids: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int = 256,
    progress: Progress | None = None,
    adjust: Adjust | None = None,
) -> list[list[int]]:
    """Continues every prompt with its most likely tokens.

    Args:
        model: A causal LM.
        prompts: Token ids; equal prompts are continued once.
        stop_ids: Any of these ends a continuation and is not part of it.
        pad_id: Any id; padding is masked.
        max_new_tokens: Limit per continuation.
        batch_size: Prompts per batch; moves speed and memory only. Halved, with a notice, where memory runs out.
        progress: Called with (prompts done, prompts in all).
        adjust: Changes the next-token logits of unfinished rows before the largest is taken.

    Returns:
        One list of new ids per prompt, in the order of `prompts`.

    Raises:
        ValueError: An empty prompt.
    """
    if not all(prompts):
        raise ValueError("greedy needs at least one token in every prompt")
    unique = in_order(model, prompts)
    done: dict[tuple[int, ...], list[int]] = {}
    stops = frozenset(int(i) for i in stop_ids)

    def run(part: Sequence[tuple[int, ...]]) -> list[list[int]]:
        # a batch is a set: in which order it came decides nothing, not even rounding
        rows = sorted(part, key=lambda p: (-len(p), p))
        said = dict(zip(rows, _continue(model, rows, stops, pad_id, max_new_tokens, adjust), strict=True))
        return [said[p] for p in part]

    with torch.no_grad(), evaluating(model):
        for part, said in batched(unique, batch_size, run):
            done.update(zip(part, said, strict=True))
            if progress is not None:
                progress(len(done), len(unique))
    return [list(done[tuple(p)]) for p in prompts]


def in_order(model: Any, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Different prompts in the order in which `greedy` puts them into batches: so many of them, then as many again.

    Args:
        model: Prompts that begin alike stand together where it can share their beginning; None = it cannot.
    """
    unique = sorted({tuple(p) for p in prompts}, key=lambda p: (-len(p), p))
    return [unique[i] for i in ordered(unique, model is not None and shares(model))]


def sampled(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    stop_ids: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    draws: int,
    temperature: float = 1.0,
    batch_size: int = 256,
    progress: Progress | None = None,
    adjust: Adjust | None = None,
) -> list[list[list[int]]]:
    """Continues every prompt several times with tokens drawn from softmax(logits / temperature).

    A draw is a function of its key, its number and the model's probabilities alone: neither the batch nor the number
    of draws moves it (but for rounding). The prompt is read once for all draws.

    Args:
        model, prompts, stop_ids, pad_id, max_new_tokens, adjust: As in `greedy`.
        keys: One per prompt, what its randomness is made of.
        draws: Continuations of each prompt.
        batch_size: Continuations per batch. Halved, with a notice, where memory runs out.
        progress: Called with (continuations done, continuations in all).

    Returns:
        For each prompt, in order, `draws` lists of new ids.

    Raises:
        ValueError: An empty prompt.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), tuple(prompts[i]), keys[i]))
    if order and not prompts[order[-1]]:
        raise ValueError("sampled needs at least one token in every prompt")
    stops = frozenset(int(i) for i in stop_ids)
    found: list[list[list[int]]] = [[] for _ in prompts]
    size = max(1, batch_size // draws)
    done = 0

    def run(part: Sequence[int]) -> list[list[int]]:
        numbers = np.concatenate([_uniform(keys[i], draws, max_new_tokens) for i in part])
        rows = [tuple(prompts[i]) for i in part]
        choose = partial(_drawn, torch.from_numpy(numbers), temperature)
        return _continue(model, rows, stops, pad_id, max_new_tokens, adjust, choose, draws)

    with torch.no_grad(), evaluating(model):
        for part, said in batched(order, size, run):
            for n, i in enumerate(part):
                found[i] = said[n * draws : (n + 1) * draws]
            done += len(part)
            if progress is not None:
                progress(done * draws, len(order) * draws)
    return found


def _uniform(key: str, draws: int, length: int) -> np.ndarray:
    """[draws, length] numbers in [0, 1), a row for each draw; a function of key, draw and position."""
    rows = []
    for draw in range(draws):
        digest = hashlib.blake2b(f"{key}\x1f{draw}".encode(), digest_size=16).digest()
        rows.append(np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big"))).random(length))
    return np.stack(rows)


def _drawn(numbers: Tensor, temperature: float, logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
    """The token at which the cumulated probabilities of each row pass its number of this step."""
    p = (logits.double() / temperature).softmax(-1).cumsum(-1)
    no_nan(p[:, -1])
    u = numbers[list(rows), step].to(p).unsqueeze(1) * p[:, -1:]
    return torch.searchsorted(p, u, right=True).squeeze(1).clamp_max(p.shape[1] - 1)


def _likeliest(logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
    best = logits.argmax(-1)
    no_nan(logits.gather(-1, best.unsqueeze(-1)))  # NaN counts as the largest
    return best


def no_nan(found: Tensor) -> Tensor:
    """The values as they are. Every comparison with NaN is false, so it would pass for a token that comes first.

    Raises:
        ModelError: One of them is NaN.
    """
    if bool(found.isnan().any()):
        raise ModelError(
            "The model's log-probabilities are not numbers (NaN), so nothing of it can be measured: its weights hold "
            "such values, or its activations overflow. Check the weights, or load it with model.dtype=float32."
        )
    return found


def _continue(
    model: nn.Module,
    prompts: list[tuple[int, ...]],
    stops: frozenset[int],
    pad_id: int,
    limit: int,
    adjust: Adjust | None,
    choose: Callable[[Tensor, Sequence[int], int], Tensor] = _likeliest,
    copies: int = 1,
) -> list[list[int]]:
    """Continuations of each prompt, `copies` of them one after another."""
    read = read_rows(model, prompts, pad_id)
    prompts = [prompt for prompt in prompts for _ in range(copies)]
    if copies > 1 and keeps_rows(read.past):
        index = torch.arange(len(prompts), device=read.mask.device) // copies
        read.past.batch_select_indices(index)
        read = Read(read.logits[index], read.past, read.mask[index])
    elif copies > 1:
        read = read_rows(model, prompts, pad_id)
    logits, past, mask = read
    last_only = {"logits_to_keep": 1} if takes_logits_to_keep(model) else {}
    out: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))  # original index of every row still in the batch
    running = set(alive)
    for step in range(limit):
        if adjust is not None:
            rows = [n for n, i in enumerate(alive) if i in running]
            which = [alive[n] for n in rows]
            logits = logits.float()
            logits[rows] = adjust(logits[rows], [prompts[i] for i in which], [out[i] for i in which])
        chosen = choose(logits, alive, step)
        for i, token in zip(alive, chosen.tolist(), strict=True):
            if i in running:
                if token in stops:
                    running.discard(i)
                else:
                    out[i].append(token)
        if not running or step + 1 == limit:
            break
        if len(running) <= (1 - _FINISHED) * len(alive) and keeps_rows(past):
            keep = torch.tensor([n for n, i in enumerate(alive) if i in running], device=mask.device)
            past.batch_select_indices(keep)
            chosen, mask = chosen[keep], mask[keep]
            alive = [i for i in alive if i in running]
        positions = mask.sum(1, keepdim=True)
        mask = _longer(mask)
        result = model(
            input_ids=chosen.unsqueeze(1),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            **last_only,
        )
        past, logits = result.past_key_values, result.logits[:, -1]
    return out


def _longer(mask: Tensor) -> Tensor:
    return torch.cat([mask, mask.new_ones((mask.shape[0], 1))], dim=1)
