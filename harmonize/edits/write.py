"""Writing an edit into a model, tensor by tensor, with a report of what changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harmonize.edits.inputs import State, block_of
from harmonize.errors import ModelError, TrainingError

_SHOWN = 12  # rows of the printed table


@dataclass
class Change:
    """What became of some entries.

    Attributes:
        entries: How many there are.
        changed: How many have another value now.
        moved, length: Sums of squares of the change, and of the entries before it.
    """

    entries: int = 0
    changed: int = 0
    moved: float = 0.0
    length: float = 0.0

    @property
    def share(self) -> float:
        """Share of the entries that changed."""
        return self.changed / self.entries if self.entries else 0.0

    @property
    def relative(self) -> float:
        """Norm of the change over the norm of the entries before it."""
        return math.sqrt(self.moved / self.length) if self.length else float(self.moved > 0)

    def add(self, other: Change) -> None:
        """Takes in other entries."""
        self.entries += other.entries
        self.changed += other.changed
        self.moved += other.moved
        self.length += other.length

    def to_dict(self) -> dict[str, Any]:
        """For `results.json`."""
        return {
            "entries": self.entries,
            "changed": self.changed,
            "share": self.share,
            "relative_change": self.relative,
        }


@dataclass
class Report:
    """What an edit changed.

    Attributes:
        name: Of the edit.
        total: Over all floating-point parameters.
        tensors: By name, those that changed.
        blocks: By transformer block, and `outside` for what lies in none; all of them.
    """

    name: str
    total: Change = field(default_factory=Change)
    tensors: dict[str, Change] = field(default_factory=dict)
    blocks: dict[str, Change] = field(default_factory=dict)

    def add(self, name: str, change: Change) -> None:
        """Takes in a tensor."""
        if change.changed:
            self.tensors[name] = change
        self.total.add(change)
        self.blocks.setdefault(block_of(name) or "outside", Change()).add(change)

    def to_dict(self) -> dict[str, Any]:
        """For `results.json`."""
        return {
            "name": self.name,
            "total": self.total.to_dict(),
            "blocks": {n: c.to_dict() for n, c in self.blocks.items()},
            "tensors": {n: c.to_dict() for n, c in self.tensors.items()},
        }

    def lines(self) -> list[str]:
        """A short table: the blocks that changed, at most a dozen, and the whole."""
        ranked = sorted(
            (n for n, c in self.blocks.items() if c.changed), key=lambda n: -self.blocks[n].relative
        )
        shown = set(ranked[:_SHOWN])
        rows = [(n, c) for n, c in self.blocks.items() if n in shown] + [("all weights", self.total)]
        width = max(len(n) for n, _ in rows)
        lines = [f"Edit {self.name}: {len(self.tensors)} tensors changed."]
        lines += [f"  {'':{width}}  entries changed  relative change"] if self.tensors else []
        if self.tensors:
            lines += [f"  {n:{width}}  {c.share:15.2%}  {c.relative:15.2%}" for n, c in rows]
        if len(ranked) > _SHOWN:
            lines.append(f"  ({len(ranked) - _SHOWN} more blocks changed less)")
        return lines


@torch.no_grad()
def write(weights: State, changes: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], name: str) -> Report:
    """Copies changed tensors into the live ones as they come; tied tensors stay tied, untouched ones untouched.

    Args:
        weights: The live tensors of a model by name, tied ones once.
        changes: New tensors by name.
        name: Of the edit, for the report.

    Returns:
        What changed.

    Raises:
        ModelError: A tensor that the model does not have, or of another shape.
        TrainingError: Values that are not finite; tensors before that one are changed already.
    """
    report = Report(name)
    seen = set()
    for key, new in changes.items() if isinstance(changes, Mapping) else changes:
        old = weights.get(key)
        if old is None or old.shape != new.shape:
            what = "no such tensor" if old is None else f"one of shape {list(old.shape)}"
            raise ModelError(
                f"The edit {name} gives '{key}' of shape {list(new.shape)}, and the model has {what}."
            )
        fresh = new.to(device=old.device, dtype=old.dtype)
        if not bool(fresh.isfinite().all()):
            raise TrainingError(
                f"The edit {name} makes entries of '{key}' that are not finite, so no model was written. Use weaker "
                "settings (harmonize show edit)."
            )
        moved = _square_sum(fresh.float() - old.float())
        report.add(key, Change(old.numel(), int((fresh != old).sum()), moved, _square_sum(old)))
        old.copy_(fresh)
        seen.add(key)
    for key, old in weights.items():
        if key not in seen and old.is_floating_point():
            report.add(key, Change(old.numel(), 0, 0.0, _square_sum(old)))
    report.blocks = {n: report.blocks[n] for n in sorted(report.blocks, key=_natural)}
    return report


def _square_sum(values: Tensor) -> float:
    return float(values.float().square().sum(dtype=torch.float64))


def _natural(name: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    """Blocks by number, what lies outside of them last."""
    parts = [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in name.split(".")]
    return name == "outside", parts
