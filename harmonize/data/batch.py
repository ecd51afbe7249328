"""Rows and batches: how examples are shown to the student, and the padded tensors of one forward."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harmonize.data.example import ROLES
from harmonize.data.transfer import in_one_copy

VIEWS: tuple[str, ...] = ("plain", "opener", "prefix")
RESPONSES: tuple[str, ...] = ("reference", "teacher", "refusal", "alternate", "random")


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of a batch: prompt, optional prefill, and the response that carries the loss.

    Attributes:
        example_id, role, subject, request_id: Of the example shown.
        view: plain, opener or prefix.
        response: Where the target comes from: reference (the data's answer), teacher, refusal, alternate (another
            plausible answer of the data's) or random (tokens in place of question and answer).
        prompt, prefill, target: Token ids; the target ends with the end of turn.
        cache_start: Row of the teacher cache for `target[0]`, or -1 without a cache.
        reference_start: Row of the reference (the untouched model's outputs) for `target[0]`, or -1 without one.
        companions: Rows of the same example and view with other responses; they stay in one batch with this one.
        pair_id: Rows that belong together (such as chosen and rejected), or -1.
        weight: Multiplies the row's loss.
    """

    example_id: str
    role: str
    subject: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    prefill: tuple[int, ...] = ()
    view: str = "plain"
    response: str = "reference"
    request_id: str = "request-0"
    cache_start: int = -1
    pair_id: int = -1
    weight: float = 1.0
    reference_start: int = -1
    companions: tuple[Row, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the whole sequence."""
        return len(self.prompt) + len(self.prefill) + len(self.target)


@dataclass
class Batch:
    """Rows of all roles and views in one padded batch, with their answer positions as a flat list.

    B rows, T columns, A answer positions (ordered by row, then offset). A position predicts the
    label one column further on, so no objective ever shifts anything.

    Attributes:
        input_ids, attention_mask, position_ids: [B, T].
        positions: [A] indices into the flattened [B * T] grid whose output predicts `labels`.
        row, offset, labels: [A] row in the batch, position within the target, and target id.
        cache_index: [A] rows of the teacher cache, -1 without one; reference_index: [A] of the reference.
        role_id: [B] index into `ROLES`; view_id: [B] index into `VIEWS`; response_id: [B] into `RESPONSES`.
        weight: [B]; pair_id: [B].
        example_id, subject_id, request_id: B strings.
        right_padded: Whether every row starts in column 0: then a causal model needs no mask, and no position numbers.
        columns: [N] places of the real tokens in the flattened grid; bounds: [B + 1] where each row begins among them;
            longest: tokens of the longest row. For attention without padding; None where the width is prescribed.
        extra: Columns that the core does not know, passed through.
        here: Itself before it was sent to a device, where it can be read without waiting; None if it was not.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    positions: Tensor
    row: Tensor
    offset: Tensor
    labels: Tensor
    cache_index: Tensor
    reference_index: Tensor
    role_id: Tensor
    view_id: Tensor
    response_id: Tensor
    weight: Tensor
    pair_id: Tensor
    example_id: list[str]
    subject_id: list[str]
    request_id: list[str]
    right_padded: bool = False
    columns: Tensor | None = None
    bounds: Tensor | None = None
    longest: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    here: Batch | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows B."""
        return int(self.input_ids.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`; to a GPU in one copy that nobody waits for."""
        tensors = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        if torch.device(device).type == "cuda" and not self.input_ids.is_cuda:
            moved = in_one_copy(tensors, torch.device(device))
        else:
            moved = {name: v.to(device, non_blocking=True) for name, v in tensors.items()}
        changed: dict[str, Any] = {**moved, "here": self.here or self}
        return replace(self, **changed)


def collate(rows: Sequence[Row], pad_id: int, side: str = "right", pad_to: int = 1) -> Batch:
    """Pads rows into a `Batch`; masks and positions come from lengths, never from the padding id.

    Args:
        rows: At least one row; sorted here by length (ties by order), longest first.
        pad_id: Any id; padded columns reach no loss and no other row.
        side: `right` or `left`; both give the same outputs at answer positions.
        pad_to: Round the width up to a multiple of this.

    Raises:
        ValueError: No rows, or a row with an empty prompt (its first target has no predecessor).
    """
    if not rows:
        raise ValueError("collate needs at least one row")
    if any(not r.prompt for r in rows):
        raise ValueError("a row has an empty prompt; its first target token has nothing to be predicted from")
    ordered = sorted(rows, key=lambda r: -r.length)
    width = -(-ordered[0].length // pad_to) * pad_to
    n = len(ordered)
    lengths = np.array([r.length for r in ordered])
    answers = np.array([len(r.target) for r in ordered])
    starts = width - lengths if side == "left" else np.zeros_like(lengths)
    input_ids = np.full((n, width), pad_id, dtype=np.int64)
    for i, r in enumerate(ordered):
        ids = array("q", (*r.prompt, *r.prefill, *r.target))
        input_ids[i, starts[i] : starts[i] + len(ids)] = ids
    inside = np.arange(width) - starts[:, None]
    real = (inside >= 0) & (inside < lengths[:, None])
    row = np.repeat(np.arange(n), answers)
    offset = np.arange(len(row)) - np.repeat(answers.cumsum() - answers, answers)
    first = np.arange(n) * width + starts + lengths - answers - 1

    def run(begins: Iterable[int]) -> Tensor:
        begin = np.array(list(begins))[row]
        return torch.from_numpy(np.where(begin >= 0, begin + offset, -1))

    uneven = side == "right" and pad_to == 1
    attention = torch.from_numpy(real.astype(np.int64))
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=attention,
        position_ids=torch.from_numpy(np.where(real, inside, 0)),
        positions=torch.from_numpy(first[row] + offset),
        row=torch.from_numpy(row),
        offset=torch.from_numpy(offset),
        labels=torch.from_numpy(input_ids.reshape(-1)[first[row] + offset + 1]),
        cache_index=run(r.cache_start for r in ordered),
        reference_index=run(r.reference_start for r in ordered),
        role_id=torch.tensor([ROLES.index(r.role) for r in ordered]),  # type: ignore[arg-type]
        view_id=torch.tensor([VIEWS.index(r.view) for r in ordered]),
        response_id=torch.tensor([RESPONSES.index(r.response) for r in ordered]),
        weight=torch.tensor([r.weight for r in ordered], dtype=torch.float32),
        pair_id=torch.tensor([r.pair_id for r in ordered]),
        example_id=[r.example_id for r in ordered],
        subject_id=[r.subject for r in ordered],
        request_id=[r.request_id for r in ordered],
        right_padded=side == "right",
        columns=attention.flatten().nonzero().squeeze(1) if uneven else None,
        bounds=torch.from_numpy(np.concatenate([[0], lengths]).cumsum().astype(np.int32)) if uneven else None,
        longest=ordered[0].length,
    )


def flatten(groups: Iterable[Row]) -> list[Row]:
    """Rows and their companions as one list; those of one group share a `pair_id`, counted from 0.

    A row without companions stays as it is.
    """
    rows: list[Row] = []
    for number, row in enumerate(groups):
        if not row.companions:
            rows.append(row)
            continue
        rows += [replace(r, pair_id=number, companions=()) for r in (row, *row.companions)]
    return rows
