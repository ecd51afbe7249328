"""Checks of the group `attack`: every attack is made once, so that its own rules speak before a model loads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from harmonize.config.instantiate import call, check_parameters, parameters, resolve, to_plain
from harmonize.config.rules import one_of
from harmonize.errors import ConfigError


def chosen(cfg: Any) -> dict[str, Any]:
    """The further attacks of a configuration by key; an entry that is null, or has `_target_: null`, is none."""
    entries = to_plain(cfg.attack).items()
    return {
        str(key): node
        for key, node in entries
        if node is not None and not (isinstance(node, Mapping) and node.get("_target_", "") is None)
    }


def check(cfg: Any) -> list[str]:
    """All problems of the chosen attacks."""
    problems: list[str] = []
    names: list[str] = []
    for key, node in chosen(cfg).items():
        at = f"attack.{key}"
        if not isinstance(node, Mapping):
            problems.append(f"{at} must be a mapping with _target_. Remove it with ~{at}.")
            continue
        found = check_parameters(node, allow=cfg.allow, where=at) + _evidence(at, node)
        found = found or _types(at, node, cfg.allow)
        if not found:
            try:
                names.append(str(call(node, allow=cfg.allow).name))
            except ConfigError as error:
                found = error.problems
            except (TypeError, ValueError, AttributeError) as error:
                found = [f"{at} cannot be made of these values: {error}. (harmonize show attack={key})"]
        problems += found
    twice = sorted(n for n, count in Counter(names).items() if count > 1)
    return problems + [
        f"Two attacks are called '{n}'. Give one another: attack.<key>.name=..." for n in twice
    ]


def _types(at: str, node: Mapping[str, Any], allow: Any) -> list[str]:
    """Lists and switches that something else stands for."""
    target: Any = resolve(node["_target_"], allow)
    defaults = {f.name: f.default for f in fields(target)} if hasattr(target, "__dataclass_fields__") else {}
    problems = []
    for key, value in parameters(node).items():
        default = defaults.get(key)
        if isinstance(default, tuple) and not isinstance(value, list | tuple):
            problems.append(f"{at}.{key}={value}: expected a list. For example {at}.{key}=[{value}].")
        if isinstance(default, bool) and not isinstance(value, bool):
            problems.append(f"{at}.{key}={value}: expected true or false. For example {at}.{key}=true.")
    return problems


def _evidence(at: str, node: Mapping[str, Any]) -> list[str]:
    from harmonize.config.schema import Evidence

    if node.get("evidence") is None:
        return []
    return one_of(f"{at}.evidence", node["evidence"], tuple(e.name for e in Evidence))
