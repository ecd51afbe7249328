"""`harmonize purge FOLDER`: removes samples, resume checkpoints, W&B files, and caches that tell of the data."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from harmonize.commands.arguments import Parser, agreed
from harmonize.commands.report import PAGE_WITH_SAMPLES
from harmonize.config.paths import cache_dir
from harmonize.errors import RunError


def run(argv: list[str]) -> int:
    """Lists, asks, removes.

    Raises:
        RunError: No run there, nobody to ask, or a file that cannot be removed.
    """
    parser = Parser(
        "purge",
        "Removes the sensitive files of a run, or of every run of a study. Results and the exported model stay.",
        "  harmonize purge runs/first\n  harmonize purge runs/first --list\n  harmonize purge runs/first --yes",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="run or study folders")
    parser.add_argument(
        "--cache-dir", type=Path, help="the runs' paths.cache_dir, where it was set by an override"
    )
    parser.add_argument("--list", "--dry-run", action="store_true", help="only list them")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    given = parser.parse(argv)
    ours, foreign = sensitive(given.folders, given.cache_dir or cache_dir())
    for path in foreign:
        print(f"Left alone (outside the run and the cache directory): {path}", file=sys.stderr)
    if foreign:
        print("Where another cache directory was used, name it: --cache-dir <folder>", file=sys.stderr)
    if not ours:
        print("Nothing sensitive is left there.")
        return 0
    for path in ours:
        print(path)
    if given.list:
        return 0
    if not given.yes and not agreed(f"Remove these {len(ours)}? Caches are shared by runs of the same data."):
        print("Nothing was removed.")
        return 1
    for path in ours:
        _remove(path)
    print(f"Removed {len(ours)}.")
    return 0


def sensitive(folders: list[Path], cache: Path) -> tuple[list[Path], list[Path]]:
    """What may be removed, and what a status file names elsewhere (a status file is no warrant to delete).

    Raises:
        RunError: A folder without a run.
    """
    from harmonize.tracking.run_folder import sensitive_files

    ours: dict[Path, None] = {}
    foreign: dict[Path, None] = {}
    for folder in folders:
        runs = sorted({p.parent for p in folder.rglob("status.json")}) if folder.is_dir() else []
        if not runs:
            raise RunError(
                f"{folder}: no run is there. Give a run folder, or a study folder such as runs/first."
            )
        page = folder / "report" / PAGE_WITH_SAMPLES
        if page.is_file():
            ours[page] = None
        for run_folder in runs:
            homes = (run_folder.resolve(), cache.expanduser().resolve())
            for path in sensitive_files(run_folder):
                inside = any(home in path.resolve().parents for home in homes)
                (ours if inside else foreign)[path] = None
    return list(ours), list(foreign)


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be removed ({error.strerror}). The ones listed before it are gone."
        ) from error
