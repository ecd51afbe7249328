"""Composes a command's configuration and reports everything that is wrong with it at once.

Hydra stops at the first mistake; here every override is tried, so that one message lists all of them, each
with what mends it. Nothing in this module loads a model.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from harmonize.config import names, schema
from harmonize.config.paths import conf_dir
from harmonize.errors import ConfigError, did_you_mean, nearest

COMMANDS: dict[str, type] = {
    "unlearn": schema.UnlearnConfig,
    "evaluate": schema.EvaluateConfig,
    "finetune": schema.FinetuneConfig,
    "prepare": schema.PrepareConfig,
    "diagnose": schema.DiagnoseConfig,
    "sequence": schema.UnlearnConfig,
}

_HINTS = {
    "model.name_or_path": "model.name_or_path=<folder> (or hf:owner/name for the hub)",
    "dataset.root": "dataset.root=<folder>",
}
_LINES = re.compile(r"\s*\n\s*")


def register() -> None:
    """Makes the schemas and resolvers known to Hydra; safe to call again."""
    from hydra.core.config_store import ConfigStore

    # Structured configs that are open to further keys are spelled this way until OmegaConf offers another.
    warnings.filterwarnings("ignore", message=".*subclasses `Dict`.*", category=UserWarning)
    store = ConfigStore.instance()
    for command, node in COMMANDS.items():
        if f"{command}_schema.yaml" not in store.repo:  # a quarter of what composing takes
            store.store(name=f"{command}_schema", node=node, provider="harmonize")
    names.register()


@contextmanager
def hydra_context(config_dirs: Sequence[str | Path] = ()) -> Iterator[Any]:
    """Hydra's config loader over the shipped `conf/` and the user's own folders (which come first)."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        for folder in config_dirs:
            path = Path(folder).resolve()
            if not path.is_dir():
                raise ConfigError(f"--config-dir {folder}: there is no such folder. Give one that exists.")
            hydra.config_loader.get_search_path().prepend("command-line", f"file://{path}")
        if config_dirs:
            hydra.config_loader.repository.initialize_sources(hydra.config_loader.get_search_path())
        yield hydra.config_loader


def compose_config(
    command: str,
    overrides: Sequence[str] = (),
    *,
    config_dirs: Sequence[str | Path] = (),
    check: bool = True,
    complete: bool = True,
) -> Any:
    """The typed configuration of `unlearn`, `evaluate` or `finetune`.

    Args:
        command: Its primary config.
        overrides: As on the command line, without sweeps.
        config_dirs: The user's own configuration folders.
        check: Also check values and combinations and the parameters of every `_target_`
            (this imports the targets' modules).
        complete: Whether every value must be given.

    Returns:
        A DictConfig of the command's schema, interpolations resolved on access.

    Raises:
        ConfigError: All problems that were found, each with the override that mends it.
    """
    if command not in COMMANDS:
        raise ConfigError(f"Unknown command '{command}'. {did_you_mean(command, COMMANDS)}")
    with hydra_context([*config_dirs, *_searched(overrides)]) as loader:
        cfg, problems = _compose_all(command, list(overrides), loader)
    if cfg is None:
        raise ConfigError(problems)
    problems += problems_of(cfg, command, check=check, complete=complete)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return cfg


def problems_of(cfg: Any, command: str, *, check: bool = True, complete: bool = True) -> list[str]:
    """What is wrong with a composed configuration; `check` and `complete` as in `compose_config`."""
    problems = structural_problems(cfg) if complete else []
    if check:
        from harmonize.config.checks import check_config

        problems += check_config(cfg, command)
    return problems


