"""Repair after unlearning: the modules that forgetting touched most learn some retain answers again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from harmonize.config.instantiate import to_plain
from harmonize.config.rules import at_least, checked, known_roles, one_of, positive, present
from harmonize.data.batch import Row
from harmonize.data.prefill import unit_hash
from harmonize.edits.inputs import State, floating, like
from harmonize.models.load import LoadedModel
from harmonize.unlearning.supervised import ROLE, learn

RANKS: tuple[str, ...] = ("change", "relative", "fisher")
F = TypeVar("F", bound=Callable[..., dict[str, Any]])
_ROLES: tuple[str, ...] = ("neighbor", "retain")


@dataclass(frozen=True)
class Patient:
    """What a repair works on.

    Attributes:
        cfg: Configuration of the run: optimizer, schedule and trainer are its own.
        loaded: The model as training and edit left it, without adapters.
        weights: Its live parameters by name.
        start: The same before training; empty where it is not read.
        fisher: Fisher diagonal of the start model over the rows of `repair.roles`; empty where it is not read.
        rows: Role to the rows of its training examples.
    """

    cfg: Any
    loaded: LoadedModel
    weights: Mapping[str, Tensor]
    start: State
    fisher: State
    rows: Callable[[str], Sequence[Row]]


def reading(reads: Callable[[Mapping[str, Any]], set[str]]) -> Callable[[F], F]:
    """Gives a repair its `reads(settings)`: which of `start` and `fisher` it needs under these settings."""

    def mark(repair: F) -> F:
        repair.reads = reads  # type: ignore[attr-defined]
        return repair

    return mark


def _problems(cfg: Any) -> list[str]:
    node = present(cfg.repair)
    problems = one_of("repair.rank", node.get("rank", "change"), RANKS)
    for key, default in (("modules", 4), ("steps", 50), ("batch_rows", 16), ("buffer_rows", 64)):
        problems += at_least(f"repair.{key}", node.get(key, default), 1)
    if node.get("lr") is not None:
        problems += positive("repair.lr", node["lr"])
    return problems + known_roles("repair.roles", node.get("roles", _ROLES))


def _reads(settings: Mapping[str, Any]) -> set[str]:
    return {"fisher" if settings.get("rank") == "fisher" else "start"}


@reading(_reads)
@checked(_problems)
def fpf(
    patient: Patient,
    *,
    modules: int = 4,
    rank: Literal["change", "relative", "fisher"] = "change",
    steps: int = 50,
    batch_rows: int = 16,
    buffer_rows: int = 64,
    roles: Sequence[str] = _ROLES,
    lr: float | None = None,
) -> dict[str, Any]:
    """Forgetting-prioritised fine-tuning: n modules learn a small buffer of retain answers, all others are frozen.

    Formula: -log p of retain answers, in the n modules with the highest score
    Costs: `steps` optimizer steps after training

    Args:
        patient: Model and data.
        modules: n, the modules with the highest score.
        rank: Score of a module: `change`, the mean absolute change of its entries since the start; `relative`, the norm
            of the change over that of the start; `fisher`, the mean Fisher diagonal of these roles' rows at the start.
        steps, batch_rows: Optimizer steps, and rows of each.
        buffer_rows: Size of the buffer, chosen by a hash of (seed, example).
        roles: Roles whose rows the buffer is drawn from.
        lr: Learning rate; None takes `optimizer.lr`.

    Returns:
        The modules, their scores, steps, and rows, for `results.json`.

    Source: arXiv 2304.04158 (abstract; the score is recalled), for continual learning of images. Its k-FPF, repairs
        during training, is not offered. The other scores, and the repair of an unlearned model, are ours.
    """
    cfg, loaded = patient.cfg, patient.loaded
    scores = module_scores(patient.weights, patient.start, rank, patient.fisher)
    chosen = sorted(scores, key=lambda name: (-scores[name], name))[:modules]
    pool = [row for role in roles for row in patient.rows(role)]
    pool.sort(key=lambda row: (unit_hash(cfg.seed, "repair", row.example_id), row.example_id))
    buffer = [replace(row, role=ROLE) for row in pool[:buffer_rows]]
    settings = copy.deepcopy(cfg.trainer)
    settings.max_steps = steps
    optimizer = to_plain(cfg.optimizer)
    parameters = dict(loaded.model.named_parameters())
    flags = {name: p.requires_grad for name, p in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(module_of(name) in chosen)
        learn(
            loaded,
            buffer,
            batch_rows=batch_rows,
            optimizer=optimizer if lr is None else {**optimizer, "lr": lr},
            scheduler=to_plain(cfg.scheduler),
            settings=settings,
            seed=cfg.seed,
            title="repair",
            allow=cfg.allow,
        )
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
            parameter.grad = None
    return {
        "name": "fpf",
        "rank": rank,
        "modules": {name: scores[name] for name in chosen},
        "of": len(scores),
        "entries": sum(parameters[n].numel() for n in parameters if module_of(n) in chosen),
        "steps": steps,
        "rows": len(buffer),
    }


def module_scores(weights: State, start: State, rank: str, fisher: State) -> dict[str, float]:
    """Score of every module that owns parameters (`model.layers.0.mlp.up_proj`), as `fpf` says.

    Args:
        weights, start: Parameters now and before training.
        rank: change, relative or fisher.
        fisher: Fisher diagonal by parameter, read for `fisher` alone.
    """
    above: dict[str, float] = {}
    below: dict[str, float] = {}
    for name, weight in floating(weights, fisher if rank == "fisher" else start):
        if rank == "fisher":
            score, size = float(fisher[name].sum()), float(weight.numel())
        else:
            before = like(start[name], weight)
            moved = weight.detach().float() - before
            if rank == "change":
                score, size = float(moved.abs().sum()), float(weight.numel())
            else:
                score, size = float(moved.square().sum()), float(before.square().sum())
        module = module_of(name)
        above[module] = above.get(module, 0.0) + score
        below[module] = below.get(module, 0.0) + size
    ratio = {module: above[module] / below[module] if below[module] else 0.0 for module in above}
    return {module: value**0.5 for module, value in ratio.items()} if rank == "relative" else ratio


def module_of(name: str) -> str:
    """The module that owns a parameter."""
    return name.rpartition(".")[0]
