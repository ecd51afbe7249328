"""The command line: finds the sub-command, and turns errors into one clean message and an exit status.

Exit status: 0 done, 1 something went wrong, 2 the command line itself was wrong, 130 interrupted.
Imports are lazy: help and listings start without torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from harmonize.errors import HarmonizeError, Interrupted, nearest

_RUNS = ("unlearn", "sequence", "evaluate", "finetune", "diagnose")

# name -> (module:function, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "unlearn": ("harmonize.commands.runs:run", "unlearn, then evaluate (-m for a sweep)"),
    "sequence": ("harmonize.commands.runs:run", "forget one request, then the next, from the same model"),
    "evaluate": ("harmonize.commands.runs:run", "any checkpoint, any data set, any suite"),
    "finetune": ("harmonize.commands.runs:run", "make a target or gold model"),
    "diagnose": (
        "harmonize.commands.runs:run",
        "do the roles' gradients agree, and how far apart is their data",
    ),
    "prepare": ("harmonize.commands.prepare:run", "corpora -> unified question-answer examples"),
    "reproduce-paper-table": (
        "harmonize.reporting.command:main",
        "a study as a table, beside the published numbers",
    ),
    "report": ("harmonize.commands.report:run", "a study as one HTML page that needs no network"),
    "diff": ("harmonize.commands.diff:run", "two runs side by side: configuration, axes, single answers"),
    "sweep": ("harmonize.commands.sweep:run", "the runs of one question: what is missing, not what is done"),
    "init": ("harmonize.commands.init:run", "a data folder of your own"),
    "ls": (
        "harmonize.commands.ls:run",
        "methods, datasets, models, suites, attacks, sweeps, experiments, caches",
    ),
    "show": (
        "harmonize.commands.show:run",
        "one option of a group: every key, what it computes, needs and costs",
    ),
    "validate": ("harmonize.commands.validate:run", "check a configuration and its data without running it"),
    "profile": (
        "harmonize.commands.profile:run",
        "where the time and memory of a training step go",
    ),
    "clean": (
        "harmonize.commands.clean:run",
        "make room in the cache directory: old caches, leftovers of killed processes",
    ),
    "purge": ("harmonize.commands.purge:run", "remove what a run keeps that is sensitive"),
}

_EXAMPLES = """\
Examples
  harmonize unlearn                                        the sandbox, from nothing to a result
  harmonize unlearn -m method=bidirectional,grad_diff seed=0,1 study=first
  harmonize reproduce-paper-table --study runs/first
  harmonize unlearn dataset=tofu dataset.root=<folder> model=hf model.name_or_path=<folder>
  harmonize unlearn --help                                 groups and keys of a command
  harmonize ls methods
"""


class UsageError(HarmonizeError):
    """The command line itself is wrong (exit status 2)."""


def main(argv: Sequence[str] | None = None) -> None:
    """The `harmonize` command.

    Raises:
        SystemExit: Always, with the exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(guarded(lambda: _dispatch(arguments)))


def reproduce_paper_table(argv: Sequence[str] | None = None) -> None:
    """The `reproduce-paper-table` command, the same as `harmonize reproduce-paper-table`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    main(["reproduce-paper-table", *arguments])


def guarded(action: Callable[[], int | None]) -> int:
    """Runs `action`; errors that a user can mend become one message, our own bugs keep their traceback."""
    try:
        return action() or 0
    except UsageError as error:
        return _say(error, 2)
    except Interrupted as error:
        return _say(error, 130, label="")
    except HarmonizeError as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _say(error: HarmonizeError, status: int, label: str = "Error: ") -> int:
    print(f"{label}{error}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(note, file=sys.stderr)
    return status


def _dispatch(argv: list[str]) -> int | None:
    # `harmonize -m unlearn ...` is as good as `harmonize unlearn -m ...`.
    if any(flag in argv for flag in ("-sc", "--shell-completion")):
        from harmonize.commands.completion import run

        return run(argv)
    place = next((i for i, item in enumerate(argv) if not item.startswith("-")), None)
    if place is None:
        return _without_command(argv)
    name, rest = argv[place], argv[:place] + argv[place + 1 :]
    if name not in COMMANDS:
        raise UsageError(_unknown(name))
    module, _, function = COMMANDS[name][0].partition(":")
    action = getattr(import_module(module), function)
    status = action(name, rest) if name in _RUNS else action(rest)
    return int(status or 0)


def _without_command(argv: list[str]) -> int:
    if "--version" in argv:
        import harmonize

        print(f"harmonize {harmonize.__version__}")
        return 0
    unknown = [flag for flag in argv if flag not in ("-h", "--help")]
    if unknown:
        raise UsageError(f"{unknown[0]}: which command? For example: harmonize unlearn {unknown[0]}")
    print(help_text())
    return 0


def help_text() -> str:
    """What `harmonize --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    head = "Makes a language model forget something on purpose, and shows that it did."
    return "\n".join(
        [head, "", "Usage: harmonize <command> [arguments]", "", "Commands", *lines, "", _EXAMPLES]
    )


def _unknown(name: str) -> str:
    if "=" in name:
        return f"'{name}' is an override, and no command stands before it. Type: harmonize unlearn {name}"
    close = nearest(name, COMMANDS)
    hint = f"Did you mean 'harmonize {close}'? " if close else ""
    return f"'{name}' is no command. {hint}Commands: {', '.join(COMMANDS)}."
