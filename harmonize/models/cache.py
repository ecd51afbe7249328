"""What training sees of the teacher: its logits at any id of any response position, from disk or from live forwards.

A positions, K ids, N response positions in all, H hidden size, K' kept ids. `cache_index` [A] names response
positions (`TeacherCache.start(example_id) + offset`); -1 stands for positions without a teacher, whose values are
arbitrary but finite, for the caller to leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from harmonize.data.transfer import sent
from harmonize.errors import ConfigError
from harmonize.models.head import Head
from harmonize.models.products import canonical_topk

FP16_LIMIT = 6e4
_WIDE = 4096  # id comparisons per position beyond which sorting is cheaper


class TeacherCache:
    """The teacher's responses and logits; base of the three modes.

    Attributes:
        head: Frozen head of the teacher.
        exact: Whether the logit of every id is known (not only bounded).
        path: Folder on disk, or None.
        positions: Response positions in all.
        note: What a reader of the results should know of how it is kept, or nothing.
    """

    exact = True
    note = ""

    def __init__(
        self, head: Head, targets: Mapping[str, tuple[int, ...]], path: Path | None = None, forwards: int = 0
    ) -> None:
        self.head = head
        self.path = path
        self._forwards = forwards
        self._targets = dict(targets)
        self._starts: dict[str, int] = {}
        total = 0
        for example_id, target in self._targets.items():
            self._starts[example_id] = total
            total += len(target)
        self.positions = total

    def noted(self, note: str) -> Self:
        """Itself, with a note for the results."""
        self.note = note
        return self

    def __contains__(self, example_id: object) -> bool:
        return example_id in self._targets

    def target(self, example_id: str) -> tuple[int, ...]:
        """Response ids of an example, with the end of turn."""
        return self._targets[example_id]

    def start(self, example_id: str) -> int:
        """Row of the first response position of an example."""
        return self._starts[example_id]

    @property
    def paths(self) -> list[Path]:
        """Folders on disk."""
        return [] if self.path is None else [self.path]

    @property
    def forwards(self) -> int:
        """Forward passes of the teacher that this process made."""
        return self._forwards

    @property
    def missing_share(self) -> float:
        """Share of asked-for ids that were bounded rather than known; 0 for exact caches."""
        return 0.0

    def missing_since(self) -> float:
        """The same, of the ids that were asked for since this was called last."""
        return 0.0

    def prepare(self, cache_index: Tensor, here: Tensor | None = None) -> None:
        """Announces the rows of the next step; a live teacher computes them now, others do nothing.

        Args:
            cache_index: [A] as the objectives will name it.
            here: The same on the host, where it is at hand: to fetch it waits for the device.
        """

    def check(self) -> None:
        """Says what is wrong with the teacher itself, where something is; asked when a step went wrong.

        Raises:
            ModelError: States of a live teacher that fp16 cannot hold.
        """

    @torch.no_grad()
    def top(self, cache_index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The teacher's top k as (ids [A, k], values [A, k]), by value descending, then id."""
        return self.head.canonical_top(self.hidden(cache_index), k)

    @torch.no_grad()
    def at(self, cache_index: Tensor, ids: Tensor) -> Tensor:
        """The teacher's logits at `ids`. [A], [A, K] -> [A, K] fp32."""
        return self.head.at(self.hidden(cache_index), ids)

    @torch.no_grad()
    def logits(self, cache_index: Tensor) -> Tensor:
        """All logits of the teacher. [A] -> [A, V] fp32."""
        return self.head.logits(self.hidden(cache_index))

    def hidden(self, cache_index: Tensor) -> Tensor:
        """Final hidden states. [A] -> [A, H] fp16."""
        raise NotImplementedError


