"""The reference: what the untouched model says at the response positions of training, read once and for all runs.

Unlike the teacher it has no instruction and sees what the student sees, prefills included. Only what the objectives
read is kept: log-probabilities of the response tokens, final hidden states (from which every logit follows exactly),
and the states after some blocks. A positions of a batch, N positions in all, H hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harmonize.console import warn
from harmonize.data.batch import Batch, Row, collate
from harmonize.data.corpus import content_hash
from harmonize.data.example import ROLES
from harmonize.errors import ConfigError
from harmonize.models.body import answer_states, evaluating, output_layer
from harmonize.models.budget import Budget, announce, choose
from harmonize.models.cache import rows as stored_rows
from harmonize.models.frozen import to_fp16
from harmonize.models.generate import Progress
from harmonize.models.head import Head
from harmonize.models.lora import adapters_off, has_adapters
from harmonize.models.shares import ALONE, Shares
from harmonize.models.store import HEADER, RAM_BYTES, open_array
from harmonize.models.teacher import filled, model_numerics

FORMAT = "reference-1"  # part of the key
Key = tuple[tuple[int, ...], tuple[int, ...]]


def key_of(row: Row) -> Key:
    """What the reference reads for a row: its prompt, and prefill and response as one text."""
    return row.prompt, (*row.prefill, *row.target)


class Reference:
    """Outputs of the untouched model from disk; no forward pass in training.

    Attributes:
        path: Folder on disk, or None.
        forwards: Forward passes that this process made.
        note: What a reader of the results should know of how it is kept, or nothing.
    """

    note = ""

    def __init__(
        self,
        head: Head,
        starts: Mapping[Key, int],
        arrays: Mapping[str, Tensor],
        blocks: Mapping[int | None, int],
        roles: Iterable[str],
        path: Path | None = None,
        forwards: int = 0,
    ) -> None:
        self.roles = frozenset(roles)
        self.head, self.path, self.forwards = head, path, forwards
        self._starts, self._arrays, self._blocks = starts, arrays, dict(blocks)
        self._moments: tuple[Tensor, Tensor] | None = None

    def place(self, row: Row) -> Row:
        """The row and its companions, told where their outputs lie; rows of roles that nothing reads stay as they are.

        Raises:
            KeyError: A row of a role that is read was not among those that the reference was built for.
        """
        if row.role not in self.roles:
            return row
        start = self._starts[key_of(row)] + len(row.prefill)
        return replace(row, reference_start=start, companions=tuple(map(self.place, row.companions)))

    def prepare(self, batch: Batch) -> None:
        """Announces the next micro-batch; nothing to do."""

    def log_probs(self, index: Tensor) -> Tensor:
        """[A] -> [A] log-probability of the response token."""
        return stored_rows(self._arrays["log_probs"], index)

    @torch.no_grad()
    def logits(self, index: Tensor) -> Tensor:
        """[A] -> [A, V] fp32."""
        return self.head.logits(self.hidden(index))

    def hidden(self, index: Tensor) -> Tensor:
        """[A] -> [A, H] final hidden states, fp16."""
        return stored_rows(self._arrays["hidden"], index)

    def at_layer(self, index: Tensor, layer: int | None) -> Tensor:
        """[A] -> [A, H] hidden states after the block that the setting `layer` names."""
        return stored_rows(self._arrays[f"block_{self._blocks[layer]}"], index)

    def moments(self) -> tuple[Tensor, Tensor]:
        """[H] mean and [H] standard deviation of the final hidden states over all N positions."""
        if self._moments is None:
            states = self._arrays["hidden"]
            total = torch.zeros(states.shape[1], dtype=torch.float64)
            square = total.clone()
            for part in states.split(65536):
                total += part.double().sum(0).cpu()
                square += part.double().square().sum(0).cpu()
            mean = total / len(states)
            std = (square / len(states) - mean**2).clamp_min(0).sqrt()
            device = self.head.weight.device
            self._moments = mean.float().to(device), std.float().to(device)
        return self._moments


class LiveReference(Reference):
    """No cache: the rows of a micro-batch that an objective reads go through the untouched model again.

    Args:
        run: The untouched model's final states and states after blocks, at the answer positions of a batch.
        roles: Roles that are read.
    """

    def __init__(
        self,
        head: Head,
        run: Callable[[Batch], tuple[Tensor, dict[int, Tensor]]],
        roles: Iterable[str],
        blocks: Mapping[int | None, int],
    ) -> None:
        super().__init__(head, {}, {}, blocks, roles)
        self._run, self._labels = run, torch.empty(0, dtype=torch.long)
        self._role_ids = torch.tensor([ROLES.index(r) for r in self.roles])  # type: ignore[arg-type]

    def place(self, row: Row) -> Row:
        """The row as it is."""
        return row

    def prepare(self, batch: Batch) -> None:
        """One forward over the rows that are read, and no other."""
        wanted = torch.isin(batch.role_id, self._role_ids.to(batch.role_id.device))
        if not bool(wanted.any()):
            return
        part, which = rows_of(batch, wanted)
        final, inner = self._run(part)
        self.forwards += 1
        self._labels = part.labels
        self._arrays = {"hidden": final, **{f"block_{b}": states for b, states in inner.items()}}
        batch.reference_index = torch.full_like(batch.row, -1)
        batch.reference_index[which] = torch.arange(len(which), device=which.device)

    @torch.no_grad()
    def log_probs(self, index: Tensor) -> Tensor:
        """[A] -> [A] log-probability of the response token."""
        return stored_rows(self.head.log_probs(self._arrays["hidden"], self._labels), index)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Not known in this mode."""
        raise ConfigError(
            "An objective reads statistics of the untouched model's states; set teacher.cache=hidden."
        )