def _searched(overrides: Sequence[str]) -> list[str]:
    """Folders that a `hydra.searchpath=[file://...]` override names; Hydra itself adds them too late to be listed."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    found: list[str] = []
    for text in overrides:
        if text.startswith("hydra.searchpath="):
            try:
                value = OverridesParser.create().parse_override(text).value()
            except HydraException:
                continue
            entries = value if isinstance(value, list) else [value]
            found += [str(v).removeprefix("file://") for v in entries if str(v).startswith("file://")]
    return found


def structural_problems(cfg: Any) -> list[str]:
    """Values that must be given and interpolations that lead nowhere."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    problems = [
        f"{key} must be given. Add {_HINTS.get(key, f'{key}=<value>')}."
        for key in sorted(OmegaConf.missing_keys(cfg))
        if not key.startswith("hydra.")
    ]
    problems += _undeclared(cfg, "")
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        problems.append(f"{error.full_key or 'an interpolation'} cannot be resolved: {_one_line(error)}.")
    return problems


def _undeclared(node: Any, prefix: str) -> list[str]:
    """Keys that `+key=value` forced into a group whose keys are fixed."""
    from omegaconf import DictConfig, OmegaConf

    kind = OmegaConf.get_type(node)
    declared = {f.name for f in fields(kind)} if is_dataclass(kind) and not issubclass(kind, dict) else None
    problems = []
    for key in node:
        name, child = str(key), node._get_node(key)
        if declared is not None and name not in declared:
            problems.append(
                f"+{prefix}{name}: {prefix.rstrip('.') or 'the configuration'} has no key '{name}'. "
                f"{did_you_mean(name, declared)} Leave it out."
            )
        elif isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            problems += _undeclared(child, f"{prefix}{name}.")
    return problems


def groups(loader: Any) -> dict[str, list[str]]:
    """Every group of ours with its options; those of a group within it are written `inner/option`."""
    from hydra.core.object_type import ObjectType

    # the repository itself: the loader's own method copies it at every call
    listed = loader.repository.get_group_options

    def options(group: str) -> list[str]:
        found = [str(name) for name in listed(group, ObjectType.CONFIG)]
        for inner in listed(group, ObjectType.GROUP):
            found += [f"{inner}/{name}" for name in options(f"{group}/{inner}")]
        return found

    known = {group: options(group) for group in listed("", ObjectType.GROUP) if group != "hydra"}
    return {group: found for group, found in known.items() if found}


def _compose_all(command: str, overrides: list[str], loader: Any) -> tuple[Any, list[str]]:
    """The config with every override that works, and a problem for each that does not."""
    problems: list[str] = []
    usable: list[str] = []
    known = groups(loader)
    for text in overrides:
        problem = _syntax_or_option(text, known, loader)
        if problem:
            problems.append(problem)
        else:
            usable.append(text)
    try:
        return composed(command, usable), problems
    except Exception as error:
        if not usable:
            return None, [*problems, _one_line(_root(error))]
    # Choices of options come first: they decide which keys exist.
    usable.sort(key=lambda text: not _is_choice(text, known))
    accepted: list[str] = []
    cfg = composed(command, [])
    for text in usable:
        try:
            cfg = composed(command, [*accepted, text])
            accepted.append(text)
        except Exception as error:
            problems.append(_explain(text, error, cfg, known))
    return cfg, problems


def composed(command: str, overrides: Sequence[str]) -> Any:
    """What Hydra makes of overrides, inside `hydra_context`; its own errors."""
    from hydra import compose

    return compose(config_name=command, overrides=list(overrides))


