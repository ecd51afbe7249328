"""One teacher-forced forward per batch, from which every metric of memorisation and membership follows.

`token_rows` runs the model once over (prompt, target) pairs and keeps four numbers per target token; the metrics are
pure functions of them (`harmonize.evaluation.scores`). `shared_rows` scores several targets of one prompt with the
prompt read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from harmonize.evaluation.likelihood import Pair, in_batches, rows_that_fit, target_logits
from harmonize.models.batching import batched
from harmonize.models.generate import Adjust, Progress, no_nan, takes_logits_to_keep
from harmonize.models.head import evaluating

if TYPE_CHECKING:
    import numpy as np

Group = tuple[Sequence[int], Sequence[Sequence[int]]]

# Logits that are held in double precision at once.
_CHUNK = 1 << 23
# Prompts that begin with this many equal ids, and how many of them, are read apart from others. Our choice.
_HEAD, _WORTH = 64, 4


@dataclass(frozen=True, eq=False)
class TokenRow:
    """What a model thinks of each token of a target, given all before it; four arrays [K] in double precision.

    Attributes:
        log_probs: Log-probability of the token (natural).
        ranks: How many tokens the model finds likelier; 0 = its first choice. Of equal ones the lower id comes first.
        means: Mean of the log-probabilities under the model's own distribution (minus its entropy).
        variances: Their variance under it.
    """

    log_probs: np.ndarray
    ranks: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Whether each token is the model's first choice. [K] bool"""
        first: np.ndarray = self.ranks == 0
        return first

    def between(self, start: int, stop: int) -> TokenRow:
        """The same of some of the tokens, such as those of the scored value."""
        part = slice(start, stop)
        return TokenRow(self.log_probs[part], self.ranks[part], self.means[part], self.variances[part])


