"""`harmonize reproduce-paper-table`: runs or collects a study and prints its table beside the published numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harmonize.config.paths import share
from harmonize.errors import ConfigError, Interrupted, RunError, did_you_mean
from harmonize.reporting.effects import EffectTable, effects, factors_of, print_effects
from harmonize.reporting.published import Published, load_published, load_yaml
from harmonize.reporting.spread import spread_lines
from harmonize.reporting.study import Study, latest_study, load_study
from harmonize.reporting.table import Table, build_tables, compare
from harmonize.reporting.writers import print_published, print_tables, to_csv, to_latex, to_markdown
from harmonize.tracking.files import make_folder, write_text
from harmonize.tracking.sequence import SEQUENCE

FORMATS = ("md", "tex", "csv", "png")
_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    found = argparse.ArgumentParser(
        prog="harmonize reproduce-paper-table",
        description="Print a study as a five-axis table (mean and spread over seeds) beside the published numbers.",
        epilog="Examples: harmonize reproduce-paper-table | ... --study runs/main_table | ... --run seed=0,1",
    )
    found.add_argument("--study", help="a study's folder, or its name below --runs (default: the latest)")
    found.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    found.add_argument("--out", help="where the report goes (default: <study>/report)")
    found.add_argument(
        "--format", action="append", choices=FORMATS, help="write only this; may be repeated (default: all)"
    )
    found.add_argument(
        "--experiment", default="main_table", help="a folder of experiments/ (default: main_table)"
    )
    found.add_argument("--run", action="store_true", help="run what is missing of the experiment first")
    found.add_argument(
        "--jobs", type=int, default=1, help="with --run: processes on this machine (default: 1)"
    )
    found.add_argument(
        "overrides", nargs="*", help="with --run: overrides of every job, such as dataset=sandbox_easy"
    )
    return found


def main(argv: list[str] | None = None) -> int:
    """Runs or collects a study (or a sequence), prints the table, writes the report. Returns the exit code.

    Raises:
        RunError: No runs, or a folder that cannot be read or written.
        ConfigError: An unknown experiment, or overrides without --run.
    """
    options = parser().parse_args(argv)
    experiment, published = load_experiment(options.experiment)
    if options.overrides and not options.run:
        raise ConfigError(
            f"{options.overrides[0]}: overrides need --run. To name a study give --study {options.overrides[0]}"
        )
    failed = False
    if options.run:
        name = Path(options.study).name if options.study else str(experiment["study"])
        failed = run_experiment(options.experiment, name, Path(options.runs), options.jobs, options.overrides)
        folder = Path(options.runs) / name
        if failed and not folder.is_dir():
            return 1  # no job started; the sweep has said why
    else:
        folder = study_folder(options.study, Path(options.runs))
    if (folder / SEQUENCE).is_file():
        return show_sequence(folder, options.out)
    study = load_study(folder, order=[str(m) for m in experiment["sweep"].get("method", [])])
    report(study, experiment, published, options.out, options.format or list(FORMATS))
    return 1 if failed else 0


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


def load_experiment(name: str) -> tuple[dict[str, Any], list[Published]]:
    """`experiment.yaml` and the published figures of a folder of experiments/.

    Raises:
        ConfigError: No such experiment (the nearest is named).
        RunError: A file of it cannot be read.
    """
    root = share("experiments")
    known = sorted(place.parent.name for place in root.glob("*/experiment.yaml"))
    if name not in known:
        raise ConfigError(f"No experiment '{name}'. {did_you_mean(name, known)}")
    path = root / name / "experiment.yaml"
    experiment = load_yaml(path)
    if not isinstance(experiment, dict) or not isinstance(experiment.get("sweep"), dict):
        raise RunError(f"{path}: expected a mapping with a 'sweep'.")
    published = root / name / str(experiment.get("published", "published.yaml"))
    return experiment, load_published(published) if published.is_file() else []


def run_experiment(name: str, study: str, runs: Path, jobs: int, overrides: list[str]) -> bool:
    """Runs what is missing of an experiment (`harmonize sweep`); True if a job failed (the others count all the same).

    Raises:
        Interrupted: Ctrl-C; the same command goes on where it stopped.
    """
    from harmonize import cli

    try:
        cli.main(["sweep", name, "--study", study, "--runs", str(runs), "--jobs", str(jobs), *overrides])
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            raise Interrupted(
                "Interrupted. The same command goes on where it stopped; see what is finished with: "
                f"harmonize reproduce-paper-table --study {runs / study}"
            ) from end
        return bool(end.code)
    return False


def study_folder(name: str | None, runs: Path) -> Path:
    """The folder of a study that is named by its path or by its name below `runs`; without a name the latest.

    Raises:
        RunError: There is none (the nearest name is told).
    """
    if name is None:
        return latest_study(runs)
    for place in (Path(name), runs / name):
        if place.is_dir():
            return place
    known = [place.name for place in runs.iterdir() if place.is_dir()] if runs.is_dir() else []
    raise RunError(f"No study '{name}': neither a folder nor one below {runs}. {did_you_mean(name, known)}")


def report(
    study: Study,
    experiment: dict[str, Any],
    published: list[Published],
    out: str | None = None,
    formats: list[str] | None = None,
) -> list[Path]:
    """Prints a study's tables and writes the report files; returns their paths.

    Raises:
        RunError: The study has no run that can be shown, or the report cannot be written.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    tables = build_tables(study)
    for path, reason in study.problems:
        console.print(Text(f"Left out: {path}: {reason}", style="yellow"), soft_wrap=True)
    for note in study.notes:
        console.print(Text(note, style="yellow"))
    if not tables:
        raise RunError(
            f"{study.path}: no finished runs found{_among(study)}. Make some with: harmonize unlearn -m "
            f"method=bidirectional,duet seed=0,1 study={study.path.name}"
        )
    print_tables(tables, console)
    claims = claim_lines(experiment, tables) + spread_lines(experiment.get("spread"), tables)
    for line in claims:
        console.print(Text(line))
    if claims:
        console.print()
    added = effects(study, factors_of(experiment.get("effects")))
    print_effects(added, console)
    print_published(published, console)
    paths = write_report(study, tables, published, claims, out, formats or list(FORMATS), added)
    for path in paths:
        console.print(Text(f"Wrote {path}"), soft_wrap=True)
    last = study.runs[-1].path
    console.print(Text(f"Next: look at single answers in {last / 'samples.jsonl'}"), soft_wrap=True)
    return paths


