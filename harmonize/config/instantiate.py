"""The one guarded way from a config node with a `_target_` to Python code.

A target must be in the package, in the parts of torch and lightning that configs need, an installed entry
point of group `harmonize.plugins`, or allowed by the person at the keyboard (`--allow`, HARMONIZE_ALLOW).
A config file alone can never widen this list, so a downloaded one cannot run arbitrary code.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from harmonize.errors import ConfigError, did_you_mean, nearest

ALLOWED: tuple[str, ...] = ("harmonize.", "torch.optim.", "lightning.")
PLUGIN_GROUP = "harmonize.plugins"

# Keys that say what an option is; no parameters of its target, unless that has one of the name.
ABOUT: tuple[str, ...] = ("description", "paper", "evidence", "fidelity")


def resolve(target: str, allow: Iterable[str] = ()) -> Callable[..., Any]:
    """The callable that a `_target_` names, as `package.module:name` or `package.module.name`.

    Args:
        target: Dotted path, or the name of an entry point of group `harmonize.plugins`.
        allow: Further prefixes from the command line; HARMONIZE_ALLOW (comma-separated) is read as well.

    Raises:
        ConfigError: Not a name, not allowed, not importable, or not callable.
    """
    if not isinstance(target, str) or not target or target == "???":
        raise ConfigError(
            f"_target_ must be a dotted name such as harmonize.objectives.distill.pull, got {target!r}."
        )
    plugin = plugins().get(target)
    if plugin is not None:
        found = plugin.load()
    else:
        prefixes = _granted(allow)
        if not _inside(target.replace(":", "."), prefixes):
            raise _refusal(target, target)
        found = _import(target, prefixes)
    if not callable(found):
        raise ConfigError(
            f"_target_ '{target}' names a {type(found).__name__}, expected a function or class."
        )
    return found


def call(
    node: Mapping[str, Any], /, *, allow: Iterable[str] = (), skip: Iterable[str] = (), **extra: Any
) -> Any:
    """Calls a node's target with the node's keys and `extra` (which win).

    Args:
        node: Mapping with `_target_`; a DictConfig is turned into plain containers first.
        allow: As in `resolve`.
        skip: Keys of the node that are not passed on (such as `name`).
        extra: Arguments that code supplies.

    Raises:
        ConfigError: The target is refused, or its parameters do not match.
    """
    plain = to_plain(node)
    if problems := check_parameters(plain, extra=extra, skip=skip, allow=allow):
        raise ConfigError(problems)
    function = resolve(plain["_target_"], allow)
    return function(**{**parameters(plain, skip, _named(function)), **extra})


def parameters(
    node: Mapping[str, Any], skip: Iterable[str] = (), named: Iterable[str] = ()
) -> dict[str, Any]:
    """The keys of a node that go to its target.

    Args:
        node: Mapping with `_target_`.
        skip: Keys that are no parameters.
        named: Parameters that the target names; it then takes even a `description`.
    """
    left_out = {"_target_", *skip, *(set(ABOUT) - set(named))}
    return {str(k): v for k, v in to_plain(node).items() if k not in left_out}


def check_parameters(
    node: Mapping[str, Any],
    extra: Iterable[str] = (),
    skip: Iterable[str] = (),
    allow: Iterable[str] = (),
    where: str = "",
) -> list[str]:
    """Problems of a node: a target that cannot be used, unknown parameters (nearest named), missing ones.

    Args:
        node: Mapping with `_target_` and parameters.
        extra: Names of arguments that code supplies, so their absence is no problem.
        skip: Keys that are not parameters of the target (such as weight and roles of an objective).
        allow: As in `resolve`.
        where: Config path of the node, for the override in the message (such as `method.objectives.pull`).
    """
    plain = to_plain(node)
    at = f"{where}." if where else ""
    target = plain.get("_target_")
    if target is None:
        return [f"{where or 'the node'} has no _target_. Set {at}_target_=<module>.<function>."]
    try:
        signature = inspect.signature(resolve(target, allow))
    except ConfigError as error:
        return [f"{at}_target_: {problem}" for problem in error.problems]
    except ValueError:  # a builtin without a signature: nothing to compare with
        return []
    supplied = set(extra)
    named = {
        p.name: p
        for p in signature.parameters.values()
        if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    settable = set(named) - supplied
    given = parameters(plain, skip, named)
    problems = []
    for key in given:
        if key not in named and not open_ended:
            problems.append(
                f"{at}{key} is no parameter of {target}. {did_you_mean(key, settable)} "
                f"Rename it, or remove it with ~{at}{key}."
            )
    for name, parameter in named.items():
        if parameter.default is inspect.Parameter.empty and name not in given and name not in supplied:
            problems.append(f"{at}{name} is missing: {target} needs it. Add +{at}{name}=<value>.")
        elif given.get(name) == "???":
            problems.append(f"{at}{name} must be given. Add {at}{name}=<value>.")
    return problems


def to_plain(node: Any) -> Any:
    """Plain dicts and lists of a config node, interpolations resolved; anything else unchanged."""
    if isinstance(node, dict) and type(node) is dict:
        return node
    from omegaconf import Container, OmegaConf

    if isinstance(node, Container):
        return OmegaConf.to_container(node, resolve=True)
    return dict(node) if isinstance(node, Mapping) else node


def takes(node: Mapping[str, Any], allow: Iterable[str] = ()) -> set[str]:
    """Names of the parameters that a node's target has."""
    return _named(resolve(to_plain(node)["_target_"], allow))


