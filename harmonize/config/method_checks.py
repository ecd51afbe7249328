"""Checks of `method` and of what feeds it: objectives, responses, rows, and the teacher's stored lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harmonize.config.instantiate import check_parameters, resolve, to_plain
from harmonize.config.rules import TRAINED_ROLES, component, finite, inputs_of, known_roles, one_of, present
from harmonize.errors import ConfigError

RESPONSES: tuple[str, ...] = ("reference", "teacher", "refusal")

# Keys of an objective's entry that are not parameters of its function.
OBJECTIVE_KEYS: tuple[str, ...] = ("weight", "roles")


def method(cfg: Any) -> list[str]:
    """Roles, responses, weights and settings of every objective."""
    problems: list[str] = []
    response = to_plain(cfg.method.response)
    problems += known_roles("method.response", response)
    for role, source in response.items():
        problems += one_of(f"method.response.{role}", source, RESPONSES)
    objectives = {k: v for k, v in to_plain(cfg.method.objectives).items() if v is not None}
    if not objectives:
        problems.append(
            "method.objectives is empty, so nothing would be trained. Choose a method: method=bidirectional."
        )
    rows = to_plain(cfg.sampler.rows) if "sampler" in cfg else {}
    for name, entry in objectives.items():
        at = f"method.objectives.{name}"
        if not isinstance(entry, Mapping):
            problems.append(f"{at} must be a mapping with _target_, got {entry!r}. Remove it with ~{at}.")
            continue
        problems += _objective(at, entry, cfg.allow)
        roles = entry.get("roles", list(TRAINED_ROLES))
        problems += known_roles(f"{at}.roles", roles)
        if isinstance(roles, Mapping):
            for role, factor in roles.items():
                problems += finite(f"{at}.roles.{role}", factor)
        problems += finite(f"{at}.weight", entry.get("weight", 1.0))
        if rows and not any(rows.get(r, 0) and r in response for r in roles):
            problems.append(
                f"{at} trains on {', '.join(map(str, roles)) or 'no role'}, none of which has rows and a response. "
                f"Remove it with ~{at}, or give rows: sampler.rows.{next(iter(roles), 'forget')}=16."
            )
    return problems


def _objective(at: str, entry: Mapping[str, Any], allow: Iterable[str]) -> list[str]:
    function = entry.get("_target_")
    if function is None:
        return check_parameters(entry, where=at)
    try:
        inputs = inputs_of(resolve(function, allow))
    except ConfigError as error:
        return [f"{at}._target_: {p}" for p in error.problems]
    return check_parameters(entry, extra=inputs, skip=OBJECTIVE_KEYS, allow=allow, where=at)


def sampler(cfg: Any) -> list[str]:
    """Rows of a step, against the roles that the method answers."""
    rows = to_plain(cfg.sampler.rows)
    response = to_plain(cfg.method.response)
    problems = known_roles("sampler.rows", rows)
    used = {r: n for r, n in rows.items() if r in response}
    for role, n in rows.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            problems.append(
                f"sampler.rows.{role}={n}: expected a whole number from 0. For example sampler.rows.{role}=8."
            )
    if problems:
        return problems
    if not any(used.values()):
        problems.append(
            "sampler.rows leaves no row for any role that the method answers. For example sampler.rows.forget=16."
        )
    elif sum(used.values()) < cfg.trainer.accumulate_grad_batches:
        problems.append(
            f"trainer.accumulate_grad_batches={cfg.trainer.accumulate_grad_batches} is more than the "
            f"{sum(used.values())} rows of a step. Use trainer.accumulate_grad_batches=1."
        )
    return problems + component("sampler", cfg, present(cfg.sampler))


def stored_lists(cfg: Any) -> list[str]:
    """Lengths of the stored lists against what the objectives read from them."""
    if cfg.teacher.cache.value != "topk":
        return []
    problems = []
    for name, entry in to_plain(cfg.method.objectives).items():
        for key in ("k", "k_teacher"):
            k = entry.get(key) if isinstance(entry, Mapping) else None
            if isinstance(k, int) and k > cfg.teacher.cache_top_k:
                problems.append(
                    f"method.objectives.{name}.{key}={k} is longer than the stored lists "
                    f"(teacher.cache_top_k={cfg.teacher.cache_top_k}). "
                    f"Use teacher.cache_top_k={k} or teacher.cache=hidden."
                )
    return problems
