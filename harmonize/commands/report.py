"""`harmonize report STUDY`: a study as one HTML page that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.commands.arguments import Parser
from harmonize.errors import RunError

if TYPE_CHECKING:
    from harmonize.reporting.experiment import Experiment
    from harmonize.reporting.study import Study

PAGE = "report.html"
PAGE_WITH_SAMPLES = "report_samples.html"  # `harmonize purge` removes it


def run(argv: list[str]) -> int:
    """Writes the page.

    Raises:
        RunError: No such study, nothing in it to show, or a place that cannot be written.
        ConfigError: An unknown experiment.
        UsageError: A mistyped option.
    """
    parser = Parser(
        "report",
        "Writes a study as one HTML page that needs no network: tables, radar, Pareto front, curves, attacks, gradient "
        "conflict, worst questions, and what was run.",
        "  harmonize report runs/first\n  harmonize report first --out first.html\n"
        "  harmonize report first --samples       with what was asked and said (sensitive)\n"
        "  harmonize report first --wandb my-team/harmonize",
    )
    parser.add_argument(
        "study", nargs="?", help="a study's folder, or its name below --runs (default: the latest)"
    )
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"FILE.html (default: <study>/report/{PAGE}; {PAGE_WITH_SAMPLES} with --samples)",
    )
    parser.add_argument(
        "--samples",
        action="store_true",
        help="show what was asked and said; the page is then as sensitive as samples.jsonl",
    )
    parser.add_argument(
        "--experiment",
        help="a folder of experiments/ for its factors, claims and published figures (default: that of the study)",
    )
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="also save a W&B workspace for the study's runs (goes to the network)",
    )
    given = parser.parse(argv)
    _check(given)

    from harmonize.reporting.command import study_folder
    from harmonize.reporting.page.write import write_page
    from harmonize.reporting.study import load_study

    folder = study_folder(given.study, Path(given.runs))
    experiment = _experiment(given.experiment, folder)
    if experiment:
        study = load_study(folder, experiment.order, labels=experiment.labels)
    else:
        study = load_study(folder)
    _say_problems(study)
    out = given.out or folder / "report" / (PAGE_WITH_SAMPLES if given.samples else PAGE)
    path = write_page(study, out, with_text=given.samples, experiment=experiment)
    sensitive = " (sensitive: what was to be forgotten stands in it)" if given.samples else ""
    print(f"Wrote {path}{sensitive}")
    print(
        "Next: open it in a browser" + ("" if given.samples else "; --samples adds what was asked and said")
    )
    return 0


def _group(study: Study) -> str:
    """The W&B group of a study's runs."""
    flat = study.runs[0].flat
    chosen = flat.get("logger.wandb.group", "null")
    return flat.get("study", study.path.resolve().name) if chosen == "null" else chosen


def _check(given: Any) -> None:
    from harmonize.cli import UsageError

    if given.out is not None and given.out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {given.out}: the name must end with .html.")


def _experiment(name: str | None, folder: Path) -> Experiment | None:
    """The experiment that was named, or the one that the study is of, if there is one.

    Raises:
        ConfigError: No such experiment.
    """
    from harmonize.reporting.experiment import experiment_of, load_experiment

    if name is None:
        return experiment_of(folder.resolve())
    return experiment_of(folder.resolve(), load_experiment(name).name)


def _say_problems(study: Study) -> None:
    """How many runs are left out; the page names them. With nothing to show the reasons are all there is to say.

    Raises:
        RunError: No run can be shown.
    """
    if not study.runs:
        reasons = [f"{path}: {reason}" for path, reason in study.problems[:5]] + study.notes[:5]
        more = len(study.problems) + len(study.notes) - len(reasons)
        told = "".join(f"\n  {line}" for line in reasons) + (f"\n  and {more} more" if more > 0 else "")
        raise RunError(
            f"{study.path}: no finished runs found. Make some with: harmonize unlearn -m method=bidirectional,duet "
            f"seed=0,1 study={study.path.resolve().name}{told}"
        )
    if study.problems:
        print(f"{len(study.problems)} run(s) left out; the page names them.")
