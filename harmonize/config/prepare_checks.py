"""What can be wrong with a configuration of `harmonize prepare`, before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from harmonize.config.instantiate import call, check_parameters, resolve, to_plain
from harmonize.config.rules import at_least, inputs_of
from harmonize.errors import ConfigError, HarmonizeError, did_you_mean

# What the command hands to an option of the group `anchors`.
ANCHOR_INPUTS = ("examples", "rewriter", "embed")


def check(cfg: Any) -> list[str]:
    """All problems of a composed configuration; values that are missing are left to `compose`."""
    checks: tuple[Callable[[Any], list[str]], ...] = (
        _allowed, _numbers, _sources, _rewriter, _anchors, _limits, _split, _output
    )  # fmt: skip
    problems: list[str] = []
    for one in checks:
        try:
            problems += one(cfg)
        except HarmonizeError as error:
            problems += getattr(error, "problems", [str(error)])
    return problems


def source_nodes(cfg: Any) -> dict[str, dict[str, Any]]:
    """Name to node of every source: `source` by its own name, those of `extra` by their key.

    Raises:
        ConfigError: No source at all, or two of one name.
    """
    first = to_plain(cfg.source) or {}
    if "_target_" not in first:
        raise ConfigError(
            "No source is named. Add source=<source> (harmonize ls sources), for example "
            "source=books source.root=<folder>."
        )
    found = {str(first.get("name", "source")): first}
    for name, node in to_plain(cfg.extra).items():
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ConfigError(f"extra.{name} is no source. Add it as +source@extra.{name}=<source>.")
        if name in found:
            raise ConfigError(
                f"extra.{name}: there are two sources of the name '{name}'. Choose another: "
                f"+source@extra.{name}2=<source>."
            )
        found[str(name)] = {**node, "name": str(name)}
    return found


def _allowed(cfg: Any) -> list[str]:
    if not cfg.allow:
        return []
    return [
        f"allow={list(cfg.allow)}: a configuration cannot allow foreign code by itself. Leave it out (allow=[]) and "
        f"add --allow {','.join(map(str, cfg.allow))} to the command."
    ]


def _numbers(cfg: Any) -> list[str]:
    problems = at_least("chunk_words", cfg.chunk_words, 1) + at_least("split_seed", cfg.split_seed, 0)
    for key in ("workers", "max_records"):
        if cfg[key] is not None:
            problems += at_least(key, cfg[key], 1)
    return problems


def _sources(cfg: Any) -> list[str]:
    problems: list[str] = []
    for i, (name, node) in enumerate(source_nodes(cfg).items()):
        where = f"extra.{name}" if i else "source"
        problems += check_parameters(_known(node), extra=_missing(node), allow=cfg.allow, where=where)
    return problems


def _rewriter(cfg: Any) -> list[str]:
    node = to_plain(cfg.rewriter)
    problems = check_parameters(
        _known(node), extra=_missing(node), skip=("name",), allow=cfg.allow, where="rewriter"
    )
    if not problems and not _missing(node):
        call(
            node, allow=cfg.allow, skip=("name",)
        )  # settings are judged where they are used; nothing is loaded
    return problems


def _anchors(cfg: Any) -> list[str]:
    node = to_plain(cfg.anchors)
    problems = check_parameters(node, extra=ANCHOR_INPUTS, skip=("name",), allow=cfg.allow, where="anchors")
    if problems:
        return problems
    inputs = inputs_of(resolve(node["_target_"], cfg.allow))
    rewriter = resolve(to_plain(cfg.rewriter)["_target_"], cfg.allow)
    if "rewriter" in inputs and not getattr(rewriter, "cached", False):
        problems.append(
            f"anchors={node.get('name')} needs a rewriter that can write, and rewriter={cfg.rewriter.get('name')} "
            "cannot. Use rewriter=local or rewriter=server, or anchors=mined."
        )
    if cfg.embedding is not None and "embed" not in inputs:
        problems.append(
            f"embedding has no effect with anchors={node.get('name')}. Use anchors=mined, or embedding=null."
        )
    return problems


def _limits(cfg: Any) -> list[str]:
    from harmonize.data.unify.validate import Limits

    known = [f.name for f in fields(Limits)]
    return [
        f"limits.{key}: unknown. {did_you_mean(str(key), known)} Correct it or leave it out."
        for key in to_plain(cfg.limits)
        if key not in known
    ]


def _split(cfg: Any) -> list[str]:
    from harmonize.data.split import resolve_shares

    try:
        resolve_shares(to_plain(cfg.split))
    except HarmonizeError as error:
        return [str(error).replace("dataset.split", "split")]
    return []


def _output(cfg: Any) -> list[str]:
    from harmonize.data.prepare.folder import check_output

    check_output(output_of(cfg), cfg.overwrite)
    return []


def name_of(cfg: Any) -> str:
    """The data set's name: as given, else that of its first source."""
    return str(cfg.name or next(iter(source_nodes(cfg))))


def output_of(cfg: Any) -> str:
    """The folder to write: as given, else `prepared/<name>`."""
    return str(cfg.output or f"prepared/{name_of(cfg)}")


def _missing(node: Mapping[str, Any]) -> list[str]:
    """Keys that must still be given, which `compose` reports."""
    return [k for k, v in node.items() if v == "???"]


def _known(node: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in node.items() if v != "???"}
