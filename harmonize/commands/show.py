"""`harmonize show GROUP OPTION`: what choosing it sets, defaults of the schema included."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from harmonize.commands.arguments import Parser
from harmonize.config.paths import conf_dir, share
from harmonize.errors import ConfigError, did_you_mean

# Options of these change other groups, so they are shown as they are written.
_GLOBAL = ("experiment", "hparams_search", "debug", "tuned")


def run(argv: list[str]) -> int:
    """Prints YAML."""
    parser = Parser(
        "show",
        "Prints one option of a group with every key it has.",
        "  harmonize show method bidirectional\n  harmonize show dataset tofu dataset.root=data/tofu",
    )
    parser.add_argument("group", help="a configuration group, or sweep")
    parser.add_argument("option", nargs="?", help="one of its options (default: the one in use)")
    parser.add_argument("overrides", nargs="*", help="further overrides")
    parser.add_argument("--config-dir", action="append", default=[], help="a folder of your own options")
    given = parser.parse(argv)
    if given.group in ("sweep", "sweeps"):
        print(_file(share("sweeps"), "sweep", given.option), end="")
    elif given.group in _GLOBAL:
        print(_file(conf_dir() / given.group, given.group, given.option), end="")
    else:
        print(_composed(given), end="")
    return 0


def _composed(given: Any) -> str:
    from omegaconf import OmegaConf

    from harmonize.config.compose import COMMANDS, compose_config

    groups = sorted(p.name for p in conf_dir().iterdir() if p.is_dir() and p.name != "hydra")
    group = given.group if given.group in groups else given.group.removesuffix("s")
    if group not in groups:
        raise ConfigError(f"'{given.group}' is no group. {did_you_mean(given.group, groups, limit=40)}")
    choice = [f"{group}={given.option}"] if given.option else []
    command = next(c for c, node in COMMANDS.items() if group in {f.name for f in fields(node)})
    loose = [*choice, *given.overrides]
    cfg = compose_config(command, loose, config_dirs=given.config_dir, check=False, complete=False)
    return OmegaConf.to_yaml(cfg[group])


def _file(folder: Any, kind: str, name: str | None) -> str:
    names = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))
    if name not in names:
        raise ConfigError(f"{kind} '{name}': there is none of that name. {did_you_mean(str(name), names)}")
    return str((folder / f"{name}.yaml").read_text(encoding="utf-8"))