class HiddenCache(TeacherCache):
    """Final hidden states in fp16 with a top-K' list: exact for every id, for ever."""

    def __init__(
        self,
        head: Head,
        targets: Mapping[str, tuple[int, ...]],
        hidden: Tensor,
        top_ids: Tensor,
        top_values: Tensor,
        path: Path | None = None,
        forwards: int = 0,
    ) -> None:
        super().__init__(head, targets, path, forwards)
        self._hidden, self._ids, self._values = hidden, top_ids, top_values

    def hidden(self, cache_index: Tensor) -> Tensor:
        """Final hidden states. [A] -> [A, H] fp16."""
        return rows(self._hidden, cache_index)

    @torch.no_grad()
    def top(self, cache_index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The teacher's top k as (ids [A, k], values [A, k]), by value descending, then id."""
        if k > self._ids.shape[1]:
            return super().top(cache_index, k)
        return rows(self._ids, cache_index)[:, :k].long(), rows(self._values, cache_index)[:, :k]


class TopKCache(TeacherCache):
    """Top-K' lists alone; an id outside the list gets the last kept value.

    Its true logit cannot exceed that, so a push is weaker than it should be, never stronger. `missing_share`
    says how often this happened.
    """

    exact = False

    def __init__(
        self,
        head: Head,
        targets: Mapping[str, tuple[int, ...]],
        top_ids: Tensor,
        top_values: Tensor,
        path: Path | None = None,
        forwards: int = 0,
    ) -> None:
        super().__init__(head, targets, path, forwards)
        self._ids, self._values = top_ids, top_values
        self._counts = torch.zeros(2, dtype=torch.float64, device=top_values.device)  # asked, missing
        self._told = torch.zeros(2, dtype=torch.float64)

    @property
    def missing_share(self) -> float:
        """Share of asked-for ids that were bounded rather than known."""
        return _share(self._counts.cpu())

    def missing_since(self) -> float:
        """The same, of the ids that were asked for since this was called last."""
        counts = self._counts.cpu().clone()
        found = _share(counts - self._told)
        self._told = counts
        return found

    @torch.no_grad()
    def top(self, cache_index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The teacher's top k as (ids [A, k], values [A, k]), by value descending, then id."""
        kept = int(self._ids.shape[1])
        if k > kept:
            raise ConfigError(
                f"An objective reads the teacher's top {k}, and the cache keeps {kept}. Set teacher.cache_top_k={k} "
                "or more, or teacher.cache=hidden."
            )
        return rows(self._ids, cache_index)[:, :k].long(), rows(self._values, cache_index)[:, :k]

    @torch.no_grad()
    def at(self, cache_index: Tensor, ids: Tensor) -> Tensor:
        """The teacher's logits at `ids`, bounded by the last kept value. [A], [A, K] -> [A, K] fp32."""
        kept, values = rows(self._ids, cache_index).long(), rows(self._values, cache_index)
        if ids.shape[1] * kept.shape[1] <= _WIDE:
            same = ids.unsqueeze(2) == kept.unsqueeze(1)
            found, place = same.any(2), same.int().argmax(2)
        else:
            ordered, order = kept.sort(dim=1)
            near = torch.searchsorted(ordered, ids).clamp_max(ordered.shape[1] - 1)
            found, place = ordered.gather(1, near) == ids, order.gather(1, near)
        counted = (cache_index >= 0).unsqueeze(1)  # at other positions nothing is read
        asked, missing = counted.sum() * ids.shape[1], (~found & counted).sum()
        self._counts += torch.stack([asked, missing]).to(self._counts)
        return torch.where(found, values.gather(1, place), values[:, -1:])

    def logits(self, cache_index: Tensor) -> Tensor:
        """Not known in this mode."""
        raise ConfigError(
            "An objective reads all logits of the teacher; teacher.cache=topk keeps a few. Use hidden."
        )

    def hidden(self, cache_index: Tensor) -> Tensor:
        """Not known in this mode."""
        raise ConfigError("An objective reads the teacher's hidden states; set teacher.cache=hidden.")


class LiveTeacher(TeacherCache):
    """No cache: the responses touched by a step are run through the teacher again.

    Hidden states are rounded to fp16 as the cache rounds them, so that losses agree.

    Args:
        run: Computes the fp16 hidden states of given examples' responses (their numbers in order), one [m, H] each.
        count: Says how many forward passes there were.
        check: Refuses states that fp16 could not hold; on a GPU nobody else does.
    """

    def __init__(
        self,
        head: Head,
        targets: Mapping[str, tuple[int, ...]],
        run: Callable[[Sequence[int]], list[Tensor]],
        count: Callable[[], int],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(head, targets)
        self._run, self._count, self._check = run, count, check
        self._bounds = torch.tensor([*self._starts.values(), self.positions], dtype=torch.long)
        self._there = self._bounds  # on the head's device
        self.forget()

    def forget(self) -> None:
        """Forgets what it said last, so that it is asked again."""
        self._kept: set[int] = set()
        self._states = self._shift = torch.empty(0)
        self._prepared: Tensor | None = None

    @property
    def forwards(self) -> int:
        """Forward passes of the teacher that this process made."""
        return self._count()

    def check(self) -> None:
        """Refuses states that fp16 could not hold."""
        self._check()

    def prepare(self, cache_index: Tensor, here: Tensor | None = None) -> None:
        """Computes the hidden states of every response that these rows belong to."""
        if cache_index is self._prepared:  # to look at it again would wait for the device
            return
        index = cache_index.cpu() if here is None else here
        wanted = set(_owners(index[index >= 0], self._bounds).unique().tolist())
        if not wanted <= self._kept:
            order = sorted(wanted)
            found = self._run(order)
            begins = torch.tensor([0, *(len(states) for states in found)]).cumsum(0)[:-1]
            shift = torch.zeros(len(self._bounds), dtype=torch.long)
            shift[order] = begins - self._bounds[order]
            self._kept, self._states = set(order), torch.cat(found)
            self._shift = sent(shift, self.head.weight.device)
        self._prepared = cache_index

    def hidden(self, cache_index: Tensor) -> Tensor:
        """Final hidden states. [A] -> [A, H] fp16."""
        self.prepare(cache_index)
        weight = self.head.weight
        if not self._kept:
            return weight.new_zeros((len(cache_index), weight.shape[1]), dtype=torch.float16)
        index = cache_index.to(weight.device)
        self._there = self._there.to(weight.device)
        place = index + self._shift[_owners(index.clamp_min(0), self._there)]
        found = self._states.index_select(0, torch.where(index < 0, 0, place))
        return found.masked_fill((index < 0).unsqueeze(1), 0)


def _owners(index: Tensor, bounds: Tensor) -> Tensor:
    """Numbers of the responses that positions belong to."""
    return torch.searchsorted(bounds, index, right=True) - 1


class EnsembleCache(TeacherCache):
    """Several teachers that scored the same responses, as one: the mean of their logits.

    No forward pass more than one teacher needs in training, but one vocabulary product for each of them.

    Args:
        members: Caches with the same targets; each must know every logit.
    """

    def __init__(self, members: Sequence[TeacherCache]) -> None:
        first = members[0]
        super().__init__(first.head, first._targets)
        self.members = list(members)
        self.note = " ".join(dict.fromkeys(member.note for member in members if member.note))

    @property
    def paths(self) -> list[Path]:
        """Folders on disk."""
        return [path for member in self.members for path in member.paths]

    @property
    def forwards(self) -> int:
        """Forward passes of all teachers that this process made."""
        return sum(member.forwards for member in self.members)

    def check(self) -> None:
        """Asks every teacher."""
        for member in self.members:
            member.check()

    def prepare(self, cache_index: Tensor, here: Tensor | None = None) -> None:
        """Announces the rows of the next step to every teacher."""
        for member in self.members:
            member.prepare(cache_index, here)

    @torch.no_grad()
    def top(self, cache_index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Top k of the mean logits as (ids [A, k], values [A, k]), by value descending, then id."""
        found = [
            canonical_topk(self._valid(self.logits(part)), k) for part in cache_index.split(self.head.chunk)
        ]
        return torch.cat([ids for ids, _ in found]), torch.cat([values for _, values in found])

    @torch.no_grad()
    def at(self, cache_index: Tensor, ids: Tensor) -> Tensor:
        """The mean logits at `ids`. [A], [A, K] -> [A, K] fp32."""
        return torch.stack([member.at(cache_index, ids) for member in self.members]).mean(0)

    @torch.no_grad()
    def logits(self, cache_index: Tensor) -> Tensor:
        """Mean logits. [A] -> [A, V] fp32."""
        return torch.stack([member.logits(cache_index) for member in self.members]).mean(0)

    def hidden(self, cache_index: Tensor) -> Tensor:
        """Several teachers have no common hidden state."""
        raise ConfigError("An objective reads the teacher's hidden states; set teacher=instructed.")

    def _valid(self, logits: Tensor) -> Tensor:
        logits[:, self.head.n_vocab :] = float("-inf")
        return logits


def rows(stored: Tensor, cache_index: Tensor) -> Tensor:
    """Rows of a stored array on the device of the index; -1 takes row 0."""
    picked = stored.index_select(0, cache_index.clamp_min(0).to(stored.device))
    return picked.to(cache_index.device)


def _share(counts: Tensor) -> float:
    asked, missing = counts.tolist()
    return missing / asked if asked else 0.0