def build_reference(
    model: nn.Module,
    head: Head,
    rows: Sequence[Row],
    kinds: Collection[str],
    blocks: Mapping[int | None, int],
    *,
    digest: str,
    pad_id: int,
    mode: str,
    cache_dir: Path,
    batch_size: int = 64,
    progress: Progress | None = None,
    budget: Budget | None = None,
    names: Mapping[str, str] | None = None,
    shares: Shares = ALONE,
) -> Reference:
    """The reference for some rows, read from `cache_dir/reference` if it is there, computed otherwise.

    Call it before an optimizer exists and before DDP or a compiler wraps the model.

    Args:
        model: The model as it is before training; with adapters, they are off while it is read.
        head: Its head. A trainable weight is copied, a frozen one shared.
        rows: Every row that training may show and an objective may read the reference of.
        kinds: What is read: log_probs, hidden.
        blocks: Value of a setting `layer` that is read to the number of its block.
        digest: Content of the weights.
        pad_id: Fills padded columns.
        mode: `none` reads the untouched model anew at each step (a full fine-tuning then keeps a frozen copy of it);
            anything else keeps its outputs on disk.
        cache_dir: The package's cache folder.
        batch_size: Rows per forward pass; not part of the key.
        progress: Called with (done, total).
        budget: What it may take on the disk, looked at before it is built; None builds it as long as the disk lasts.
        names: `model` and `data`, as their user calls them; not part of the key.
        shares: As in `harmonize.models.teacher.build_teacher_cache`.

    Raises:
        ModelError: Hidden states that fp16 cannot hold.
        RunError: The cache cannot be written, or is more than the budget or the disk allows.
    """
    numbers = sorted(set(blocks.values()))
    if mode == "none":
        return _live(model, head, {r.role for r in rows}, numbers, blocks)
    frozen = head.frozen(clone=head.weight.requires_grad)
    keys = sorted({key_of(r) for r in rows})
    kept = sorted({*kinds, *(f"block_{b}" for b in numbers)})
    key = content_hash(FORMAT, kept, digest, *model_numerics(model, head), keys)
    folder = Path(cache_dir) / "reference" / key[:32]
    ends = np.cumsum([0, *(len(target) for _, target in keys)])
    forwards = 0

    def fill(work: Path | None) -> None:
        nonlocal forwards
        forwards = _fill(work, model, frozen, keys, ends, kept, numbers, pad_id, batch_size, progress, shares)

    if budget is not None and not (folder / HEADER).exists():
        each = sum(_item_bytes(name, int(frozen.weight.shape[1])) for name in kept)
        mode, note = choose("reference", int(ends[-1]), {mode: each}, budget, folder)
        if mode == "none":
            warn(note)
            live = _live(model, head, {r.role for r in rows}, numbers, blocks)
            live.note = note
            return live
        announce("reference", int(ends[-1]), each, folder)
    arrays = filled("reference", folder, key, fill, shares, names)
    small = sum(a.nbytes for a in arrays.values()) <= RAM_BYTES
    device = head.weight.device
    tensors = {n: torch.from_numpy(a).to(device) if small else torch.from_numpy(a) for n, a in arrays.items()}
    starts = dict(zip(keys, ends.tolist(), strict=False))
    return Reference(frozen, starts, tensors, blocks, {r.role for r in rows}, folder, forwards)


