"""`harmonize show GROUP OPTION`: what choosing it sets, defaults of the schema included, and what it computes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from harmonize.commands.arguments import Parser
from harmonize.config.paths import conf_dir, share
from harmonize.errors import ConfigError, did_you_mean

# Options of these change other groups, so they are shown as they are written.
_GLOBAL = ("experiment", "hparams_search", "debug", "tuned")


def run(argv: list[str]) -> int:
    """Prints YAML; what follows from it stands above as comments.

    Raises:
        ConfigError: No such group or option.
    """
    parser = Parser(
        "show",
        "Prints one option of a group with every key it has; of a method also its formulas, needs and costs.",
        "  harmonize show method bidirectional\n  harmonize show method=npo\n"
        "  harmonize show dataset tofu dataset.root=data/tofu",
    )
    parser.add_argument(
        "group", help="a configuration group, or sweep; GROUP=OPTION is as good as GROUP OPTION"
    )
    parser.add_argument("option", nargs="?", help="one of its options (default: the one in use)")
    parser.add_argument("overrides", nargs="*", help="further overrides")
    parser.add_argument("--config-dir", action="append", default=[], help="a folder of your own options")
    given = parser.parse(argv)
    _split(given)
    if given.group in ("sweep", "sweeps"):
        print(_file(share("sweeps"), "sweep", given.option), end="")
    elif given.group in _GLOBAL:
        print(_file(conf_dir() / given.group, given.group, given.option), end="")
    else:
        print(_composed(given), end="")
    return 0


def _split(given: Any) -> None:
    """`method=npo`, which is how an option is chosen everywhere else; what follows it are overrides."""
    group, equals, option = given.group.partition("=")
    if equals:
        given.overrides = [*filter(None, [given.option]), *given.overrides]
        given.group, given.option = group, option or None
    elif given.option and "=" in given.option:
        given.overrides, given.option = [given.option, *given.overrides], None


def _composed(given: Any) -> str:
    from omegaconf import OmegaConf

    from harmonize.config.compose import COMMANDS, compose_config

    group = _group(given)
    choice = [f"{group}={given.option}"] if given.option else []
    command = next(c for c, node in COMMANDS.items() if group in {f.name for f in fields(node)})
    loose = [*choice, *given.overrides]
    cfg = compose_config(command, loose, config_dirs=given.config_dir, check=False, complete=False)
    text = OmegaConf.to_yaml(cfg[group])
    name = given.option or cfg[group].get("name")
    return "".join(f"# {line}\n" for line in _about(group, name, cfg[group], given.config_dir)) + text


def _group(given: Any) -> str:
    """The group's name, as in `conf/`; its plural will do."""
    groups = sorted(p.name for p in conf_dir().iterdir() if p.is_dir() and p.name != "hydra")
    group: str = given.group if given.group in groups else given.group.removesuffix("s")
    if group in groups:
        return group
    from harmonize.reporting.catalogue import names

    having = [g for g in groups if given.group in names(g, given.config_dir)]
    if having:
        hint = " or ".join(f"harmonize show {g}={given.group}" for g in having)
        raise ConfigError(f"'{given.group}' is no group but an option. Type: {hint}")
    raise ConfigError(f"'{given.group}' is no group. {did_you_mean(given.group, groups, limit=40)}")


def _about(group: str, name: str | None, node: Any, config_dirs: list[str]) -> list[str]:
    """What follows from the YAML below: formulas, needs, costs, and where the code is."""
    from omegaconf import OmegaConf

    from harmonize.reporting.catalogue import Option, names, option
    from harmonize.reporting.methods_page import summary

    if name not in names(group, config_dirs):
        return []
    plain: Any = OmegaConf.to_container(node, resolve=False, enum_to_str=True)
    return summary(Option(group, name, plain, option(group, name, config_dirs).choices, tuple(config_dirs)))


def _file(folder: Any, kind: str, name: str | None) -> str:
    names = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))
    if name not in names:
        raise ConfigError(f"{kind} '{name}': there is none of that name. {did_you_mean(str(name), names)}")
    return str((folder / f"{name}.yaml").read_text(encoding="utf-8"))
