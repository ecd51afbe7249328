"""The command line."""

from __future__ import annotations


def main() -> None:
    """The `harmonize` command."""
    raise SystemExit("not built yet")


def reproduce_paper_table() -> None:
    """The `reproduce-paper-table` command."""
    raise SystemExit("not built yet")