def _syntax_or_option(text: str, known: dict[str, list[str]], loader: Any) -> str | None:
    """A problem of one override that needs no composition: syntax, a sweep, an unknown option."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return (
            f"'{text}' is no override. Write key=value; put values with spaces or commas in quotes: "
            f"\"key='a, b'\"."
        )
    key = override.key_or_group
    if override.is_sweep_override():
        return f"{text} is a sweep. Add -m to run every value, or quote it: \"{key}='...'\"."
    if key in known and not override.is_delete():
        value = override.value()
        for option in value if isinstance(value, list) else [value]:
            if option is not None and str(option) not in known[key]:
                if isinstance(option, dict):
                    options = ", ".join(known[key])
                    return f"{key} is a group: choose one of {options}, then set keys with {key}.<key>=..."
                return f"{key}={option}: no such {key}. {_replace(key, str(option), known[key])}"
    return None


def _replace(key: str, value: str, options: Iterable[str]) -> str:
    known = sorted(options)
    close = nearest(value, known)
    hint = f"Did you mean {key}={close}? " if close else ""
    return f"{hint}Available: {', '.join(known)}. (harmonize show {key} <option> prints one.)"


def _is_choice(text: str, known: dict[str, list[str]]) -> bool:
    return text.lstrip("+~").partition("=")[0].partition("@")[0] in known


def _explain(text: str, error: Exception, cfg: Any, known: dict[str, list[str]]) -> str:
    """One override that could not be applied, in the user's words."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

    root = _root(error)
    key, _, value = text.lstrip("+~").partition("=")
    if isinstance(root, ValidationError):
        return _type_problem(key, value, root, cfg)
    missing_key = isinstance(root, ConfigKeyError | ConfigAttributeError) or "Could not" in str(error)
    if missing_key and key.partition("@")[0] not in known:
        return _key_problem(text, key, value, cfg, known)
    return f"{text}: {_one_line(root)}. Correct it or leave it out."


def _type_problem(key: str, value: str, error: Exception, cfg: Any) -> str:
    from omegaconf import OmegaConf

    full_key = str(getattr(error, "full_key", "") or key)
    current = OmegaConf.select(cfg, full_key, throw_on_missing=False)
    if isinstance(current, Enum):
        options = [e.name for e in type(current)]
        return (
            f"{key}={value}: not an option. {did_you_mean(value, options)} For example {key}={current.name}."
        )
    expected = re.search(r"converted to (\w+)", str(error))
    kind = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(
        expected.group(1) if expected else "", "another type"
    )
    if current is None or hasattr(current, "keys"):
        return f"{key}={value}: {_one_line(error)}. Correct the value of {full_key}."
    shown = str(current).lower() if isinstance(current, bool) else current
    return f"{key}={value}: expected {kind}. For example {full_key}={shown}."


def _key_problem(text: str, key: str, value: str, cfg: Any, known: dict[str, list[str]]) -> str:
    """An unknown key: the nearest at the same place, else a key of that name elsewhere."""
    from omegaconf import DictConfig

    node, path = cfg, []
    parts = key.split(".")
    for part in parts:
        if not isinstance(node, DictConfig) or part not in node or node._get_node(part) is None:
            break
        path.append(part)
        node = node._get_node(part)
    rest = parts[len(path) :]
    here = ".".join(path)
    if not rest:
        return f"{text}: {key} is already there. Change it without the plus: {key}={value}."
    if not isinstance(node, DictConfig):
        return f"{text}: {here} is a single value and has no keys. Use {here}=<value>."
    if node._is_none():
        return f"{text}: {here} is null, so it has no keys. Set it whole: {here}={{{rest[0]}: {value}}}."
    options = [str(k) for k in node] + ([] if path else sorted(known))
    close = nearest(rest[0], options)
    leaves = [] if path else [k for k in _leaf_keys(cfg) if k.split(".")[-1] == parts[-1]]
    if leaves:
        close, fix = None, f"Did you mean {leaves[0]}={value}? "
    elif close:
        meant = ".".join([*path, close, *rest[1:]])
        fix = f"Did you mean {f'~{meant}' if text.startswith('~') else f'{meant}={value}'}? "
    else:
        fix = ""
    shown = ", ".join(sorted(set(options))[:25])
    where = f"{here} has no key '{rest[0]}'" if here else f"there is no key '{rest[0]}'"
    return f"{text}: {where}. {fix}Available: {shown}."


def _leaf_keys(cfg: Any, prefix: str = "") -> list[str]:
    from omegaconf import DictConfig

    found = []
    for key in cfg:
        node = cfg._get_node(key)
        path = f"{prefix}{key}"
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            found += _leaf_keys(node, f"{path}.")
        else:
            found.append(path)
    return found


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    """The sentence of an error, without OmegaConf's full_key and object_type lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [
        line
        for line in lines
        if line and not line.startswith(("full_key:", "object_type=", "reference_type="))
    ]
    return _LINES.sub(" ", " ".join(kept)).rstrip(".")
