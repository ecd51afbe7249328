"""`harmonize profile overrides`: where the time and memory of a training step go."""

from __future__ import annotations

from pathlib import Path

from harmonize.commands.runs import Arguments, split_arguments
from harmonize.errors import ConfigError, HarmonizeError

_HELP = """\
Usage: harmonize profile [--steps N] [--out FOLDER] [overrides of unlearn]

Takes a few training steps of the run that the overrides describe, and prints where a step's time and memory go (data,
student forward, head and loss, backward, optimiser, logging), with predicted FLOPs beside what was achieved. The folder
(<paths.runs>/profile by default) gets the table and a trace of one step for chrome://tracing or Perfetto. Nothing is
evaluated, and no model is kept. Rows of data are not written, but the teacher's cache is, where a run's is.

Examples
  harmonize profile
  harmonize profile method=npo dataset=tofu dataset.root=<folder> model=hf model.name_or_path=<folder> peft=lora
"""


def run(argv: list[str]) -> int:
    """Profiles one configuration.

    Raises:
        HarmonizeError: A wrong argument or configuration.
    """
    if "-h" in argv or "--help" in argv:
        print(_HELP)
        return 0
    own, rest = _own(argv)
    arguments: Arguments = split_arguments(rest)
    if arguments.has(frozenset({"-m", "--multirun"})):
        raise ConfigError("harmonize profile takes one configuration, no sweep. Leave -m out.")
    try:
        steps = int(own.get("--steps", "10"))
    except ValueError:
        steps = 0
    if steps < 1:
        raise HarmonizeError(
            f"--steps {own['--steps']}: give a whole number of at least 1, such as --steps 10."
        )
    arguments.grant()
    from harmonize.config.compose import compose_config

    cfg = compose_config("unlearn", arguments.overrides, config_dirs=arguments.config_dirs)
    folder = Path(own.get("--out") or Path(cfg.paths.runs) / "profile")
    from harmonize.unlearning import profiling

    profiling.report(profiling.run(cfg, folder, steps), folder)
    return 0


def _own(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """(flags of this command with their values, the rest)."""
    found: dict[str, str] = {}
    rest: list[str] = []
    items = iter(argv)
    for item in items:
        name, equals, value = item.partition("=")
        if name not in ("--steps", "--out"):
            rest.append(item)
            continue
        if not equals:
            value = next(items, "")
        if not value:
            raise HarmonizeError(f"{name} needs a value. Write {name} <value>.")
        found[name] = value
    return found, rest
