"""`harmonize ls KIND`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harmonize.commands.arguments import Parser
from harmonize.commands.caches import list_caches
from harmonize.config.paths import cache_dir, conf_dir, share
from harmonize.errors import ConfigError, did_you_mean

_FILES = ("sweeps", "experiments")


def run(argv: list[str]) -> int:
    """Prints one table.

    Raises:
        UsageError: An unknown kind.
        ConfigError: A folder that is not there, or a method's file that is no YAML.
    """
    parser = Parser(
        "ls",
        f"Lists what there is to choose from: {', '.join(kinds())}.",
        "  harmonize ls methods\n  harmonize ls datasets --config-dir mydata/conf\n"
        "  harmonize ls caches --kind teacher",
    )
    parser.add_argument("kind", nargs="?", help="a configuration group (singular or plural), or caches")
    parser.add_argument("--config-dir", action="append", default=[], help="a folder of your own options")
    parser.add_argument(
        "--kind",
        action="append",
        default=[],
        dest="only",
        help="of caches: one by one, this kind; may be repeated",
    )
    parser.add_argument("--all", action="store_true", help="of caches: one by one, all kinds")
    parser.add_argument(
        "--cache-dir", type=Path, help="of caches: a paths.cache_dir that was set by an override"
    )
    given = parser.parse(argv)
    if given.kind is None:
        print("\n".join(kinds()))
        return 0
    known = kinds()
    kind = given.kind if given.kind in known else f"{given.kind}s"
    if kind not in known:
        from harmonize.cli import UsageError

        raise UsageError(f"'{given.kind}' cannot be listed. {did_you_mean(given.kind, known, limit=40)}")
    if kind == "caches":
        list_caches(given.cache_dir or cache_dir(), given.only, given.all)
        return 0
    if given.only or given.all or given.cache_dir:
        from harmonize.cli import UsageError

        raise UsageError(
            "--kind, --all and --cache-dir are of caches. For example: harmonize ls caches --all"
        )
    for folder in given.config_dir:
        if not Path(folder).is_dir():
            raise ConfigError(f"--config-dir {folder}: there is no such folder. Give one that exists.")
    if kind == "methods":
        _print(kind, ("name", "what it does", "needs"), methods(given.config_dir))
        return 0
    _print(kind, ("name", "description"), options(kind, given.config_dir))
    return 0


def kinds() -> list[str]:
    """Everything `ls` can list."""
    groups = [_plural(p.name) for p in conf_dir().iterdir() if p.is_dir() and p.name != "hydra"]
    return sorted({*groups, *_FILES, "caches"})


def options(kind: str, config_dirs: list[str] | None = None) -> list[tuple[str, str]]:
    """Names of one kind with the first sentence that each file says of itself."""
    found: dict[str, str] = {}
    if kind in _FILES:
        for path in sorted(share(kind).iterdir()):
            if path.suffix == ".yaml":
                found[path.stem] = describe(path)
            elif path.is_dir() and (about := path / "README.md").is_file():
                found[path.name] = describe(about)
    for root in [conf_dir(), *map(Path, config_dirs or [])]:
        for folder in root.iterdir() if root.is_dir() else ():
            if folder.is_dir() and _plural(folder.name) == kind:
                for path in sorted(folder.rglob("*.yaml")):
                    found[path.relative_to(folder).with_suffix("").as_posix()] = describe(path)
    return sorted(found.items())


def methods(config_dirs: list[str] | None = None) -> list[tuple[str, str, str]]:
    """Every method, what it does, and what it needs beside questions and answers."""
    from harmonize.reporting import catalogue

    said = dict(
        options("methods", config_dirs)
    )  # a file's own words before those of a method that it builds on
    found = catalogue.methods(config_dirs or ())
    return [(m.name, said.get(m.name) or m.says("description"), ", ".join(m.needs)) for m in found]


def describe(path: Path) -> str:
    """The description of a file: its `description:` key, else its first line of prose."""
    first = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("description:"):
            return line.partition(":")[2].strip().strip("\"'")
        text = line.lstrip("#").strip()
        prose = path.suffix == ".md" or (line.startswith("#") and not text.startswith("@package"))
        first = first or (text if prose else "")
    return first


def _plural(group: str) -> str:
    """`method` is listed as `methods`, `hparams_search` as it is."""
    if group.endswith(("s", "search")):
        return group
    return group + "s"


def _print(kind: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        print(f"No {kind} yet.")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(highlight=False).print(table)
