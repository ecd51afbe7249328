"""`harmonize validate [COMMAND] overrides`: everything that can be checked without loading a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonize.commands.runs import Arguments, expand, split_arguments
from harmonize.errors import ConfigError

_HELP = """\
Usage: harmonize validate [unlearn|sequence|evaluate|finetune|prepare] [-m] [overrides]

Composes and checks a configuration (of a sweep, every value), then reads the data and tells what is there.
Nothing is trained, and nothing is written.

Examples
  harmonize validate dataset=local dataset.root=mydata model=hf model.name_or_path=path/to/model
  harmonize validate -m method=bidirectional,grad_diff seed=0,1,2
"""


def run(argv: list[str]) -> int:
    """Prints what would run.

    Raises:
        ConfigError: All problems found.
    """
    from harmonize.config.compose import COMMANDS, compose_config

    if "-h" in argv or "--help" in argv:
        print(_HELP)
        return 0
    command, rest = (argv[0], argv[1:]) if argv and argv[0] in COMMANDS else ("unlearn", argv)
    arguments: Arguments = split_arguments(rest)
    arguments.grant()
    sweep = arguments.has(frozenset({"-m", "--multirun"}))
    jobs = expand(arguments.overrides) if sweep else [arguments.overrides]
    problems: list[str] = []
    composed: list[Any] = []
    for overrides in jobs:
        try:
            composed.append(compose_config(command, overrides, config_dirs=arguments.config_dirs))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    print(f"The configuration of {command} is sound" + (f" ({len(jobs)} variants)." if sweep else "."))
    if command == "prepare":
        _sources(composed[0])
        return 0
    seen: set[str] = set()
    for cfg in composed:
        if (key := str(cfg.dataset)) not in seen:
            seen.add(key)
            _data(cfg)
    return 0


def _sources(cfg: Any) -> None:
    from harmonize.commands.prepare import open_sources

    for name, source in open_sources(cfg).items():
        print(f"{name}: {len(source.files)} file(s), licence: {source.licence or 'unknown'}")
        for note in source.notes:
            print(f"Note: {note}")


def _data(cfg: Any) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from harmonize.data.example import ROLES, Example, Role
    from harmonize.data.read import read_turn
    from harmonize.data.requests import request_ids
    from harmonize.data.split import SPLITS
    from harmonize.reporting.escape import clean

    corpus = read_turn(cfg)
    table = Table(
        title=f"data set {escape(str(cfg.dataset.name))}: examples (subjects)", title_justify="left", box=None
    )
    for column in ("role", *map(str, SPLITS)):
        table.add_column(column, justify="left" if column == "role" else "right")

    def add(name: str, examples: Sequence[Example]) -> None:
        cells = [[e for e in examples if e.split == split] for split in SPLITS]
        table.add_row(name, *(f"{len(c)} ({len({e.subject for e in c})})" for c in cells))

    requests = request_ids(corpus)
    for role in ROLES:
        add(str(role), corpus.select(role))
        if role == Role.FORGET and len(requests) > 1:
            for request in requests:
                own = [e for e in corpus.select(role) if e.request_id == request]
                add(f"  request {escape(clean(request, 24))}", own)
    Console(highlight=False).print(table)
    for note in corpus.notes:
        print(f"Note: {note}")
