"""A model run as the teacher: without gradients, adapters off, and what rows begin with alike is read once."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.data.batch import Batch, Row, collate
from harmonize.errors import ModelError
from harmonize.models.body import answer_hidden, evaluating
from harmonize.models.cache import FP16_LIMIT
from harmonize.models.generate import Progress
from harmonize.models.prefix import KEPT, SharedPrefix, alike
from harmonize.models.shares import ALONE, Shares

Context = Callable[[], contextlib.AbstractContextManager[Any]]
_Groups = list[tuple[int, list[int]]]


@dataclass(frozen=True, slots=True)
class TeacherRequest:
    """One response that the teacher is asked for.

    Attributes:
        example_id: Unique among the requests.
        role: Of the example.
        prompt: Ids the teacher reads, with the instruction if this role is instructed.
        target: Response ids with the end of turn, or None for the teacher's own greedy response.
    """

    example_id: str
    role: str
    prompt: tuple[int, ...]
    target: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Planned:
    """A forward pass: tokens that all rows begin with, numbers of the requests, and the rest of their rows."""

    shared: int
    which: list[int]
    rows: list[Row]
    batch: Batch


class FrozenTeacher:
    """A model run as the teacher: in eval mode, without gradients, in its context; counts forward passes.

    Of several processes that hold it together (`shares`), each computes some of the batches.

    Args:
        model: What is run.
        context: Makes a context around every forward pass.
        pad_id: Fills padded columns.
        batch_size: Rows of a forward pass.
        share: Read what prompts begin with alike once for all of them.
        shares: The processes.
        dtype: Of the states.
    """

    def __init__(
        self,
        model: nn.Module,
        context: Context,
        pad_id: int,
        batch_size: int,
        share: bool = True,
        shares: Shares = ALONE,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.model, self.context, self.pad_id, self.batch_size = model, context, pad_id, batch_size
        self.share, self.shares, self.dtype = share, shares, dtype
        self.forwards = 0
        self._prefix = SharedPrefix()
        self._limit = Fp16Limit()
        self._grouped: tuple[Sequence[TeacherRequest], _Groups] | None = None

    @contextlib.contextmanager
    def running(self) -> Any:
        """Inside, the model is the teacher."""

        def counting(*_: object) -> None:
            self.forwards += 1

        handle = self.model.register_forward_hook(counting)
        try:
            with torch.no_grad(), evaluating(self.model), self.context():
                yield
        finally:
            handle.remove()

    def hidden(self, requests: Sequence[TeacherRequest], which: Sequence[int] | None = None) -> list[Tensor]:
        """Hidden states at the response positions of each request, or of those whose numbers are given, [m, H] each.

        What they begin with alike is looked for once, as long as `requests` is the same list. On a GPU nothing here
        waits for it: states that fp16 cannot hold are refused by `check`.
        """
        found: dict[int, Tensor] = {}
        for numbers, states in self._computed(requests, which):
            found.update(zip(numbers, states, strict=True))
        return [found[i] for i in (range(len(requests)) if which is None else which)]

    def batches(self, requests: Sequence[TeacherRequest], done: Progress | None = None) -> Any:
        """Yields (numbers of the requests, their hidden states) batch by batch, longest first.

        On a GPU a batch is handed out when the next one is queued, so that what is done with it finds the device busy.

        Raises:
            ModelError: Hidden states that fp16 cannot hold; on a GPU after the last batch.
        """
        done_rows = 0
        for which, states in self._computed(requests):
            yield which, states
            done_rows += len(which) * self.shares.size  # the others are about as far
            if done is not None:
                done(min(done_rows, len(requests)), len(requests))
        self.check()

    def check(self) -> None:
        """Refuses what fp16 could not hold of what was computed since this was called last.

        Raises:
            ModelError: There were such states.
        """
        self._limit.check()

    def _computed(
        self, requests: Sequence[TeacherRequest], which: Sequence[int] | None = None
    ) -> Iterator[tuple[list[int], Sequence[Tensor]]]:
        device = next(self.model.parameters()).device
        waiting: deque[tuple[list[int], Sequence[Tensor]]] = deque()
        for planned in self._plan(requests, which):
            with self.running():
                past = self._prefix.keys_of(self.model, requests[planned.which[0]].prompt[: planned.shared])
                states = answer_hidden(self.model, planned.batch.to(device), past=past)
            self._limit.note(states)
            lengths = [len(r.target) for r in planned.rows]
            waiting.append((planned.which, states.to(self.dtype).split(lengths)))
            if len(waiting) > (device.type == "cuda"):
                yield waiting.popleft()
        yield from waiting

    def _plan(
        self, requests: Sequence[TeacherRequest], only: Sequence[int] | None = None
    ) -> Iterator[_Planned]:
        number = count()
        groups = self._groups(requests)
        if only is not None:
            wanted = set(only)
            groups = [(shared, [i for i in members if i in wanted]) for shared, members in _largest(groups)]
        for shared, members in groups:
            order = sorted(
                members, key=lambda i: (-len(requests[i].prompt) - len(requests[i].target or ()), i)
            )
            for start in range(0, len(order), self.batch_size):
                if not self.shares.takes(next(number)):
                    continue
                which = order[start : start + self.batch_size]
                asked = [requests[i] for i in which]
                rows = [Row(r.example_id, r.role, "", r.prompt[shared:], r.target or ()) for r in asked]
                # sorted, so the batch keeps this order
                yield _Planned(shared, which, rows, collate(rows, self.pad_id))

    def _groups(self, requests: Sequence[TeacherRequest]) -> _Groups:
        """(tokens that are read once, numbers of the requests); all together where the model cannot share."""
        if self._grouped is None or self._grouped[0] is not requests:
            together: _Groups = [(0, list(range(len(requests))))]
            groups = alike([r.prompt for r in requests]) if self.share else together
            shared, members = groups[0] if groups else (0, [])
            if shared:
                with self.running():
                    if self._prefix.keys_of(self.model, requests[members[0]].prompt[:shared]) is None:
                        groups = together
            self._grouped = requests, groups
        return self._grouped[1]


class Fp16Limit:
    """Notes how large states are, and refuses those that fp16 cannot hold when the device is waited for anyway."""

    def __init__(self) -> None:
        self._peak: Tensor | None = None

    def note(self, hidden: Tensor) -> None:
        """Notes some states. On a CPU, which has no queue, they are refused at once.

        Raises:
            ModelError: States that fp16 cannot hold.
        """
        if hidden.numel():
            peak = hidden.detach().abs().amax()
            self._peak = peak if self._peak is None else torch.maximum(self._peak, peak)
        if not hidden.is_cuda:
            self.check()

    def check(self) -> None:
        """Refuses what was noted since it was asked last.

        Raises:
            ModelError: States that fp16 cannot hold.
        """
        peak, self._peak = 0.0 if self._peak is None else float(self._peak), None
        if not peak < FP16_LIMIT:
            raise ModelError(
                f"The frozen model's hidden states reach {peak:.3g}, which fp16 cannot hold. Its weights may be "
                "damaged, or it computes in too small a dtype: try model.dtype=float32."
            )


def to_fp16(hidden: Tensor) -> Tensor:
    """Hidden states as the caches keep them.

    Raises:
        ModelError: Values that fp16 cannot hold.
    """
    limit = Fp16Limit()
    limit.note(hidden)
    limit.check()
    return hidden.to(torch.float16)


def _largest(groups: _Groups) -> _Groups:
    """The groups that share most, as many as have their keys kept between calls; the rows of the others as one."""
    ranked = sorted((g for g in groups if g[0]), key=lambda g: -g[0] * len(g[1]))
    alone = [i for _, members in ranked[KEPT:] for i in members]
    alone += [i for shared, members in groups if not shared for i in members]
    return [*ranked[:KEPT], (0, sorted(alone))]
