"""Samplers: which examples make up one optimizer step, as a pure function of the step.

Nothing here keeps a position: a sampler asked for step 7 gives step 7, so resuming, workers and ranks need no state.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from harmonize.data.corpus import content_hash
from harmonize.data.example import Example
from harmonize.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Draw:
    """An example drawn for a step, and the pass over its role's data that it belongs to."""

    example: Example
    epoch: int


class Sampler(Protocol):
    """What the step loader needs: the draws of one optimizer step on this rank."""

    def draw(self, step: int) -> list[Draw]:
        """Draws of optimizer step `step` (0-based), those of this rank only."""
        ...


@lru_cache(maxsize=256)
def permutation(n: int, *key: object) -> tuple[int, ...]:
    """A permutation of range(n) that depends on nothing but `n` and `key`."""
    order = list(range(n))
    random.Random(int(content_hash(n, *key)[:16], 16)).shuffle(order)
    return tuple(order)


def nth(pool: Sequence[Example], i: int, *key: object) -> Draw:
    """The i-th draw (from 0) of passes over a pool, each without replacement and in an order of its own."""
    epoch, place = divmod(i, len(pool))
    return Draw(pool[permutation(len(pool), *key, epoch)[place]], epoch)


def pools(
    examples: Mapping[str, Sequence[Example]], rows: Mapping[str, int]
) -> dict[str, tuple[Example, ...]]:
    """Training examples of every role that has rows.

    Raises:
        DataError: A role with rows but without examples.
    """
    for role, n in rows.items():
        if not examples.get(role):
            raise DataError(
                f"The role '{role}' has no training examples, but sampler.rows.{role}={n}. "
                f"Give the data set some, or leave the role out: sampler.rows.{role}=0."
            )
    return {role: tuple(examples[role]) for role in rows}


def shared_rows(rows: Mapping[str, int], world_size: int) -> dict[str, int]:
    """Roles with rows, each a multiple of the number of ranks.

    Raises:
        ConfigError: Fewer rows of a role than ranks, or an uneven share.
    """
    found = {role: n for role, n in rows.items() if n > 0}
    for role, n in found.items():
        if n % world_size:
            raise ConfigError(
                f"sampler.rows.{role}={n} cannot be shared evenly by {world_size} devices. "
                f"Use a multiple: sampler.rows.{role}={-(-n // world_size) * world_size}."
            )
    return found


class BalancedSampler:
    """A fixed number of rows of each role per step, each role without replacement within its own epoch.

    Args:
        examples: Training examples by role.
        rows: Rows per optimizer step by role, over all ranks.
        seed: Decides every order, together with role and epoch.
        rank, world_size: This process's share: every `world_size`-th draw of each role.

    Raises:
        DataError: A role with rows but without examples.
        ConfigError: Fewer rows of a role than ranks (each rank must see every role).
    """

    def __init__(
        self,
        examples: Mapping[str, Sequence[Example]],
        rows: Mapping[str, int],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.rows = shared_rows(rows, world_size)
        self.examples = pools(examples, self.rows)
        self.seed, self.rank, self.world_size = seed, rank, world_size

    def draw(self, step: int) -> list[Draw]:
        """Draws of one step, role by role."""
        draws: list[Draw] = []
        for role, n in self.rows.items():
            for i in range(step * n + self.rank, (step + 1) * n, self.world_size):
                draws.append(nth(self.examples[role], i, self.seed, role))
        return draws


def balanced(
    examples: Mapping[str, Sequence[Example]],
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    *,
    rows: Mapping[str, int],
) -> BalancedSampler:
    """`sampler=balanced`: see `BalancedSampler`. `rows` is the configurable part."""
    return BalancedSampler(examples, rows, seed, rank, world_size)
