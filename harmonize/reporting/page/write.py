"""From a study to its page on disk."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from harmonize.reporting.against import against
from harmonize.reporting.claims import claim_lines
from harmonize.reporting.effects import effects, factors_of
from harmonize.reporting.experiment import Experiment
from harmonize.reporting.html_report import against_published, as_published
from harmonize.reporting.markup.elements import join, tag
from harmonize.reporting.page.gather import gather
from harmonize.reporting.page.page import build_page
from harmonize.reporting.page.worst import BUDGET_BYTES, worst
from harmonize.reporting.spread import spread_lines
from harmonize.reporting.study import Study
from harmonize.reporting.table import Table
from harmonize.tracking.files import make_folder, write_text


def write_page(
    study: Study, path: Path, *, with_text: bool = False, experiment: Experiment | None = None
) -> Path:
    """Writes the page, readable by its owner alone (mode 0600), and returns its path.

    Args:
        study: With at least one run.
        path: FILE.html; its folder is made if needed.
        with_text: Also show what was asked and said of the worst questions.
        experiment: For its columns, claims, spread and effects, and the published figures.

    Raises:
        RunError: The place cannot be written.
    """
    known = experiment or Experiment("")
    found = gather(study, known.columns)
    share = BUDGET_BYTES // max(1, len(found.chapters))
    asked = [worst([m.group for m in chapter.members], with_text, share) for chapter in found.chapters]
    drawn = [chapter.table for chapter in found.chapters]
    text = build_page(
        found,
        asked,
        with_text=with_text,
        effects=effects(found.study, factors_of(known.found.get("effects"))),
        claims=claim_lines(known.found, drawn) + spread_lines(known.found.get("spread"), drawn),
        published=_published(known, drawn),
    )
    make_folder(path.parent)
    return write_text(path, text)


def _published(experiment: Experiment, tables: list[Table]) -> Markup | None:
    """What was published beside ours, as `reproduce-paper-table` has it."""
    if not experiment.published:
        return None
    grids, said = against(experiment.published, tables, experiment.profile)
    theirs = as_published(experiment.published)
    return join([against_published(grids, said, level=3), tag("h3", "Published, not ours"), theirs])
