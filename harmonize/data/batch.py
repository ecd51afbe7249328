"""Rows and batches: how examples are shown to the student, and the padded tensors of one forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from harmonize.data.example import ROLES

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

    @property
    def n_rows(self) -> int:
        """Number of rows B."""
        return int(self.input_ids.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        moved: dict[str, Any] = {
            f.name: v.to(device, non_blocking=True) if isinstance(v := getattr(self, f.name), Tensor) else v
            for f in fields(self)
        }
        return Batch(**moved)


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
    input_ids = torch.full((n, width), pad_id, dtype=torch.long)
    attention = torch.zeros((n, width), dtype=torch.long)
    position_ids = torch.zeros((n, width), dtype=torch.long)
    positions: list[int] = []
    row_index: list[int] = []
    offsets: list[int] = []
    labels: list[int] = []
    cache: list[int] = []
    reference: list[int] = []
    for i, r in enumerate(ordered):
        ids = (*r.prompt, *r.prefill, *r.target)
        start = width - len(ids) if side == "left" else 0
        input_ids[i, start : start + len(ids)] = torch.tensor(ids)
        attention[i, start : start + len(ids)] = 1
        position_ids[i, start : start + len(ids)] = torch.arange(len(ids))
        first = i * width + start + len(r.prompt) + len(r.prefill) - 1
        m = len(r.target)
        positions.extend(range(first, first + m))
        row_index.extend([i] * m)
        offsets.extend(range(m))
        labels.extend(r.target)
        cache.extend(_run(r.cache_start, m))
        reference.extend(_run(r.reference_start, m))
    uneven = side == "right" and pad_to == 1
    lengths = torch.tensor([0, *(r.length for r in ordered)])
    return Batch(
        input_ids=input_ids,
        attention_mask=attention,
        position_ids=position_ids,
        positions=torch.tensor(positions, dtype=torch.long),
        row=torch.tensor(row_index, dtype=torch.long),
        offset=torch.tensor(offsets, dtype=torch.long),
        labels=torch.tensor(labels, dtype=torch.long),
        cache_index=torch.tensor(cache, dtype=torch.long),
        reference_index=torch.tensor(reference, dtype=torch.long),
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
        bounds=lengths.cumsum(0).to(torch.int32) if uneven else None,
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


def _run(start: int, length: int) -> Iterable[int]:
    return range(start, start + length) if start >= 0 else [-1] * length
