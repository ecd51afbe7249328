"""The terminal: one rich console, one kind of progress bar, plain text where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# bars and notices go to stderr, so that a table on stdout can be piped
console = Console(stderr=True, highlight=False)


def progress_bar(extra: str | None = None) -> Progress:
    """A bar with count, elapsed time and ETA; leaves nothing behind when it is done.

    Args:
        extra: A further column in rich's format, such as `loss {task.fields[loss]}`.
    """
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    ]
    if extra:
        columns.append(TextColumn(extra))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def counted(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar moved by the callback (done, total) that it yields."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(text: str) -> None:
    """One line of what is going on."""
    console.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """One line that the user should not miss."""
    console.print("Warning: " + text, style="yellow", markup=False, soft_wrap=True)
