"""Checks of `method` and of what feeds it: objectives, responses and rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harmonize.config.edit_checks import acts
from harmonize.config.instantiate import check_parameters, resolve, to_plain
from harmonize.config.rules import (
    TRAINED_ROLES,
    component,
    finite,
    inputs_of,
    known_roles,
    no_roles,
    on_weights,
    one_of,
    own_problems,
    present,
    trained_roles,
)
from harmonize.errors import ConfigError

RESPONSES: tuple[str, ...] = ("reference", "teacher", "refusal", "alternate", "random")

# Groups whose choice may be all that a method does.
STAND_ALONE: tuple[str, ...] = ("edit", "guard")

# Keys of an objective's entry that are not parameters of its function.
OBJECTIVE_KEYS: tuple[str, ...] = ("weight", "roles")


def method(cfg: Any) -> list[str]:
    """Roles, responses, weights and settings of every objective."""
    problems: list[str] = []
    response = to_plain(cfg.method.response)
    problems += known_roles("method.response", response)
    for role, value in response.items():
        problems += _sources(f"method.response.{role}", value)
    objectives = {k: v for k, v in to_plain(cfg.method.objectives).items() if v is not None}
    if not objectives and not any(acts(cfg, group) for group in STAND_ALONE):
        problems.append(
            "method.objectives is empty, so nothing would be trained. Choose a method: method=bidirectional."
        )
    rows = to_plain(cfg.sampler.rows) if "sampler" in cfg else {}
    for name, entry in objectives.items():
        at = f"method.objectives.{name}"
        if not isinstance(entry, Mapping):
            problems.append(f"{at} must be a mapping with _target_, got {entry!r}. Remove it with ~{at}.")
            continue
        problems += _objective(at, entry, cfg.allow, response)
        problems += finite(f"{at}.weight", entry.get("weight", 1.0))
        if on_weights(entry, cfg.allow):
            problems += no_roles(at, entry)
            continue
        roles = entry.get("roles", list(TRAINED_ROLES))
        problems += known_roles(f"{at}.roles", roles)
        if isinstance(roles, Mapping):
            for role, factor in roles.items():
                problems += finite(f"{at}.roles.{role}", factor)
        if rows and not any(rows.get(r, 0) and r in response for r in roles):
            problems.append(
                f"{at} trains on {', '.join(map(str, roles)) or 'no role'}, none of which has rows and a response. "
                f"Remove it with ~{at}, or give rows: sampler.rows.{next(iter(roles), 'forget')}=16."
            )
    return problems


def _sources(at: str, value: Any) -> list[str]:
    """One source, or several different ones."""
    if isinstance(value, str):
        return one_of(at, value, RESPONSES)
    if not isinstance(value, list) or not value or len({str(v) for v in value}) < len(value):
        return [f"{at}={value}: expected one source or a list of different ones. For example {at}=reference."]
    return [problem for source in value for problem in one_of(at, source, RESPONSES)]


def _objective(
    at: str, entry: Mapping[str, Any], allow: Iterable[str], response: Mapping[str, Any]
) -> list[str]:
    function = entry.get("_target_")
    if function is None:
        return check_parameters(entry, where=at)
    from harmonize.objectives.weights import reads_weights

    try:
        resolved = resolve(function, allow)
        inputs = inputs_of(resolved)
        reads_weights(resolved)
    except ConfigError as error:
        return [f"{at}._target_: {p}" for p in error.problems]
    problems = check_parameters(entry, extra=inputs, skip=OBJECTIVE_KEYS, allow=allow, where=at)
    for role in entry.get("roles", TRAINED_ROLES):
        problems += _responses_suit(at, str(role), inputs, response)
    return problems


def _responses_suit(at: str, role: str, inputs: Iterable[str], response: Mapping[str, Any]) -> list[str]:
    """An objective on pairs needs them; one that reads the teacher needs text that the teacher can score."""
    if role not in response:
        return []
    value = response[role]
    sources = [value] if isinstance(value, str) else list(value or [])
    paired = "reference" in sources and len(sources) == 2
    if "pair_id" in inputs and not paired:
        return [
            f"{at} compares two answers to each {role} question, and method.response.{role}={value} gives no pair with "
            f"the data's own. Use method.response.{role}=[refusal,reference] or [alternate,reference]."
        ]
    if "random" in sources and any(name.startswith("teacher_") or "_teacher_" in name for name in inputs):
        return [
            f"{at} reads the teacher, which scores no random tokens (method.response.{role}=random). Use "
            f"method.response.{role}=teacher, or leave {role} out of {at}.roles."
        ]
    return []


def adapters(cfg: Any) -> list[str]:
    """Terms that read the matrices of adapters need adapters, and some need rows to measure."""
    from harmonize.objectives.weights import reads_measured

    entries = {
        str(name): entry
        for name, entry in to_plain(cfg.method.objectives).items()
        if isinstance(entry, Mapping) and on_weights(entry, cfg.allow)
    }
    if str(present(cfg.peft).get("peft_type", "none")) == "none":
        return [
            f"method.objectives.{name} reads the matrices of adapters, and peft=none trains all weights. Use "
            f"peft=lora, or remove it with ~method.objectives.{name}."
            for name in entries
        ]
    if trained_roles(cfg, forget=False):
        return []
    return [
        f"method.objectives.{name} is measured on rows that are to stay, and the method trains on none. Give it some: "
        f"+method.response.retain=reference, or remove it with ~method.objectives.{name}."
        for name, entry in entries.items()
        if reads_measured(resolve(entry["_target_"], cfg.allow))
    ]


def sampler(cfg: Any) -> list[str]:
    """Rows of a step, against the roles that the method answers; a method that trains nothing draws none."""
    if not any(v is not None for v in to_plain(cfg.method.objectives).values()):
        return []
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
    elif (size := cfg.sampler.get("size") or sum(used.values())) < cfg.trainer.accumulate_grad_batches:
        problems.append(
            f"trainer.accumulate_grad_batches={cfg.trainer.accumulate_grad_batches} is more than the "
            f"{size} rows of a step. Use trainer.accumulate_grad_batches=1."
        )
    problems += component("sampler", cfg, present(cfg.sampler))
    return problems or own_problems("sampler", cfg)
