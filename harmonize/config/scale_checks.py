"""What several devices ask of a configuration: told before a process is started."""

from __future__ import annotations

from typing import Any

from harmonize.config.instantiate import resolve
from harmonize.config.rules import at_least, one_of, present
from harmonize.errors import ConfigError

STRATEGIES: tuple[str, ...] = ("auto", "ddp")


def check(cfg: Any, command: str) -> list[str]:
    """Problems of `trainer.devices`, `num_nodes` and `strategy`."""
    t = cfg.trainer
    problems = at_least("trainer.devices", t.devices, 1) + at_least("trainer.num_nodes", t.num_nodes, 1)
    problems += one_of("trainer.strategy", t.strategy, STRATEGIES)
    if problems:
        return problems
    world = int(t.devices) * int(t.num_nodes)
    if world == 1:
        return problems
    if command != "unlearn":
        return [
            f"trainer.devices={t.devices}: harmonize {command} works on one device; only unlearn trains on several. "
            "Use trainer.devices=1 trainer.num_nodes=1."
        ]
    return _rows(cfg, world) + _weighter(cfg)


def _rows(cfg: Any, world: int) -> list[str]:
    """Each rank must see every role, and as many rows of it as every other."""
    from harmonize.data.sampling import shared_rows

    try:
        shared_rows(present(cfg.sampler).get("rows", {}), world)
    except ConfigError as error:
        return error.problems
    return []


def _weighter(cfg: Any) -> list[str]:
    target = present(cfg.weighter).get("_target_")
    if target is None or getattr(resolve(target, cfg.allow), "by_row", False):
        return []
    return [
        f"weighter={cfg.weighter.name}: weighs a row against the others of its step, which lie on other devices. Use "
        "weighter=none, or trainer.devices=1."
    ]
