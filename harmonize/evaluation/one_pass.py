"""One teacher-forced forward per batch, from which every metric of memorisation and membership follows.

`token_rows` runs the model once over (prompt, target) pairs and keeps four numbers per target token; the metrics are
pure functions of them (`harmonize.evaluation.scores`). `shared_rows` scores several targets of one prompt with the
prompt read once, `pair_log_probs` any pairs, whose common beginnings are found where reading them once pays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harmonize.evaluation.likelihood import (
    Pair,
    continuation_log_probs,
    in_batches,
    rows_that_fit,
    target_logits,
)
from harmonize.models.batching import batched
from harmonize.models.body import evaluating, logits_at
from harmonize.models.generate import Adjust, Progress, no_nan
from harmonize.models.stems import HEAD, keeps_rows, pays, read_whole, stems

if TYPE_CHECKING:
    import numpy as np

Group = tuple[Sequence[int], Sequence[Sequence[int]]]
# A beginning, and pairs of what follows it in each row: the rest of the prompt (perhaps nothing), and the target.
_Parts = tuple[Sequence[int], Sequence[Pair]]

# Logits that are worked on at once: on a CPU so few that they stay in its cache.
_CHUNK, _CPU_CHUNK = 1 << 23, 1 << 17
_NEVER = -1e30  # a logit whose probability is 0; that times minus infinity would be no number
# So many prompts that begin with the same `HEAD` ids are read apart from others. Our choice.
_WORTH = 4


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
    ids = torch.arange(logits.shape[-1], device=logits.device)

    def of(raw: Tensor, label: Tensor) -> Tensor:
        own = raw.gather(1, label)
        better = ((raw > own) | ((raw == own) & (ids < label))).sum(1)
        values = raw.double().clamp_min_(_NEVER) if raw.dtype != torch.float64 else raw.clamp_min(_NEVER)
        total = values.logsumexp(1, keepdim=True)
        logs = values.sub_(total)  # before the mean is taken: it is all that a model that is certain leaves
        probs = logs.exp()
        mean = torch.linalg.vecdot(probs, logs)
        variance = torch.linalg.vecdot(probs, logs.sub_(mean.unsqueeze(1)).square_())
        return torch.stack([(own.double() - total).squeeze(1), better.double(), mean, variance])

    return _chunked(of, logits, labels)


def log_probs_and_first(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label, and 1 where it is the first choice: what costs less than `token_statistics`.

    [N, V], [N] -> [2, N] float64, from float32.
    """

    def of(raw: Tensor, label: Tensor) -> Tensor:
        first = raw.argmax(-1) == label.squeeze(1)
        return torch.stack([_log_probs(raw, label), first.double()])

    return _chunked(of, logits, labels)