def token_statistics(logits: Tensor, labels: Tensor) -> Tensor:
    """The four rows of `TokenRow` for N positions. [N, V], [N] -> [4, N] float64.

    A logit of minus infinity is a token of probability 0, which counts towards neither mean nor variance.
    """
    found = logits.new_empty((4, len(labels)), dtype=torch.float64)
    step = max(1, _CHUNK // max(1, logits.shape[-1]))
    ids = torch.arange(logits.shape[-1], device=logits.device)
    for at in range(0, len(labels), step):
        part, label = logits[at : at + step].double(), labels[at : at + step].unsqueeze(1)
        log_probs = part.log_softmax(-1)
        own = log_probs.gather(1, label)
        better = (log_probs > own) | ((log_probs == own) & (ids < label))
        probs = log_probs.exp()
        finite = log_probs.masked_fill(probs == 0, 0.0)
        mean = (probs * finite).sum(1)
        variance = (probs * (finite - mean.unsqueeze(1)) ** 2).sum(1)
        found[:, at : at + step] = torch.stack([own.squeeze(1), better.sum(1).double(), mean, variance])
    return found


def log_probs_and_first(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label, and 1 where it is the first choice: what costs less than `token_statistics`.

    [N, V], [N] -> [2, N] float64, from float32.
    """
    own = logits.float().log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return torch.stack([own.double(), (logits.argmax(-1) == labels).double()])


Statistics = Callable[[Tensor, Tensor], Tensor]


def token_rows(
    model: nn.Module, pairs: Sequence[Pair], pad_id: int, batch_size: int = 256, adjust: Adjust | None = None
) -> list[TokenRow]:
    """Statistics of every target, from one forward per batch.

    Args:
        model: A causal LM. pairs: (prompt, target) ids, neither of them empty.
        pad_id: Any id; masked.
        batch_size: Rows of one forward; moves the figures by rounding alone.
        adjust: Changes the logits first, as in `harmonize.models.generate.greedy`.

    Returns:
        One `TokenRow` per pair, in order.

    Raises:
        ValueError: An empty prompt or target.
        ModelError: A log-probability is not a number.
    """
    return [TokenRow(*t) for t in _tables(model, pairs, pad_id, batch_size, adjust, token_statistics)]


def _tables(
    model: nn.Module,
    pairs: Sequence[Pair],
    pad_id: int,
    batch_size: int,
    adjust: Adjust | None,
    statistics: Statistics,
) -> list[np.ndarray]:
    found: dict[int, np.ndarray] = {}

    def run(some: list[Pair]) -> list[np.ndarray]:
        logits, labels, scored = target_logits(model, some, pad_id)
        flat = logits[scored]  # row by row, in each from the first target token to the last
        if adjust is not None:
            before = [(prompt, target[:j]) for prompt, target in some for j in range(len(target))]
            flat = adjust(flat.float(), [p for p, _ in before], [t for _, t in before])
        return _cut(statistics(flat, labels[scored]), [len(t) for _, t in some])

    with torch.no_grad(), evaluating(model):
        for part, tables in in_batches(model, pairs, batch_size, run):
            found.update(zip(part, tables, strict=True))
    return [found[i] for i in range(len(pairs))]


def shared_rows(
    model: nn.Module,
    groups: Sequence[Group],
    pad_id: int,
    batch_size: int = 256,
    adjust: Adjust | None = None,
    progress: Progress | None = None,
) -> list[list[TokenRow]]:
    """Statistics of several targets of each prompt, with the prompt's keys and values computed once.

    Args:
        model: A causal LM. groups: (prompt, its targets), none of them empty.
        pad_id, adjust: As in `token_rows`.
        batch_size: Targets of one forward; a prompt with more has a batch of its own.
        progress: Called with (prompts done, prompts in all).

    Returns:
        For each group one `TokenRow` per target, in order. What many prompts begin with, such as the examples of
        few-shot prompts, is read once a batch. A model whose cache cannot be repeated row by row reads the prompt with
        every target instead; the figures are the same.

    Raises:
        ValueError: An empty prompt or target.
    """
    tables = _shared_tables(model, groups, pad_id, batch_size, adjust, progress, token_statistics)
    return [[TokenRow(*t) for t in own] for own in tables]


def shared_log_probs(
    model: nn.Module,
    groups: Sequence[Group],
    pad_id: int,
    batch_size: int = 256,
    adjust: Adjust | None = None,
    progress: Progress | None = None,
) -> list[list[tuple[float, bool]]]:
    """(sum of the log-probabilities, whether every token is the first choice) of several targets of each prompt.

    As `shared_rows` in everything else, at less cost.
    """
    tables = _shared_tables(model, groups, pad_id, batch_size, adjust, progress, log_probs_and_first)
    return [[(float(t[0].sum()), bool(t[1].all())) for t in own] for own in tables]


def _shared_tables(
    model: nn.Module,
    groups: Sequence[Group],
    pad_id: int,
    batch_size: int,
    adjust: Adjust | None,
    progress: Progress | None,
    statistics: Statistics,
) -> list[list[np.ndarray]]:
    if any(not prompt or not all(targets) for prompt, targets in groups):
        raise ValueError("shared_rows needs at least one token in every prompt and target")
    found: list[list[np.ndarray]] = [[] for _ in groups]
    order = [i for i in sorted(range(len(groups)), key=lambda i: (-_size(groups[i]), i)) if groups[i][1]]
    done = 0

    def fit(part: Sequence[int]) -> int:
        columns = max(len(t) for i in part for t in groups[i][1])
        room, count = min(batch_size, rows_that_fit(model, columns)), 0
        for n, i in enumerate(part):
            count += len(groups[i][1])
            if count > room:
                return n
        return len(part)

    with torch.no_grad(), evaluating(model):
        for own in _by_beginning(order, groups):
            for part, rows in batched(
                own,
                batch_size,
                lambda some: _shared(model, [groups[i] for i in some], pad_id, adjust, statistics),
                fit,
            ):
                for i, row in zip(part, rows, strict=True):
                    found[i] = row
                done += len(part)
                if progress is not None:
                    progress(done, len(order))
    return found


def _by_beginning(order: Sequence[int], groups: Sequence[Group]) -> list[list[int]]:
    """Prompts with the same examples before the question apart from the others; each part in the order given."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i in order:
        found.setdefault(tuple(groups[i][0][:_HEAD]), []).append(i)
    apart = [own for begun, own in found.items() if len(begun) == _HEAD and len(own) >= _WORTH]
    taken = {i for own in apart for i in own}
    rest = [i for i in order if i not in taken]
    return [*apart, rest] if rest else apart


def _shared(
    model: nn.Module, groups: Sequence[Group], pad_id: int, adjust: Adjust | None, statistics: Statistics
) -> list[list[np.ndarray]]:
    device = next(model.parameters()).device
    prompts = [list(p) for p, _ in groups]
    read, mask = _read(model, prompts, pad_id)
    owner = [n for n, (_, targets) in enumerate(groups) for _ in targets]
    targets = [list(t) for _, some in groups for t in some]
    past = read.past_key_values
    if not hasattr(past, "batch_select_indices"):
        pairs = [(prompts[n], t) for n, t in zip(owner, targets, strict=True)]
        return _grouped(_tables(model, pairs, pad_id, len(owner), adjust, statistics), groups)
    index = torch.tensor(owner, device=device)
    first = read.logits[index, -1]
    longest = max(map(len, targets))
    logits = first.unsqueeze(1)
    if longest > 1:
        past.batch_select_indices(index)
        tail = torch.tensor([t[:-1] + [pad_id] * (longest - len(t)) for t in targets], device=device)
        told = torch.tensor([[1] * (len(t) - 1) + [0] * (longest - len(t)) for t in targets], device=device)
        lengths = mask.sum(1)[index].unsqueeze(1)
        rest = model(
            input_ids=tail,
            attention_mask=torch.cat([mask[index], told], 1),
            position_ids=lengths + torch.arange(longest - 1, device=device),
            past_key_values=past,
            use_cache=True,
        ).logits
        logits = torch.cat([logits, rest], 1)
    labels = torch.tensor([t + [0] * (longest - len(t)) for t in targets], device=device)
    scored = torch.tensor([[True] * len(t) + [False] * (longest - len(t)) for t in targets], device=device)
    flat_logits = logits[scored]
    if adjust is not None:
        before = [(prompts[n], t[:j]) for n, t in zip(owner, targets, strict=True) for j in range(len(t))]
        flat_logits = adjust(flat_logits.float(), [p for p, _ in before], [t for _, t in before])
    found = _cut(statistics(flat_logits, labels[scored]), [len(t) for t in targets])
    return _grouped(found, groups)


def _read(model: nn.Module, prompts: Sequence[list[int]], pad_id: int) -> tuple[Any, Tensor]:
    """The model's output after some prompts, keys and values included, and which columns of these are no padding.

    What all prompts begin with (the examples of few-shot prompts) is read once, where the model keeps plain keys and
    values: then padding stands between that and the rest.
    """
    device = next(model.parameters()).device
    keep = {"logits_to_keep": 1} if takes_logits_to_keep(model) else {}
    common = _common(prompts)
    past = _repeated(model, prompts[0][:common], len(prompts), keep) if common >= _HEAD else None
    common = 0 if past is None else common
    rest = [p[common:] for p in prompts]
    width = max(map(len, rest))
    ids = torch.tensor([[pad_id] * (width - len(p)) + p for p in rest], device=device)
    own = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in rest], device=device)
    mask = torch.cat([own.new_ones((len(rest), common)), own], 1)
    given = {} if past is None else {"past_key_values": past}
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=common + (own.cumsum(1) - 1).clamp_min(0),
        use_cache=True,
        **given,
        **keep,
    )
    return output, mask