def _named(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:  # a builtin without a signature
        return set()


def _granted(allow: Iterable[str]) -> list[str]:
    environment = os.environ.get("HARMONIZE_ALLOW", "").split(",")
    return [p.strip().rstrip(".") for p in (*ALLOWED, *allow, *environment) if p.strip()]


def _inside(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def _refusal(target: str, name: str) -> ConfigError:
    root = name.split(".")[0]
    return ConfigError(
        f"'{target}' is outside the packages that configs may call ({', '.join(p.rstrip('.') for p in ALLOWED)}). "
        f"If you trust it, run again with --allow {root} or HARMONIZE_ALLOW={root}."
    )


def _import(target: str, prefixes: list[str]) -> Any:
    """Imports the longest module prefix of `target`, then walks its attributes.

    What an allowed module merely imported (`harmonize.x.os.system`) is judged by where it was defined.
    """
    if not _inside(target.replace(":", "."), [p.rstrip(".") for p in ALLOWED]):
        _look_in_working_folder()
    module_name, colon, rest = target.partition(":")
    parts = target.split(".")
    candidates = (
        [(module_name, rest.split("."))]
        if colon
        else [(".".join(parts[:i]), parts[i:]) for i in range(len(parts) - 1, 0, -1)]
    )
    for name, attributes in candidates:
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                continue
            raise ConfigError(
                f"'{target}' needs the package '{error.name}', which is not installed. pip install {error.name}"
            ) from error
        for attribute in attributes:
            if not hasattr(found, attribute):
                public = [n for n in dir(found) if not n.startswith("_")]
                raise ConfigError(f"{name} has no '{attribute}'. {did_you_mean(attribute, public)}")
            found = getattr(found, attribute)
            home = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", None)
            if isinstance(home, str) and not _inside(home, prefixes):
                raise _refusal(target, home)
        return found
    root = candidates[-1][0].partition(".")[0]
    near = nearest(root, {p.stem for p in Path().glob("*.py")})
    raise ConfigError(
        f"'{target}' cannot be imported: there is no module '{candidates[0][0]}', "
        "neither installed nor in this folder. "
        + (f"Did you mean '{near}'? " if near else "")
        + "Correct _target_, or name the folder that holds it: PYTHONPATH=<folder>."
    )


def _look_in_working_folder() -> None:
    """A module that its user has allowed may lie where they work; last, so that it hides nothing installed."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)


def plugins() -> dict[str, Any]:
    """Installed entry points of group `harmonize.plugins` by name."""
    return _plugins(tuple(sys.path))


@lru_cache(maxsize=8)
def _plugins(path: tuple[str, ...]) -> dict[str, Any]:
    """Those found on a search path: looking through all installed packages takes its time, and composing asks often."""
    from importlib.metadata import entry_points

    return {e.name: e for e in entry_points(group=PLUGIN_GROUP)}