def rows_of(batch: Batch, wanted: Tensor) -> tuple[Batch, Tensor]:
    """Some rows of a batch as a batch of their own, and the numbers of their positions in the old one.

    Args:
        batch: Any batch.
        wanted: [B] bool.
    """
    which = wanted[batch.row].nonzero().squeeze(1)
    width = batch.input_ids.shape[1]
    number = wanted.cumsum(0) - 1
    rows = batch.row[which]
    part = copy.copy(batch)
    for name in ("input_ids", "attention_mask", "position_ids"):
        setattr(part, name, getattr(batch, name)[wanted])
    part.row = number[rows]
    part.positions = batch.positions[which] - (rows - part.row) * width
    part.labels, part.offset = batch.labels[which], batch.offset[which]
    return part, which


def _fill(
    work: Path | None,
    model: nn.Module,
    head: Head,
    keys: Sequence[Key],
    ends: Any,
    kept: Sequence[str],
    numbers: Sequence[int],
    pad_id: int,
    batch_size: int,
    progress: Progress | None,
    shares: Shares,
) -> int:
    total, width = int(ends[-1]), int(head.weight.shape[1])
    files = {
        n: open_array(work, n, (total,) if n == "log_probs" else (total, width), _number(n))
        for n in kept
        if work is not None
    }
    order = sorted(range(len(keys)), key=lambda i: (-len(keys[i][0]) - len(keys[i][1]), i))
    device = next(model.parameters()).device
    forwards = 0
    handed: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    with shares.together(model):
        for start in range(0, len(order), batch_size):
            if not shares.takes(start // batch_size):
                continue
            which = order[start : start + batch_size]
            rows = [Row(str(i), str(ROLES[0]), "", *keys[i]) for i in which]
            batch = collate(rows, pad_id).to(device)
            with torch.no_grad(), evaluating(model), adapters_off(model):
                final, inner = answer_states(model, batch, numbers)
            forwards += 1
            place = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in which])
            found = {n: _kept(n, head, final, inner, batch.labels).cpu().numpy() for n in kept}
            if work is None:
                handed.append((place, found))
            for name, file in files.items():
                file[place] = found[name]
            if progress is not None:
                progress(start + len(which), len(order))
    for place, found in shares.to_first(handed):
        for name, file in files.items():
            file[place] = found[name]
    for file in files.values():
        file.flush()
    return forwards


def _number(name: str) -> type:
    """Kind of the numbers of an array. States of blocks keep fp32: their distance from the student's starts at 0, where
    rounding would be all there is.
    """
    return np.float16 if name == "hidden" else np.float32


def _item_bytes(name: str, width: int) -> int:
    """Bytes of an array for each position."""
    return np.dtype(_number(name)).itemsize * (1 if name == "log_probs" else width)


@torch.no_grad()
def _kept(name: str, head: Head, final: Tensor, inner: Mapping[int, Tensor], labels: Tensor) -> Tensor:
    """The array of that name, of one batch."""
    if name == "log_probs":
        return head.log_probs(final, labels)
    if name == "hidden":
        return to_fp16(final)
    return inner[int(name.removeprefix("block_"))].float()


def _live(
    model: nn.Module,
    head: Head,
    roles: Iterable[str],
    numbers: Sequence[int],
    blocks: Mapping[int | None, int],
) -> LiveReference:
    frozen, untouched = head.frozen(clone=head.weight.requires_grad), model
    if not has_adapters(model) and any(p.requires_grad for p in model.parameters()):
        untouched = copy.deepcopy(model).eval().requires_grad_(False)
        layer: Any = output_layer(untouched)
        bias = None if layer.bias is None else layer.bias.detach()
        frozen = replace(head, weight=layer.weight.detach(), bias=bias)

    def run(batch: Batch) -> tuple[Tensor, dict[int, Tensor]]:
        off: contextlib.AbstractContextManager[None] = adapters_off(untouched)
        with torch.no_grad(), evaluating(untouched), off:
            return answer_states(untouched, batch, numbers)

    return LiveReference(frozen, run, sorted(roles), blocks)
