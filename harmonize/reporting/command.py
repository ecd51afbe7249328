"""`harmonize reproduce-paper-table`: runs or collects a study and prints its table beside the published numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from harmonize.errors import ConfigError, Interrupted, RunError, did_you_mean
from harmonize.reporting.experiment import Experiment, experiment_of, load_experiment
from harmonize.reporting.members import demands, job_of, missing_note
from harmonize.reporting.report import FORMATS, report
from harmonize.reporting.study import Study, StudyRun, latest_study, load_study
from harmonize.tracking.files import make_folder
from harmonize.tracking.sequence import SEQUENCE

MAIN = "main_books"
_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    found = argparse.ArgumentParser(
        prog="harmonize reproduce-paper-table",
        description="Print a study as a table (mean and spread over seeds) beside the published numbers.",
        epilog="Examples: harmonize reproduce-paper-table | ... --study runs/main_books | ... --run seed=0,1 | "
        "... --experiment duet_wmdp --profile full | ... --verdicts",
    )
    found.add_argument("--study", help="a study's folder, or its name below --runs (default: the latest)")
    found.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    found.add_argument("--out", help="where the report goes (default: <study>/report)")
    found.add_argument(
        "--format", action="append", choices=FORMATS, help="write only this; may be repeated (default: all)"
    )
    found.add_argument(
        "--experiment",
        help=f"a folder of experiments/ (default: the one that the study is of; with --run or --profile {MAIN})",
    )
    found.add_argument(
        "--profile",
        help="sandbox (the default): minutes on a CPU; full: real models and data, says first what is missing",
    )
    found.add_argument("--run", action="store_true", help="run what is missing of the experiment first")
    found.add_argument(
        "--jobs", type=int, default=1, help="with --run: processes on this machine (default: 1)"
    )
    found.add_argument(
        "--verdicts", action="store_true", help="judge the paper's claims from the studies below --runs"
    )
    found.add_argument(
        "overrides", nargs="*", help="with --run: overrides of every job, such as dataset=sandbox_easy"
    )
    return found


def main(argv: list[str] | None = None) -> int:
    """Runs or collects a study (or a sequence), prints the table, writes the report. Returns the exit code.

    Raises:
        RunError: No runs, runs of another experiment, missing data or weights, or a folder that cannot be used.
        ConfigError: An unknown experiment or profile, or overrides that nothing takes.
    """
    options = parser().parse_intermixed_args(argv)
    if options.verdicts:
        return show_verdicts(
            Path(options.runs), options.out, options.profile, options.format or list(FORMATS)
        )
    name = options.experiment or (MAIN if options.run or options.profile else None)
    experiment = load_experiment(name, options.profile, options.overrides) if name else None
    planned = experiment is not None and bool(experiment.found.get("needs"))
    if options.overrides and not (options.run or planned):
        raise ConfigError(
            f"{options.overrides[0]}: overrides need --run. To name a study give --study {options.overrides[0]}"
        )
    runs = Path(options.runs)
    study = Path(options.study).name if options.study else experiment.study if experiment else ""
    failed = False
    if experiment and planned:
        show_plan(experiment, runs, options.run)
        if not options.run and not options.study and not (runs / study).is_dir():
            return 0
    if experiment and options.run:
        failed = run_experiment(experiment, study, runs, options.jobs)
        folder = runs / study
        if failed and not folder.is_dir():
            return 1  # no job started; the sweep has said why
    else:
        folder = study_folder(options.study, runs, experiment)
    if (folder / SEQUENCE).is_file():
        return show_sequence(folder, options.out)
    if not options.run:
        experiment = experiment_of(folder, name, options.profile) or experiment
    if experiment and not name and not _any_of(folder, experiment):
        experiment = None  # a study of that name, but of other runs
    report(collect(folder, experiment), experiment, options.out, options.format or list(FORMATS))
    return 1 if failed else 0


def _any_of(folder: Path, experiment: Experiment) -> bool:
    wanted = [demands(job) for job in experiment.jobs]
    return bool(load_study(folder, keep=lambda run: job_of(run, wanted) is not None).runs)


def collect(folder: Path, experiment: Experiment | None) -> Study:
    """The runs of a folder that are of the experiment, with a note on those that are missing; all without one.

    Raises:
        RunError: None of its runs is of the experiment.
    """
    if experiment is None:
        return load_study(folder)
    wanted = [demands(job) for job in experiment.jobs]
    there: set[int] = set()
    foreign: list[StudyRun] = []

    def keep(run: StudyRun) -> bool:
        place = job_of(run, wanted)
        if place is None:
            foreign.append(run)
        else:
            there.add(place)
        return place is not None

    study = load_study(folder, experiment.order, keep, experiment.labels)
    if foreign and not there:
        other = experiment_of(folder)
        about = f"'{experiment.name}'" + (f", profile {experiment.profile}" if experiment.profile else "")
        told = f"They are of '{other.name}'. " if other and other.name != experiment.name else ""
        raise RunError(
            f"{folder}: none of its {len(foreign)} runs is of experiment {about}. {told}See them with: "
            f"reproduce-paper-table --study {folder}, or make runs of it: {experiment.typed('--run')}"
        )
    if note := missing_note(experiment.name, experiment.jobs, there):
        study.notes.append(note)
    return study


def show_plan(experiment: Experiment, runs: Path, run: bool) -> None:
    """Prints what the profile needs and costs, and how to get what is missing.

    Raises:
        RunError: It is to be run, and something is missing.
    """
    from rich.console import Console
    from rich.text import Text

    from harmonize.reporting.grid import print_grid
    from harmonize.reporting.needs import grids, instructions, plan, refusal

    found = plan(experiment, runs)
    if found is None:
        return
    console = Console(highlight=False)
    for grid in grids(found):
        print_grid(grid, console)
    if not (run and not found.missing):
        for line in instructions(found):
            console.print(Text(line), soft_wrap=True)
    if run and found.missing:
        raise RunError(refusal(found))


def show_verdicts(runs: Path, out: str | None, profile: str | None, formats: list[str]) -> int:
    """Prints the verdicts on the paper's claims and writes them. Returns the exit code.

    Raises:
        RunError: There is no folder of studies, or the files cannot be written.
    """
    from rich.console import Console

    from harmonize.reporting.grid import print_grid
    from harmonize.reporting.verdicts import details, judge_claims, load_claims, summary
    from harmonize.reporting.verdicts_page import write_verdicts

    if not runs.is_dir():
        raise RunError(f"{runs}: no such folder of studies. Give one with --runs <folder>.")
    judged = judge_claims(load_claims(), runs, profile)
    console = Console(highlight=False)
    for grid in (summary(judged), *details(judged)):
        print_grid(grid, console)
    for path in write_verdicts(judged, make_folder(Path(out) if out else runs / "verdicts"), formats):
        print(f"Wrote {path}")
    return 0


def show_sequence(folder: Path, out: str | None = None) -> int:
    """Prints the table of a sequence of requests, and writes it again. Returns the exit code.

    Raises:
        RunError: The sequence cannot be read, has no step yet, or the files cannot be written.
    """
    from harmonize.reporting.sequence import print_sequence, write_sequence
    from harmonize.tracking.sequence import read_sequence

    record = read_sequence(folder)
    if not record.steps:
        raise RunError(
            f"{folder}: no request of this sequence has been forgotten yet. Go on with resume=true."
        )
    print_sequence(record)
    for path in write_sequence(record, make_folder(Path(out)) if out else folder):
        print(f"Wrote {path}")
    return 0


def run_experiment(experiment: Experiment, study: str, runs: Path, jobs: int) -> bool:
    """Runs what is missing of an experiment (`harmonize sweep`); True if a job failed (the others count all the same).

    Raises:
        Interrupted: Ctrl-C; the same command goes on where it stopped.
    """
    from harmonize import cli

    profile = ["--profile", experiment.profile] if experiment.profile else []
    given = ["--study", study, "--runs", str(runs), "--jobs", str(jobs)]
    try:
        cli.main(["sweep", experiment.name, *profile, *given, *experiment.overrides])
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            raise Interrupted(
                "Interrupted. The same command goes on where it stopped; see what is finished with: "
                f"harmonize reproduce-paper-table --study {runs / study}"
            ) from end
        return bool(end.code)
    return False


def study_folder(name: str | None, runs: Path, experiment: Experiment | None = None) -> Path:
    """The folder of a study that is named by its path or by its name below `runs`; without a name the latest.

    Args:
        experiment: Where no name is given, the study that holds its runs.

    Raises:
        RunError: There is none (the nearest name is told).
    """
    if name is None and experiment is None:
        return latest_study(runs)
    if name is None and experiment is not None:
        if (runs / experiment.study).is_dir():
            return runs / experiment.study
        raise RunError(
            f"{runs / experiment.study}: no runs of '{experiment.name}' yet. Make them with: "
            f"{experiment.typed('--run')}, or name a folder of such runs with --study <folder>."
        )
    assert name is not None
    for place in (Path(name), runs / name):
        if place.is_dir():
            return place
    known = [place.name for place in runs.iterdir() if place.is_dir()] if runs.is_dir() else []
    raise RunError(f"No study '{name}': neither a folder nor one below {runs}. {did_you_mean(name, known)}")