def _among(study: Study) -> str:
    left = len(study.problems) + len(study.notes)
    return f" (left out: {left}, named above)" if left else ""


def claim_lines(experiment: dict[str, Any], tables: list[Table]) -> list[str]:
    """What our tables say about the experiment's claims."""
    lines = []
    for table in tables:
        for claim in experiment.get("claims") or []:
            found = compare(
                table, claim["metric"], claim["method"], claim["against"], lower=claim["better"] == "lower"
            )
            where = f" ({table.title})" if len(tables) > 1 else ""
            lines.append(f"Claim{where}: {claim['text']} On {claim['metric']}: {found}.")
    return lines


def write_report(
    study: Study,
    tables: list[Table],
    published: list[Published],
    claims: list[str],
    out: str | None,
    formats: list[str],
    added: list[EffectTable] | None = None,
) -> list[Path]:
    """Writes the report files into `out` (default: the study's `report/`)."""
    folder = make_folder(Path(out) if out else study.path / "report")
    paths = []
    if "md" in formats:
        paths.append(
            write_text(folder / "table.md", to_markdown(study, tables, published, claims, added or []))
        )
    if "tex" in formats:
        paths.append(write_text(folder / "table.tex", to_latex(tables, published)))
    if "csv" in formats:
        paths.append(write_text(folder / "table.csv", to_csv(tables)))
    if "png" in formats:
        from harmonize.reporting.radar import draw_radar, write_radar_csv

        for number, table in enumerate(tables):
            suffix = "" if number == 0 else f"_{number + 1}"
            paths.append(draw_radar(table, folder / f"radar{suffix}.png"))
            paths.append(write_radar_csv(table, folder / f"radar{suffix}.csv"))
    return paths
