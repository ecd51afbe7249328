"""Rules for single values; each returns a list of sentences, empty where the value is fine."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from harmonize.config.instantiate import check_parameters, resolve, to_plain
from harmonize.data.example import ROLES
from harmonize.errors import ConfigError, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

TRAINED_ROLES: tuple[str, ...] = tuple(str(r) for r in ROLES if r != "general")


def present(node: Any) -> dict[str, Any]:
    """The values of a node without those still missing (`compose` reports them)."""
    return {k: v for k, v in to_plain(node).items() if v != "???"}


def parameter_names(function: Any) -> set[str]:
    """Names of all parameters of a function."""
    return set(inspect.signature(function).parameters)


def inputs_of(function: Any) -> set[str]:
    """Positional parameters: what code supplies, while keyword-only ones are settings."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)}


def on_weights(entry: Mapping[str, Any], allow: Iterable[str]) -> bool:
    """Whether an entry of `method.objectives` reads weights in the place of outputs; False for a broken one."""
    from harmonize.objectives.weights import reads_weights

    try:
        return reads_weights(resolve(entry.get("_target_", ""), allow))
    except ConfigError:  # its own check tells
        return False


def no_roles(at: str, entry: Mapping[str, Any]) -> list[str]:
    """A term that reads weights has no rows, so no roles."""
    if "roles" not in entry:
        return []
    return [f"{at} reads the trained weights and no rows, so it has no roles. Remove them: ~{at}.roles."]


def trained_roles(cfg: Any, forget: bool) -> list[str]:
    """Roles of one side that a method trains on: forget, or all others, which are what is to stay."""
    rows = to_plain(cfg.sampler.rows)
    return [str(r) for r in to_plain(cfg.method.response) if (r == "forget") == forget and rows.get(r, 0)]


def known_roles(key: str, roles: Iterable[Any]) -> list[str]:
    """Only roles that can be trained on."""
    return [
        f"{key}: unknown role '{r}'. {did_you_mean(str(r), TRAINED_ROLES)} Correct it in {key}."
        for r in roles
        if str(r) not in TRAINED_ROLES
    ]


def one_of(key: str, value: Any, options: tuple[str, ...], null: bool = False) -> list[str]:
    """One of a few words."""
    if (null and value is None) or value in options:
        return []
    return [f"{key}={value}: {did_you_mean(str(value), options)} For example {key}={options[0]}."]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def finite(key: str, value: Any) -> list[str]:
    """A number that is neither infinite nor NaN."""
    return [] if _number(value) else [f"{key}={value}: expected a finite number. For example {key}=1.0."]


def positive(key: str, value: Any) -> list[str]:
    """A number above 0."""
    if _number(value) and value > 0:
        return []
    return [f"{key}={value}: expected a number above 0. For example {key}=1e-3."]


def share(key: str, value: Any) -> list[str]:
    """A number from 0 to 1."""
    if _number(value) and 0 <= value <= 1:
        return []
    return [f"{key}={value}: expected a share from 0 to 1. For example {key}=0.5."]


def at_least(key: str, value: Any, least: int) -> list[str]:
    """A number not below `least`."""
    if _number(value) and value >= least:
        return []
    return [f"{key}={value}: expected a whole number of at least {least}. For example {key}={max(least, 1)}."]


def component(at: str, cfg: Any, node: Mapping[str, Any], extra: Iterable[str] = ()) -> list[str]:
    """A component's parameters; those that our code supplies are positional, the settings keyword-only."""
    if node.get("_target_") is None:
        return [f"{at} has no _target_. Choose an option of the group: {at}=<option> (harmonize ls {at})."]
    if at == "sampler":
        try:
            extra = inputs_of(resolve(node["_target_"], cfg.allow))
        except ConfigError as error:
            return [f"{at}._target_: {p}" for p in error.problems]
    problems = check_parameters(node, extra=extra, skip=("name",), allow=cfg.allow, where=at)
    if node.get("evidence") is not None:
        from harmonize.config.schema import Evidence

        problems += one_of(f"{at}.evidence", node["evidence"], tuple(e.name for e in Evidence))
    return problems


def checked(problems: Callable[[Any], list[str]]) -> Callable[[F], F]:
    """Gives a function its `problems(cfg)`: what is wrong with a configuration that chooses it."""

    def mark(function: F) -> F:
        function.problems = problems  # type: ignore[attr-defined]
        return function

    return mark


def own_problems(at: str, cfg: Any) -> list[str]:
    """What a component says of the configuration itself, where its target has a `problems(cfg)`."""
    try:
        check = getattr(resolve(present(cfg[at])["_target_"], cfg.allow), "problems", None)
    except (ConfigError, KeyError):  # `component` tells
        return []
    return list(check(cfg)) if check else []
