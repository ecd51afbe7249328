"""Log-probabilities of given continuations, for four-option items and the relearning probe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from harmonize.models.batching import batched
from harmonize.models.body import evaluating
from harmonize.models.generate import Adjust, no_nan
from harmonize.models.stems import takes_logits_to_keep

Pair = tuple[Sequence[int], Sequence[int]]
R = TypeVar("R")

# Values in one batch's logits; larger batches are cut so that a large vocabulary does not fill the memory.
_MAX_LOGITS = 1 << 26


def target_log_probs(
    model: nn.Module, pairs: Sequence[Pair], pad_id: int, adjust: Adjust | None = None
) -> Tensor:
    """Log-probability of every target token given all before it, in one forward; differentiable.

    The rows end in the last column (left padding), so the model computes logits for the last K + 1 columns alone:
    exact for any head, and no logits of prompts are kept.

    Args:
        model: A causal LM. pairs: (prompt, target) ids, neither of them empty. pad_id: Any id; masked.
        adjust: Changes the logits first, as in `harmonize.models.generate.greedy`.

    Returns:
        [B, K] float32, K the longest target; 0 before the first token of a shorter one.

    Raises:
        ValueError: An empty prompt or target.
    """
    logits, labels, scored = target_logits(model, pairs, pad_id)
    logits = logits.float()
    if adjust is not None:
        # in the order of the mask: row by row, and in each the targets from the first to the last
        before = [(prompt, target[:j]) for prompt, target in pairs for j in range(len(target))]
        logits[scored] = adjust(logits[scored], [p for p, _ in before], [t for _, t in before])
    found = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return found.masked_fill(~scored, 0.0)


def target_logits(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [B, K, V] that predict the targets, the targets' ids [B, K], and which of them are no padding [B, K]."""
    if any(not prompt or not target for prompt, target in pairs):
        raise ValueError("target_log_probs needs at least one token in every prompt and target")
    device = next(model.parameters()).device
    width = max(len(p) + len(t) for p, t in pairs)
    longest = max(len(t) for _, t in pairs)
    ids = torch.full((len(pairs), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(pairs), width), dtype=torch.long)
    scored = torch.zeros((len(pairs), longest), dtype=torch.bool)
    for i, (prompt, target) in enumerate(pairs):
        row = [*prompt, *target]
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
        scored[i, longest - len(target) :] = True
    ids, mask, scored = ids.to(device), mask.to(device), scored.to(device)
    keep = {"logits_to_keep": longest + 1} if takes_logits_to_keep(model) else {}
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp_min(0),
        use_cache=False,
        **keep,
    ).logits[:, -longest - 1 : -1]
    return logits, ids[:, -longest:], scored


def continuation_log_probs(
    model: nn.Module,
    pairs: Sequence[Pair],
    pad_id: int,
    batch_size: int = 256,
    adjust: Adjust | None = None,
) -> list[float]:
    """Sum of the log-probabilities of each target given its prompt.

    Sorted by length and batched; the order of `pairs` is the order of the result, and the batch size moves it by
    rounding alone.

    Raises:
        ModelError: A log-probability is not a number.
    """
    sums = [0.0] * len(pairs)
    with torch.no_grad(), evaluating(model):
        for part, found in in_batches(
            model,
            pairs,
            batch_size,
            lambda some: no_nan(target_log_probs(model, some, pad_id, adjust).double().sum(1)),
        ):
            for i, value in zip(part, found.tolist(), strict=True):
                sums[i] = value
    return sums


def in_batches(
    model: nn.Module, pairs: Sequence[Pair], batch_size: int, run: Callable[[list[Pair]], R]
) -> Iterator[tuple[Sequence[int], R]]:
    """Runs a function on batches of pairs, the longest first, whose logits fit.

    Yields:
        Indices of the pairs of a batch, and what `run` returned for them.
    """
    order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]) - len(pairs[i][1]), i))

    def fit(part: Sequence[int]) -> int:
        return rows_that_fit(model, max(len(pairs[i][1]) for i in part) + 1)

    yield from batched(order, batch_size, lambda part: run([pairs[i] for i in part]), fit)


def rows_that_fit(model: nn.Module, columns: int) -> int:
    """Rows of so many columns whose logits may be made at once."""
    vocabulary = int(getattr(model.get_output_embeddings(), "out_features", 0) or 0)  # type: ignore[operator]
    return max(1, _MAX_LOGITS // (columns * vocabulary)) if vocabulary else sys.maxsize
