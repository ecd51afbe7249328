"""Checks of `edit`, `repair` and `statistics`: what changes the weights after training, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonize.config.instantiate import ABOUT, check_parameters, resolve, to_plain
from harmonize.config.rules import at_least, inputs_of, known_roles, own_problems, present
from harmonize.errors import ConfigError, did_you_mean

OWN_KEYS = ("name", "roles", "inputs")  # keys of `edit` that are not settings of its function


def acts(cfg: Any, group: str) -> bool:
    """Whether a group that may do nothing names something to do."""
    return group in cfg and bool(present(cfg[group]).get("_target_"))


def edit(cfg: Any) -> list[str]:
    """The edit's function, settings and inputs, and whether there is anything for it to work on."""
    if not acts(cfg, "edit"):
        return idle(cfg, "edit")
    from harmonize.edits.inputs import inputs_of as edit_inputs
    from harmonize.edits.inputs import measured_inputs

    node = present(cfg.edit)
    try:
        function = resolve(node["_target_"], cfg.allow)
        inputs, measured = edit_inputs(function), measured_inputs(function)
    except ConfigError as error:
        return [f"edit._target_: {p}" for p in error.problems]
    problems = check_parameters(node, extra=inputs, skip=OWN_KEYS, allow=cfg.allow, where="edit")
    problems += _roles(node.get("roles") or {}, {m.side for m in measured.values()})
    problems += _inputs(node.get("inputs") or {}, {m.kind for m in measured.values()})
    trained = any(v is not None for v in to_plain(cfg.method.objectives).values())
    if not trained and not measured:
        problems.append(
            f"edit={node.get('name')} works on what training changed, and method={cfg.method.name} trains nothing. "
            "Use a method that trains, such as method=grad_diff."
        )
    return (problems or own_problems("edit", cfg)) + _adapters(cfg, "edit")


def repair(cfg: Any) -> list[str]:
    """The repair's function and settings."""
    if not acts(cfg, "repair"):
        return idle(cfg, "repair")
    node = present(cfg.repair)
    try:
        inputs = inputs_of(resolve(node["_target_"], cfg.allow))
    except ConfigError as error:
        return [f"repair._target_: {p}" for p in error.problems]
    problems = check_parameters(node, extra=inputs, skip=("name",), allow=cfg.allow, where="repair")
    return (problems or own_problems("repair", cfg)) + _adapters(cfg, "repair")


def statistics(cfg: Any) -> list[str]:
    """Where statistics come from."""
    problems = at_least("statistics.batch_size", cfg.statistics.batch_size, 1)
    path = cfg.statistics.path
    if path is not None and not Path(path).expanduser().is_dir():
        problems.append(
            f"statistics.path={path}: there is no such folder. Name one of those that `harmonize ls caches` shows, or "
            "leave it out: statistics.path=null."
        )
    return problems


def idle(cfg: Any, group: str) -> list[str]:
    """Settings given to a group that names nothing to do."""
    settings = [key for key in present(cfg[group]) if key not in ("_target_", "name", *ABOUT)]
    return [
        f"{group}.{key} has no effect with {group}=none. Choose one (harmonize ls {group}s)."
        for key in settings
    ]


def _adapters(cfg: Any, group: str) -> list[str]:
    """Whole weights are changed, so adapters must become part of them."""
    node = present(cfg.peft)
    if str(node.get("peft_type", "none")) == "none":
        return []
    if node.get("load_in_4bit"):
        return [
            f"{group} changes whole weights, which 4-bit ones cannot take. Use peft=lora, or {group}=none."
        ]
    if node.get("use_dora"):
        return [
            f"{group} merges adapters first, and DoRA cannot be merged. Use peft.use_dora=false, or {group}=none."
        ]
    if not node.get("merge", True):
        return [
            f"{group} changes whole weights, so an adapter alone cannot be exported. Use peft.merge=true, or "
            f"{group}=none."
        ]
    return []


def _roles(given: Any, sides: set[str]) -> list[str]:
    if not isinstance(given, Mapping):
        return [f"edit.roles={given}: expected a mapping. For example edit.roles={{forget: [forget]}}."]
    problems = []
    for side, roles in given.items():
        if side not in sides:
            problems.append(
                f"edit.roles.{side}: this edit reads nothing of it. {did_you_mean(str(side), sides)} "
                f"Remove it with ~edit.roles.{side}."
            )
        elif not isinstance(roles, list) or not roles:
            problems.append(
                f"edit.roles.{side}={roles}: expected a list of roles. For example edit.roles.{side}=[retain]."
            )
        else:
            problems += known_roles(f"edit.roles.{side}", roles)
    return problems


def _inputs(given: Any, kinds: set[str]) -> list[str]:
    from harmonize.edits.inputs import settings_of

    if not isinstance(given, Mapping):
        return [f"edit.inputs={given}: expected a mapping. Remove it with ~edit.inputs."]
    problems = []
    for kind, settings in given.items():
        at = f"edit.inputs.{kind}"
        if kind not in kinds:
            problems.append(
                f"{at}: this edit reads none. {did_you_mean(str(kind), kinds)} Remove it with ~{at}."
            )
            continue
        known = settings_of(str(kind))
        for key, value in (settings or {}).items():
            if key not in known:
                problems.append(
                    f"{at}.{key} is no setting. {did_you_mean(str(key), known)} Remove it with ~{at}.{key}."
                )
            elif key == "layers" and (
                not isinstance(value, list) or not all(isinstance(v, str) for v in value)
            ):
                problems.append(
                    f"{at}.layers={value}: expected a list of patterns. For example {at}.layers=['*mlp*']."
                )
            elif key in ("group_rows", "batch_rows") or (key == "steps" and value is not None):
                problems += at_least(f"{at}.{key}", value, 1)
    return problems
