"""Further samplers, each a pure function of (seed, step): random pairs, cycles, modules by subject, ratios, and general
samples in between. `harmonize.data.sampling` has the balanced one.

A sampler may have a static `problems(cfg) -> list[str]`: sentences on what it cannot work with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from harmonize.config.instantiate import to_plain
from harmonize.config.rules import at_least, known_roles, present
from harmonize.data.corpus import content_hash
from harmonize.data.example import Example
from harmonize.data.sampling import BalancedSampler, Draw, nth, permutation, pools, shared_rows
from harmonize.errors import ConfigError, DataError, did_you_mean

Examples = Mapping[str, Sequence[Example]]
FORGET = "forget"


class _Paired:
    """Every forget row comes with one row of each other role."""

    def __init__(
        self, examples: Examples, seed: int, rank: int = 0, world_size: int = 1, *, rows: Mapping[str, int]
    ) -> None:
        self.rows = shared_rows(rows, world_size)
        if problems := _unequal(self.rows):
            raise ConfigError(problems)
        self.pools = pools(examples, self.rows)
        self.n = self.rows[FORGET]
        self.seed, self.rank, self.world_size = seed, rank, world_size

    def draw(self, step: int) -> list[Draw]:
        """Pairs of one step, those of this rank."""
        numbers = range(step * self.n + self.rank, (step + 1) * self.n, self.world_size)
        return [draw for i in numbers for draw in self.pair(i)]

    def pair(self, i: int) -> list[Draw]:
        """The i-th forget row of the run with its partners."""
        raise NotImplementedError

    @classmethod
    def problems(cls, cfg: Any) -> list[str]:
        """Rows that make no pairs."""
        return _unequal(_used(cfg))


class RandomOneToOne(_Paired):
    """Forget rows without replacement, each with a row of every other role drawn uniformly, with replacement.

    Needs: equal rows of all roles

    Args:
        examples: Training examples by role.
        seed: Decides every draw, together with its number.
        rank, world_size: This process's share.
        rows: Rows of a step by role; all equal. A pass ends with the forget examples.

    Source: the data set of TOFU's code and MELU's `DualDatasetRandom` (arXiv 2509.05316, code).
    """

    def pair(self, i: int) -> list[Draw]:
        """A forget row and its random partners."""
        first = nth(self.pools[FORGET], i, self.seed, FORGET)
        found = [first]
        for role, pool in self.pools.items():
            if role != FORGET:
                number = int(content_hash(len(pool), self.seed, role, "uniform", i)[:16], 16)
                found.append(Draw(pool[number % len(pool)], first.epoch))
        return found


class Cyclic(_Paired):
    """Pairs by place: a pass is as long as the longest role, and shorter roles start over within it.

    Needs: equal rows of all roles

    Args:
        examples, seed, rank, world_size, rows: As in `RandomOneToOne`.
        shuffle: Visit the places in another order in every pass; which rows make a pair stays the same.

    Source: MELU's `DualDataset` (arXiv 2509.05316, code): indices modulo the length of each set.
    """

    def __init__(
        self,
        examples: Examples,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        rows: Mapping[str, int],
        shuffle: bool = True,
    ) -> None:
        super().__init__(examples, seed, rank, world_size, rows=rows)
        self.length = max(len(pool) for pool in self.pools.values())
        self.shuffle = shuffle

    def pair(self, i: int) -> list[Draw]:
        """The rows at one place."""
        epoch, place = divmod(i, self.length)
        if self.shuffle:
            place = permutation(self.length, self.seed, "cyclic", epoch)[place]
        return [Draw(pool[place % len(pool)], epoch) for pool in self.pools.values()]


class Modular:
    """Module by module: forget rows together with rows about the same subject; other roles as in `BalancedSampler`.

    A module is a forget subject. An example of a paired role belongs to the module of its own subject, or else of the
    forget example that it is an anchor of; what belongs to none is dealt out evenly (our choice), so that nothing is
    left out. A pass visits the modules one after another, in another order each time; within a module the shorter
    role starts over.

    Needs: subjects that roles share, or `anchor_of`; equal rows of the paired roles

    Args:
        examples, seed, rank, world_size: As in `RandomOneToOne`.
        rows: Rows of a step by role; those of paired roles equal those of forget.
        paired: Roles that are paired by subject.

    Raises:
        DataError: No example of a paired role shares a subject with a forget example.

    Source: MELU (arXiv 2509.05316, code), where the pairs are given by the data.
    """

    def __init__(
        self,
        examples: Examples,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        rows: Mapping[str, int],
        paired: Sequence[str] = ("neighbor",),
    ) -> None:
        everything = shared_rows(rows, world_size)
        partners = [r for r in paired if r in everything]
        if problems := _modular_problems(everything, partners):
            raise ConfigError(problems)
        own = pools(examples, {r: everything[r] for r in (FORGET, *partners)})
        self.modules = _modules(own, partners)
        self.partners = partners
        self.length = sum(_longest(m) for m in self.modules)
        self.n, self.seed, self.rank, self.world_size = everything[FORGET], seed, rank, world_size
        others = {r: n for r, n in everything.items() if r not in own}
        self.others = BalancedSampler(examples, others, seed, rank, world_size)
        self._order = lru_cache(maxsize=2)(self._pass)

    def draw(self, step: int) -> list[Draw]:
        """Pairs of one step and rows of the other roles, those of this rank."""
        draws = []
        for i in range(step * self.n + self.rank, (step + 1) * self.n, self.world_size):
            epoch, place = divmod(i, self.length)
            draws += [Draw(e, epoch) for e in self._order(epoch)[place]]
        return draws + self.others.draw(step)

    def _pass(self, epoch: int) -> tuple[tuple[Example, ...], ...]:
        pairs: list[tuple[Example, ...]] = []
        for number in permutation(len(self.modules), self.seed, "modules", epoch):
            module = self.modules[number]
            shuffled = [
                [members[k] for k in permutation(len(members), self.seed, role, number, epoch)]
                for role, members in module.items()
                if members
            ]
            pairs += [tuple(m[k % len(m)] for m in shuffled) for k in range(_longest(module))]
        return tuple(pairs)

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Rows that make no pairs."""
        paired = present(cfg.sampler).get("paired", ["neighbor"])
        return known_roles("sampler.paired", paired) or _modular_problems(_used(cfg), paired)


