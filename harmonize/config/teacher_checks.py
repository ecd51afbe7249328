"""Checks of `teacher`: ranges, and what its caches keep against what the objectives read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harmonize.config.instantiate import parameters, resolve, to_plain
from harmonize.config.rules import at_least, inputs_of, known_roles, share
from harmonize.config.units import parse_size
from harmonize.errors import ConfigError


def check(cfg: Any) -> list[str]:
    """Values of `teacher` alone."""
    t = cfg.teacher
    problems = known_roles("teacher.instruct_roles", t.instruct_roles)
    for name in ("cache_top_k", "max_new_tokens", "batch_size"):
        if t[name] is not None:
            problems += at_least(f"teacher.{name}", t[name], 1)
    if t.cache_budget is not None:
        try:
            parse_size(t.cache_budget, "teacher.cache_budget")
        except ConfigError as error:
            problems += error.problems
    if t.ensemble and (key := _leads_to(cfg, "topk")):
        problems.append(
            f"teacher.ensemble averages all logits, and teacher.{key}=topk keeps a few. "
            f"Use teacher.{key}={_EXACT[key]}."
        )
    problems += share("teacher.leak_limit", t.leak_limit)
    return problems + share("teacher.overrefusal_limit", t.overrefusal_limit)


def stored(cfg: Any) -> list[str]:
    """What the caches keep, or keep when they go over the budget, against what the objectives read from them."""
    return _lists(cfg) + _live(cfg) + _devices(cfg)


_EXACT = {"cache": "hidden", "cache_over_budget": "error"}


def _leads_to(cfg: Any, mode: str) -> str | None:
    """The key by which the cache is kept in a mode, or may be, or None."""
    if cfg.teacher.cache.value == mode:
        return "cache"
    over = cfg.teacher.cache_over_budget.value
    # lists are no shorter form of lists, and where there is no cache none is too large
    possible = cfg.teacher.cache.value == "hidden" if mode == "topk" else True
    return "cache_over_budget" if over == mode and possible else None


def _lists(cfg: Any) -> list[str]:
    key = _leads_to(cfg, "topk")
    if key is None:
        return []
    from harmonize.objectives.inputs import list_sizes, needs
    from harmonize.objectives.outputs import FIELDS

    problems = []
    for name, function, settings in _objectives(cfg):
        wide = [n for n in needs(function) if n in FIELDS and FIELDS[n].teacher and FIELDS[n].wide]
        if wide:
            problems.append(
                f"method.objectives.{name} reads all logits of the teacher, and teacher.{key}=topk keeps a few. "
                f"Use teacher.{key}={_EXACT[key]}."
            )
            continue
        try:
            k = list_sizes([(function, settings)])[1]
        except (ConfigError, TypeError, ValueError):  # its own check tells
            continue
        kept = cfg.teacher.cache_top_k
        if kept is not None and k > kept:
            problems.append(
                f"method.objectives.{name} reads the teacher's top {k}, which is longer than the stored lists "
                f"(teacher.cache_top_k={kept}). Use teacher.cache_top_k={k} or teacher.{key}={_EXACT[key]}."
            )
    return problems


def _live(cfg: Any) -> list[str]:
    """Fields that need every position at once cannot be had from a live model."""
    key = _leads_to(cfg, "none")
    if key is None:
        return []
    from harmonize.objectives.inputs import needs
    from harmonize.objectives.outputs import FIELDS

    return [
        f"method.objectives.{name} reads statistics over all states of the untouched model, which teacher.{key}=none "
        f"does not keep. Use teacher.{key}={_EXACT[key]}."
        for name, function, _ in _objectives(cfg)
        if any(FIELDS[n].overall for n in needs(function) if n in FIELDS)
    ]


def _devices(cfg: Any) -> list[str]:
    over = cfg.teacher.cache_over_budget.value
    if over == "error" or int(cfg.trainer.devices) * int(cfg.trainer.num_nodes) == 1:
        return []
    return [
        f"teacher.cache_over_budget={over} is decided while a run goes on, and several devices must agree before. Use "
        f"teacher.cache_over_budget=error, and teacher.cache={over} if the space is known to be short."
    ]


def _objectives(cfg: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(name, function, settings) of the objectives that are sound so far."""
    for name, entry in to_plain(cfg.method.objectives).items():
        if not isinstance(entry, Mapping):
            continue
        try:
            function = resolve(entry["_target_"], cfg.allow)
            inputs_of(function)
        except (ConfigError, KeyError):  # its own check tells
            continue
        settings = parameters(entry)
        yield str(name), function, {k: v for k, v in settings.items() if k not in ("weight", "roles")}