def _repeated(model: nn.Module, ids: list[int], times: int, keep: dict[str, Any]) -> Any:
    """Keys and values of some ids for several rows; None where a model keeps something else."""
    device = next(model.parameters()).device
    row = torch.tensor([ids], device=device)
    place = torch.arange(len(ids), device=device).unsqueeze(0)
    past = model(
        input_ids=row, attention_mask=torch.ones_like(row), position_ids=place, use_cache=True, **keep
    ).past_key_values
    if not all(type(layer) is DynamicLayer for layer in getattr(past, "layers", None) or [None]):
        return None
    past.batch_select_indices(torch.zeros(times, dtype=torch.long, device=device))
    return past


def _common(prompts: Sequence[list[int]]) -> int:
    """How many ids all of several prompts begin with, at least one of each left over."""
    if len(prompts) < 2:
        return 0
    low, high = min(prompts), max(prompts)  # what these two share, all share
    same = next(
        (n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )
    return min(same, min(map(len, prompts)) - 1)


def _size(group: Group) -> int:
    return len(group[0]) + max(map(len, group[1]), default=0)


def _cut(statistics: Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    """[k, N] -> one table [k, length] per target."""
    table, tables, at = no_nan(statistics).cpu().numpy(), [], 0
    for n in lengths:
        tables.append(table[:, at : at + n].copy())
        at += n
    return tables


def _grouped(tables: Sequence[np.ndarray], groups: Sequence[Group]) -> list[list[np.ndarray]]:
    found, at = [], 0
    for _, targets in groups:
        found.append(list(tables[at : at + len(targets)]))
        at += len(targets)
    return found
