"""Greedy and sampled generation in length-sorted, left-padded batches with a key-value cache."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harmonize.errors import ModelError
from harmonize.models.batching import batched
from harmonize.models.head import evaluating, unwrapped

Progress = Callable[[int, int], None]
# ([N, V] next-token logits, N prompts, what was said after each) -> [N, V]; may change its first argument.
Adjust = Callable[[Tensor, Sequence[Sequence[int]], Sequence[Sequence[int]]], Tensor]


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
    unique = longest_first(prompts)
    if unique and not unique[-1]:
        raise ValueError("greedy needs at least one token in every prompt")
    done: dict[tuple[int, ...], list[int]] = {}
    stops = frozenset(int(i) for i in stop_ids)

    def run(part: Sequence[tuple[int, ...]]) -> list[list[int]]:
        return _continue(model, list(part), stops, pad_id, max_new_tokens, adjust)

    with torch.no_grad(), evaluating(model):
        for part, said in batched(unique, batch_size, run):
            done.update(zip(part, said, strict=True))
            if progress is not None:
                progress(len(done), len(unique))
    return [list(done[tuple(p)]) for p in prompts]


def longest_first(prompts: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """Every prompt once, in the order in which `greedy` takes its batches."""
    return sorted({tuple(p) for p in prompts}, key=lambda p: (-len(p), p))


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
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    last_only = {"logits_to_keep": 1} if takes_logits_to_keep(model) else {}
    prompts = [prompt for prompt in prompts for _ in range(copies)]
    out: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))  # original index of every row still in the batch
    running = set(alive)
    past: Any = None
    for step in range(limit):
        result = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            **last_only,
        )
        past = result.past_key_values
        logits = result.logits[:, -1]
        if step == 0 and copies > 1:
            past.batch_repeat_interleave(copies)
            logits, mask, positions = (t.repeat_interleave(copies, 0) for t in (logits, mask, positions))
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
        ids, positions = chosen.unsqueeze(1), positions[:, -1:] + 1
        if 2 * len(running) <= len(alive) and hasattr(past, "batch_select_indices"):
            keep = torch.tensor([n for n, i in enumerate(alive) if i in running], device=device)
            past.batch_select_indices(keep)
            ids, positions, mask = ids[keep], positions[keep], mask[keep]
            alive = [i for i in alive if i in running]
        mask = _longer(mask)
    return out


def _longer(mask: Tensor) -> Tensor:
    return torch.cat([mask, mask.new_ones((mask.shape[0], 1))], dim=1)


def takes_logits_to_keep(model: nn.Module) -> bool:
    """Whether the model can be asked for the logits of its last columns alone."""
    inner: Any = unwrapped(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