class Ratio:
    """Roles in a fixed proportion, exactly so over the run, whatever the size of a step; each without replacement.

    Args:
        examples, seed, rank, world_size: As in `RandomOneToOne`.
        rows: The proportion, in whole numbers.
        size: Rows of a step.

    Source: the policy ratio(n_f : n_r), our design after MELU (arXiv 2509.05316).
    """

    def __init__(
        self,
        examples: Examples,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        rows: Mapping[str, int],
        size: int,
    ) -> None:
        self.parts = {role: n for role, n in rows.items() if n > 0}
        if size % world_size:
            raise ConfigError(
                f"sampler.size={size} cannot be shared evenly by {world_size} devices. "
                f"Use a multiple: sampler.size={-(-size // world_size) * world_size}."
            )
        self.pools = pools(examples, self.parts)
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self._before = spread(self.parts)

    def counts(self, rows: int) -> dict[str, int]:
        """How many of the first so many rows of the run are of each role."""
        whole, rest = divmod(rows, sum(self.parts.values()))
        return {role: whole * part + self._before[rest][role] for role, part in self.parts.items()}

    def draw(self, step: int) -> list[Draw]:
        """Draws of one step, those of this rank."""
        start, end = self.counts(step * self.size), self.counts((step + 1) * self.size)
        everything = [(role, i) for role in self.parts for i in range(start[role], end[role])]
        return [
            nth(self.pools[role], i, self.seed, role) for role, i in everything[self.rank :: self.world_size]
        ]

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Size of a step."""
        return at_least("sampler.size", present(cfg.sampler).get("size", 0), 1)


class Interleaved:
    """A balanced step with general samples in between.

    General samples are retain examples of certain sources: the role general is measured and never trained on. They are
    kept out of the other retain rows, and drawn without replacement in passes of their own.

    Needs: retain examples of the named sources

    Args:
        examples, seed, rank, world_size: As in `RandomOneToOne`.
        rows: Rows of a step by role, as in `BalancedSampler`.
        general: General samples of a step that has some.
        every: Steps from one such step to the next.
        sources: Sources of the general samples (`Example.source`).

    Raises:
        DataError: No retain example is of such a source, or none is of another while `rows.retain` asks for some.

    Source: GeRe (arXiv 2508.04676, code), with 1,000 texts of a public corpus.
    """

    def __init__(
        self,
        examples: Examples,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        rows: Mapping[str, int],
        sources: Sequence[str],
        general: int = 4,
        every: int = 1,
    ) -> None:
        retain = examples.get("retain", ())
        self.general = tuple(e for e in retain if e.source in sources)
        if not self.general:
            known = sorted({e.source for e in retain if e.source})
            wanted = sources[0] if sources else ""
            raise DataError(
                f"sampler=interleaved shows general samples in between, and no retain example comes from "
                f"{', '.join(sources)}. {did_you_mean(wanted, known)} Name their source: sampler.sources=[...]. "
                "The role general is measured and never trained on, so general samples are of role retain."
            )
        rest = {**examples, "retain": [e for e in retain if e.source not in sources]}
        self.others = BalancedSampler(rest, rows, seed, rank, world_size)
        if general % world_size:
            raise ConfigError(
                f"sampler.general={general} cannot be shared evenly by {world_size} devices. "
                f"Use a multiple: sampler.general={-(-general // world_size) * world_size}."
            )
        self.n, self.every = general, every
        self.seed, self.rank, self.world_size = seed, rank, world_size

    def draw(self, step: int) -> list[Draw]:
        """Draws of one step, those of this rank."""
        draws = self.others.draw(step)
        turn, rest = divmod(step, self.every)
        if rest == 0:
            numbers = range(turn * self.n + self.rank, (turn + 1) * self.n, self.world_size)
            draws += [nth(self.general, i, self.seed, "general samples") for i in numbers]
        return draws

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Counts, sources, and a method that trains on retain."""
        node = present(cfg.sampler)
        problems = at_least("sampler.general", node.get("general", 4), 1)
        problems += at_least("sampler.every", node.get("every", 1), 1)
        if not node.get("sources"):
            problems.append(
                "sampler.sources is empty: which retain examples are general samples? "
                "Name where they come from (their `source`). For example sampler.sources=[books]."
            )
        if "retain" not in to_plain(cfg.method.response):
            problems.append(
                "sampler=interleaved adds general samples of role retain, which the method does not train on. "
                "Use sampler=balanced, or a method that does: method=grad_diff."
            )
        return problems


