"""The report of a study: printed, and written as Markdown, LaTeX, CSV, HTML and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harmonize.errors import RunError
from harmonize.reporting.against import against
from harmonize.reporting.claims import claim_lines
from harmonize.reporting.effects import EffectTable, effects, factors_of, print_effects
from harmonize.reporting.experiment import Experiment
from harmonize.reporting.grid import Grid, print_grid, to_csv
from harmonize.reporting.grid import to_latex as grid_latex
from harmonize.reporting.grid import to_markdown as grid_markdown
from harmonize.reporting.html_report import to_html_page
from harmonize.reporting.markup.document import page, picture
from harmonize.reporting.markup.tables import of_grid
from harmonize.reporting.spread import spread_lines
from harmonize.reporting.study import Study
from harmonize.reporting.table import Table, build_tables
from harmonize.reporting.writers import print_published, print_tables, to_latex, to_markdown
from harmonize.reporting.writers import to_csv as tables_csv
from harmonize.tracking.files import make_folder, write_text

FORMATS = ("md", "tex", "csv", "html", "png", "svg")
FIGURES = ("png", "svg")
_PAPER = "% Needs \\usepackage{booktabs,graphicx}."


def report(
    study: Study, experiment: Experiment | None, out: str | None = None, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Prints a study's tables and writes the report files into `out` (default: the study's `report/`).

    Raises:
        RunError: The study has no run that can be shown, or the report cannot be written.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for path, reason in study.problems:
        console.print(Text(f"Left out: {path}: {reason}", style="yellow"), soft_wrap=True)
    for note in study.notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)
    if not study.runs:
        again = (
            experiment.typed("--run")
            if experiment
            else (f"harmonize unlearn -m method=bidirectional,duet seed=0,1 study={study.path.name}")
        )
        raise RunError(f"{study.path}: no finished runs found{_among(study)}. Make some with: {again}")
    show = _REPORTS[experiment.command if experiment else "unlearn"]
    paths = show(
        study, experiment or Experiment(""), Path(out) if out else study.path / "report", formats, console
    )
    for path in paths:
        console.print(Text(f"Wrote {path}"), soft_wrap=True)
    return paths


def _among(study: Study) -> str:
    left = len(study.problems) + len(study.notes)
    return f" (left out: {left}, named above)" if left else ""


def _title(study: Study, experiment: Experiment) -> str:
    return f"{experiment.name}, {experiment.profile}" if experiment.profile else f"Study {study.path.name}"


def _about(study: Study, experiment: Experiment) -> list[str]:
    """What a page says of itself."""
    found = experiment.found
    lines = [str(found[key]) for key in ("description",) if found.get(key)]
    if found.get("shows"):
        lines.append(f"Stands for: {found['shows']}.")
    return [*lines, f"Study {study.path.name}, {len(study.runs)} runs."]


def _axes(
    study: Study, experiment: Experiment, out: Path, formats: Sequence[str], console: Any
) -> list[Path]:
    """Five-axis tables, what they say of claims and factors, and how they stand to published figures."""
    from rich.text import Text

    found, published = experiment.found, list(experiment.published)
    tables = build_tables(study, experiment.columns)
    print_tables(tables, console)
    grids, said = against(published, tables, experiment.profile) if experiment.name else ([], [])
    claims = claim_lines(found, tables) + spread_lines(found.get("spread"), tables)
    for line in [*claims, *said]:
        console.print(Text(line))
    if claims or said:
        console.print()
    added = effects(study, factors_of(found.get("effects")))
    print_effects(added, console)
    for grid in grids:
        print_grid(grid, console)
    print_published(published, console)
    folder = make_folder(out)
    figures = _radars(tables, folder, [kind for kind in FIGURES if kind in formats])
    title = _title(study, experiment)
    writers: dict[str, Callable[[], str]] = {
        "md": lambda: to_markdown(study, tables, published, claims, added, grids, title, said),
        "tex": lambda: to_latex(tables, published, grids),
        "csv": lambda: tables_csv(tables),
        "html": lambda: _html(study, experiment, tables, claims, added, grids, figures, said),
    }
    paths = [
        write_text(folder / f"table.{kind}", write()) for kind, write in writers.items() if kind in formats
    ]
    if grids and "csv" in formats:
        paths += [write_text(folder / f"against_{i}.csv", to_csv(grid)) for i, grid in enumerate(grids, 1)]
    console.print(
        Text(f"Next: look at single answers in {study.runs[-1].path / 'samples.jsonl'}"), soft_wrap=True
    )
    return [*paths, *figures]


def _html(
    study: Study,
    experiment: Experiment,
    tables: Sequence[Table],
    claims: Sequence[str],
    added: Sequence[EffectTable],
    grids: Sequence[Grid],
    figures: Sequence[Path],
    said: Sequence[str],
) -> str:
    shown = [path for path in figures if path.suffix == ".svg"] or [p for p in figures if p.suffix == ".png"]
    captions = [("Five axes, outward is better", path) for path in shown]
    return to_html_page(
        _title(study, experiment),
        _about(study, experiment),
        study,
        tables,
        experiment.published,
        claims,
        added,
        grids,
        captions,
        said,
    )


def _radars(tables: Sequence[Table], folder: Path, kinds: Sequence[str]) -> list[Path]:
    if not kinds:
        return []
    from harmonize.reporting.radar import draw_radar, write_radar_csv

    paths = []
    for number, table in enumerate(tables):
        name = "radar" if number == 0 else f"radar_{number + 1}"
        paths += draw_radar(table, [folder / f"{name}.{kind}" for kind in kinds])
        paths.append(write_radar_csv(table, folder / f"{name}.csv"))
    return paths


def _similarity(
    study: Study, experiment: Experiment, out: Path, formats: Sequence[str], console: Any
) -> list[Path]:
    """Cosines between the roles' gradients, by loss and form of the data."""
    from harmonize.reporting.similarity import cosines, draw_similarity, similarity_csv, similarity_grid

    blocks = cosines(study)
    title = _title(study, experiment)
    grid = similarity_grid(blocks, title)
    print_grid(grid, console)
    said = [] if experiment.published else against([], build_tables(study), experiment.profile)[1]
    for line in said:
        console.print(line)
    folder = make_folder(out)
    figures = (
        draw_similarity(blocks, folder, [k for k in FIGURES if k in formats])
        if set(formats) & set(FIGURES)
        else []
    )
    shown = [p for p in figures if p.suffix == ".svg"] or [p for p in figures if p.suffix == ".png"]
    notes = [*said, *study.notes, *(f"{path}: {reason}" for path, reason in study.problems)]
    grid = Grid(grid.title, grid.heads, grid.rows, [*grid.notes, *notes], grid.left)
    body = [of_grid(grid), *(picture("Cosines between gradients", path) for path in shown)]
    writers: dict[str, Callable[[], str]] = {
        "md": lambda: "\n".join(grid_markdown(grid, 1)).rstrip() + "\n",
        "tex": lambda: "\n".join([_PAPER, *grid_latex(grid)]) + "\n",
        "csv": lambda: similarity_csv(blocks),
        "html": lambda: page(title, body),
    }
    return [
        *(
            write_text(folder / f"table.{kind}", write())
            for kind, write in writers.items()
            if kind in formats
        ),
        *figures,
    ]


_REPORTS: dict[str, Callable[[Study, Experiment, Path, Sequence[str], Any], list[Path]]] = {
    "unlearn": _axes,
    "diagnose": _similarity,
}
