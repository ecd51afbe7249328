"""`harmonize sweep NAME`: runs what is missing of a sweep, skips what is done, and records what it chooses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.commands.arguments import Parser
from harmonize.errors import ConfigError

if TYPE_CHECKING:
    from harmonize.sweeps.board import Board
    from harmonize.sweeps.choose import Verdict
    from harmonize.sweeps.plan import Job, Sweep
    from harmonize.sweeps.queue import Entry, Queue

RECORD = "chosen.json"
_POLL_SECONDS = 2.0


def run(argv: list[str]) -> int:
    """Runs a sweep. Returns 1 if a job failed.

    Raises:
        ConfigError: An unknown sweep, or a job that cannot be composed.
        Interrupted: Ctrl-C; the same command goes on where it stopped.
    """
    parser = Parser(
        "sweep",
        "Runs a file of sweeps/ or experiments/: what is missing, not what is done. Stop and start it at any time, or "
        "start it several times at once over the same folder.",
        "  harmonize sweep tune_sandbox --jobs 2\n  harmonize sweep data_ablation seed=0\n"
        "  harmonize sweep mine.yaml --list",
    )
    parser.add_argument("name", help="a sweep or experiment (harmonize ls sweeps), or a file of your own")
    parser.add_argument("overrides", nargs="*", help="overrides of every job, in place of the file's own")
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--study", help="name of the study (default: the sweep's)")
    parser.add_argument("--profile", help="of an experiment that has several (default: its first, sandbox)")
    parser.add_argument("--jobs", type=int, default=1, help="processes on this machine (default: 1)")
    parser.add_argument(
        "--retries", type=int, default=1, help="further tries of a job that failed (default: 1)"
    )
    parser.add_argument("--list", action="store_true", help="print the jobs and how they stand, run none")
    parser.add_argument(
        "--write", metavar="FOLDER", help="tuning: write what was chosen as options, such as conf/tuned"
    )
    parser.add_argument("--config-dir", action="append", default=[], help="a folder of your own options")
    parser.add_argument("--allow", action="append", default=[], help="packages that a _target_ may name")
    parser.add_argument("--quiet", action="store_true", help="show nothing while it runs")
    given = parser.parse(argv)
    if given.jobs < 1:
        raise ConfigError(
            f"--jobs {given.jobs}: expected a whole number of at least 1. For example --jobs 2."
        )
    if given.allow:
        granted = [*filter(None, [os.environ.get("HARMONIZE_ALLOW")]), *given.allow]
        os.environ["HARMONIZE_ALLOW"] = ",".join(granted)

    from harmonize.sweeps.plan import load_sweep
    from harmonize.sweeps.queue import Queue
    from harmonize.warm import kept

    sweep = load_sweep(given.name, given.profile)
    if given.write and not sweep.tunes:
        raise ConfigError(
            f"--write: the sweep '{sweep.name}' chooses nothing (it has no trials). Leave --write out."
        )
    folder = Path(given.runs) / (given.study or sweep.study)
    queue = Queue(folder, given.retries, given.config_dir)
    mask = os.umask(0o077)  # what a model says about forgotten things is for its owner alone
    try:
        if given.list:
            return _list(sweep, queue, given.overrides)
        _note(folder, sweep, given)
        helpers = [_helper(argv) for _ in range(given.jobs - 1)]
        try:
            with kept():
                failed = _go(sweep, queue, given)
        finally:
            for helper in helpers:
                helper.terminate()  # a job of theirs stops at its next step and is resumed next time
            for helper in helpers:
                helper.wait()
    finally:
        os.umask(mask)
    return 1 if failed else 0


def _note(folder: Path, sweep: Sweep, given: Any) -> None:
    """Says in the study's folder which experiment its runs are of, if any."""
    from harmonize.reporting.experiment import experiments, write_record
    from harmonize.tracking.files import make_folder

    if given.name in experiments():
        write_record(make_folder(folder), given.name, sweep.profile, given.overrides)