def log_probs_alone(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label. [N, V], [N] -> [1, N] float64, from float32."""
    return _chunked(lambda raw, label: _log_probs(raw, label).unsqueeze(0), logits, labels)


def _log_probs(raw: Tensor, label: Tensor) -> Tensor:
    values = raw.float()
    return (values.gather(1, label).squeeze(1) - values.logsumexp(-1)).double()


def _chunked(of: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """A function of some rows of logits and their labels [n, 1], over all rows. -> [k, N]"""
    chunk = _CPU_CHUNK if logits.device.type == "cpu" else _CHUNK
    step = max(1, chunk // max(1, logits.shape[-1]))
    parts = zip(logits.split(step), labels.unsqueeze(1).split(step), strict=True)
    return torch.cat([of(raw, label) for raw, label in parts], 1)


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
    tables = _shared_tables(model, _parted(groups), pad_id, batch_size, adjust, progress, token_statistics)
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
    tables = _shared_tables(model, _parted(groups), pad_id, batch_size, adjust, progress, log_probs_and_first)
    return [[(float(t[0].sum()), bool(t[1].all())) for t in own] for own in tables]


def pair_log_probs(
    model: nn.Module, pairs: Sequence[Pair], pad_id: int, batch_size: int = 256, adjust: Adjust | None = None
) -> list[float]:
    """Sum of the log-probabilities of each target given its prompt.

    As `continuation_log_probs`, with what prompts have in common (options of a question, openings of an answer) read
    once where that pays; the way there moves a sum by rounding alone.

    Raises:
        ValueError: An empty prompt or target.
        ModelError: A log-probability is not a number.
    """
    if not all(prompt and target for prompt, target in pairs):
        raise ValueError("pair_log_probs needs at least one token in every prompt and target")
    whole = [(*prompt, *target) for prompt, target in pairs]
    found = stems(whole, [len(prompt) for prompt, _ in pairs])
    # a row that shares nothing begins with its prompt
    lengths = [s.length or len(pairs[s.rows[0]][0]) for s in found]
    once, again = (
        sum(lengths),
        sum(len(whole[i]) - n for s, n in zip(found, lengths, strict=True) for i in s.rows),
    )
    if not pairs or not pays(once, again, sum(map(len, whole))):
        return continuation_log_probs(model, pairs, pad_id, batch_size, adjust)
    groups = [
        (whole[s.rows[0]][:n], [(pairs[i][0][n:], pairs[i][1]) for i in s.rows])
        for s, n in zip(found, lengths, strict=True)
    ]
    tables = _shared_tables(model, groups, pad_id, batch_size, adjust, None, log_probs_alone)
    sums = [0.0] * len(pairs)
    for stem, own in zip(found, tables, strict=True):
        for i, table in zip(stem.rows, own, strict=True):
            sums[i] = float(table.sum())
    return sums


def _parted(groups: Sequence[Group]) -> list[_Parts]:
    return [(prompt, [((), target) for target in targets]) for prompt, targets in groups]


def _shared_tables(
    model: nn.Module,
    groups: Sequence[_Parts],
    pad_id: int,
    batch_size: int,
    adjust: Adjust | None,
    progress: Progress | None,
    statistics: Statistics,
) -> list[list[np.ndarray]]:
    if any(not stem or not all(target for _, target in parts) for stem, parts in groups):
        raise ValueError("shared_rows needs at least one token in every prompt and target")
    found: list[list[np.ndarray]] = [[] for _ in groups]
    order = [i for i in sorted(range(len(groups)), key=lambda i: (-_size(groups[i]), i)) if groups[i][1]]
    done = 0

    def fit(part: Sequence[int]) -> int:
        columns = max(len(rest) + len(target) for i in part for rest, target in groups[i][1])
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


def _by_beginning(order: Sequence[int], groups: Sequence[_Parts]) -> list[list[int]]:
    """Prompts with the same examples before the question apart from the others; each part in the order given."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i in order:
        found.setdefault(tuple(groups[i][0][:HEAD]), []).append(i)
    apart = [own for begun, own in found.items() if len(begun) == HEAD and len(own) >= _WORTH]
    taken = {i for own in apart for i in own}
    rest = [i for i in order if i not in taken]
    return [*apart, rest] if rest else apart


def _shared(
    model: nn.Module, groups: Sequence[_Parts], pad_id: int, adjust: Adjust | None, statistics: Statistics
) -> list[list[np.ndarray]]:
    rows = [(n, rest, target) for n, (_, parts) in enumerate(groups) for rest, target in parts]
    logits, past, mask = read_whole(model, [stem for stem, _ in groups], pad_id)
    prompts = [(*groups[n][0], *rest) for n, rest, _ in rows]
    targets = [target for _, _, target in rows]
    if not keeps_rows(past):
        pairs = list(zip(prompts, targets, strict=True))
        return _grouped(_tables(model, pairs, pad_id, len(rows), adjust, statistics), groups)
    device = mask.device
    index = torch.tensor([n for n, _, _ in rows], device=device)
    tails = [[*rest, *target] for _, rest, target in rows]
    longest = max(map(len, tails))
    # every token that is scored, row by row, by its place in the row's tail
    places = [(r, len(rest) + j) for r, (_, rest, target) in enumerate(rows) for j in range(len(target))]
    labels = torch.tensor([tails[r][at] for r, at in places], device=device)

    def table(states: Tensor, of: list[int]) -> Tensor:
        if adjust is not None:
            own = [places[i][0] for i in of]
            before = [tails[r][len(rows[r][1]) : at] for r, at in (places[i] for i in of)]
            states = adjust(states.float(), [prompts[r] for r in own], before)
        return statistics(states, labels[torch.tensor(of, device=device)])

    first = [i for i, (_, at) in enumerate(places) if at == 0]
    later = [i for i, (_, at) in enumerate(places) if at > 0]
    tables = [table(logits[index[[places[i][0] for i in first]]], first)] if first else []
    if longest > 1:
        past.batch_select_indices(index)
        own = mask[index]
        told = torch.tensor([[1] * (len(t) - 1) + [0] * (longest - len(t)) for t in tails], device=device)
        told_by = torch.tensor([r * (longest - 1) + at - 1 for r, at in places if at > 0], device=device)
        with logits_at(model, told_by):
            after = model(
                input_ids=torch.tensor(
                    [t[:-1] + [pad_id] * (longest - len(t)) for t in tails], device=device
                ),
                attention_mask=torch.cat([own, told], 1),
                position_ids=own.sum(1, keepdim=True) + torch.arange(longest - 1, device=device),
                past_key_values=past,
                use_cache=True,
            ).logits.flatten(0, 1)
        tables.append(table(after if len(after) == len(later) else after[told_by], later))
    found = torch.cat(tables, 1)[:, torch.tensor([*first, *later], device=device).argsort()]
    return _grouped(_cut(found, [len(t) for t in targets]), groups)


def _size(group: _Parts) -> int:
    return len(group[0]) + max((len(rest) + len(target) for rest, target in group[1]), default=0)


def _cut(statistics: Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    """[k, N] -> one table [k, length] per target."""
    table, tables, at = no_nan(statistics).cpu().numpy(), [], 0
    for n in lengths:
        tables.append(table[:, at : at + n].copy())
        at += n
    return tables


def _grouped(tables: Sequence[np.ndarray], groups: Sequence[_Parts]) -> list[list[np.ndarray]]:
    found, at = [], 0
    for _, parts in groups:
        found.append(list(tables[at : at + len(parts)]))
        at += len(parts)
    return found
