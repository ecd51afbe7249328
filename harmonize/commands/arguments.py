"""An argument parser whose mistakes are our usage errors."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from harmonize.errors import RunError


class Parser(argparse.ArgumentParser):
    """argparse with our error style and a help text that ends with examples."""

    def __init__(self, command: str, description: str, examples: str = "") -> None:
        super().__init__(
            prog=f"harmonize {command}",
            description=description,
            epilog=f"Examples\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage.

        Raises:
            UsageError: Always.
        """
        from harmonize.cli import UsageError

        raise UsageError(f"{message}. See {self.prog} --help.")

    def parse(self, argv: list[str]) -> Any:
        """The parsed arguments; options may stand between those without a name."""
        return self.parse_intermixed_args(argv)


def agreed(question: str) -> bool:
    """Asks whether to remove something.

    Raises:
        RunError: There is no terminal.
    """
    if not sys.stdin.isatty():
        raise RunError("There is nobody to ask. Add --yes to remove them, or --list to only see them.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