def _helper(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    """A further process of the same sweep."""
    rest = [*argv, "--jobs", "1", "--quiet"]
    return subprocess.Popen([sys.executable, "-m", "harmonize", "sweep", *rest], stdout=subprocess.DEVNULL)


def _go(sweep: Sweep, queue: Queue, given: Any) -> int:
    """Runs everything; returns how many jobs failed."""
    from harmonize.sweeps.board import Board

    with Board(sweep.name, given.quiet) as board:
        if sweep.tunes:
            failed, rounds = _tune(sweep, queue, given.overrides, board)
        else:
            entries = _work(queue, sweep.jobs(given.overrides), board)
            failed, rounds = sum(e.state == "failed" for e in entries), []
    board.say(
        f"Study: {queue.study}" + (f" ({failed} failed; see log.txt in their folders)" if failed else "")
    )
    if sweep.tunes and not given.quiet:
        _record(sweep, queue, rounds, given.write, board)
    elif not sweep.tunes:
        board.say(f"Next: harmonize reproduce-paper-table --study {queue.study}")
    return failed


def _work(queue: Queue, jobs: Sequence[Job], board: Board) -> list[Entry]:
    """Runs what is waiting until nothing waits or runs, here or in another process."""
    from harmonize.sweeps.queue import DONE, RUNNING, WAITING

    entries = queue.entries(jobs, board.composing)
    told = {id(e) for e in entries if e.state == DONE}
    while True:
        for entry in entries:
            queue.refresh(entry)
            if entry.state == DONE and id(entry) not in told:
                told.add(id(entry))
                board.finished(entry, entries)
        board.show(entries)
        # what failed before comes last, so that a broken job holds up no other
        waiting = sorted((e for e in entries if e.state == WAITING), key=lambda e: e.tries)
        if waiting:
            began = time.perf_counter()
            board.show(entries, waiting[0])
            queue.run(waiting[0])
            if waiting[0].state == DONE:
                told.add(id(waiting[0]))
            board.finished(waiting[0], entries, began)
        elif any(e.state == RUNNING for e in entries):
            time.sleep(_POLL_SECONDS)
        else:
            return entries


def _tune(
    sweep: Sweep, queue: Queue, extra: Sequence[str], board: Board
) -> tuple[int, list[dict[str, list[Verdict]]]]:
    """Every round of a tuning; returns the jobs that failed and the verdicts of each round."""
    from harmonize.sweeps.choose import judge, ranked

    left = {method: list(range(len(trials))) for method, trials in sweep.trials.items()}
    rounds: list[dict[str, list[Verdict]]] = []
    failed = 0
    for number, part in enumerate(sweep.rounds):
        entries = _work(queue, sweep.round_jobs(number, left, extra), board)
        failed += sum(e.state == "failed" for e in entries)
        verdicts: dict[str, list[Verdict]] = {}
        for method, trials in left.items():
            mine = [e for e in entries if e.job.method == method]
            verdicts[method] = [judge(t, [e.results() for e in mine if e.job.trial == t]) for t in trials]
        rounds.append(verdicts)
        left = {m: sorted(v.trial for v in ranked(found)[: part.keep]) for m, found in verdicts.items()}
        board.say(f"{sweep.name}: round {number + 1} of {len(sweep.rounds)} is done ({len(entries)} runs).")
    return failed, rounds


def _record(
    sweep: Sweep, queue: Queue, rounds: list[dict[str, list[Verdict]]], write: str | None, board: Board
) -> None:
    from harmonize.sweeps.choose import record
    from harmonize.sweeps.write import write_tuned
    from harmonize.tracking.environment import git_state
    from harmonize.tracking.run_folder import RunFolder

    commit = (git_state() or {}).get("commit")
    found = record(sweep.name, commit, rounds, sweep.trials)
    board.say(f"Wrote {RunFolder(queue.study, command='').write_json(RECORD, found)}")
    if write:
        for path in write_tuned(found, Path(write) / sweep.tuned):
            board.say(f"Wrote {path}")
    else:
        board.say(f"Next: harmonize sweep {sweep.name} --write conf/tuned")


def _list(sweep: Sweep, queue: Queue, extra: Sequence[str]) -> int:
    """Prints the jobs (of a tuning: of its first round) and how they stand."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    first = {method: range(len(trials)) for method, trials in sweep.trials.items()}
    jobs = sweep.round_jobs(0, first, extra) if sweep.tunes else sweep.jobs(extra)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("state", no_wrap=True)
    table.add_column("overrides", overflow="fold")
    for entry in queue.entries(jobs):
        table.add_row(entry.state, Text(" ".join(entry.job.overrides)))
    Console(highlight=False).print(table)
    return 0