def spread(parts: Mapping[str, int]) -> list[dict[str, int]]:
    """Counts of each role among the first 0, 1, ..., P rows of an evenly spread sequence of P = sum(parts) rows.

    Each next row is of the role that is furthest behind its share; ties go to the first.
    """
    total = sum(parts.values())
    counts = [dict.fromkeys(parts, 0)]
    for k in range(total):
        last = counts[-1]
        behind = {role: part * (k + 1) - last[role] * total for role, part in parts.items()}
        chosen = max(behind, key=behind.__getitem__)
        counts.append({**last, chosen: last[chosen] + 1})
    return counts


def _modules(own: Examples, partners: Sequence[str]) -> list[dict[str, list[Example]]]:
    """Module by forget subject: role to examples, in the data's order."""
    modules: dict[str, dict[str, list[Example]]] = {}
    subject_of: dict[str, str] = {}
    for example in own[FORGET]:
        modules.setdefault(example.subject, {r: [] for r in (FORGET, *partners)})[FORGET].append(example)
        subject_of[example.id] = example.subject
    names = list(modules)
    for role in partners:
        left = []
        for example in own[role]:
            anchor = subject_of.get(example.anchor_of or "")
            name = example.subject if example.subject in modules else anchor
            if name is None:
                left.append(example)
            else:
                modules[name][role].append(example)
        if len(left) == len(own[role]):
            raise DataError(
                f"sampler=modular pairs rows by subject, and none of the {len(left)} {role} examples shares its "
                "subject with a forget example or names one in `anchor_of`. Add subjects to the data, pair another "
                "role (sampler.paired=[...]), or use sampler=balanced."
            )
        for k, example in enumerate(left):
            modules[names[k % len(names)]][role].append(example)
    return list(modules.values())


def _longest(module: Mapping[str, Sequence[Example]]) -> int:
    return max(len(members) for members in module.values())


def _used(cfg: Any) -> dict[str, int]:
    """Rows of the roles that the method trains on."""
    response = to_plain(cfg.method.response)
    return {r: n for r, n in to_plain(cfg.sampler.rows).items() if r in response and n > 0}


def _unequal(rows: Mapping[str, int]) -> list[str]:
    if FORGET not in rows:
        return ["This sampler pairs every forget row with others. Give it some: sampler.rows.forget=16."]
    n = rows[FORGET]
    return [
        f"sampler.rows.{role}={m}: this sampler pairs every forget row with one {role} row. "
        f"Use sampler.rows.{role}={n}, or leave the role out: sampler.rows.{role}=0."
        for role, m in rows.items()
        if m != n
    ]


def _modular_problems(rows: Mapping[str, int], paired: Sequence[str]) -> list[str]:
    partners = [r for r in paired if r in rows and r != FORGET]
    if not partners:
        return [
            "sampler=modular pairs forget rows with rows of the same subject, and no role of sampler.paired has any. "
            "For example 'sampler.paired=[neighbor]' sampler.rows.neighbor=16, or sampler=balanced."
        ]
    return _unequal({r: n for r, n in rows.items() if r == FORGET or r in partners})
