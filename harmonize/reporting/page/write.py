"""From a study to its page on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonize.reporting.effects import effects, factors_of
from harmonize.reporting.page.gather import gather
from harmonize.reporting.page.page import build_page
from harmonize.reporting.page.worst import BUDGET_BYTES, worst
from harmonize.reporting.spread import spread_lines
from harmonize.reporting.study import Study
from harmonize.tracking.files import make_folder, write_text


def write_page(
    study: Study, path: Path, *, with_text: bool = False, experiment: Mapping[str, Any] | None = None
) -> Path:
    """Writes the page, readable by its owner alone (mode 0600), and returns its path.

    Args:
        study: With at least one run.
        path: FILE.html; its folder is made if needed.
        with_text: Also show what was asked and said of the worst questions.
        experiment: For its `claims`, `spread` and `effects`.

    Raises:
        RunError: The place cannot be written.
    """
    from harmonize.reporting.claims import claim_lines

    found = gather(study)
    share = BUDGET_BYTES // max(1, len(found.chapters))
    asked = [worst([m.group for m in chapter.members], with_text, share) for chapter in found.chapters]
    spec = dict(experiment or {})
    drawn = [chapter.table for chapter in found.chapters]
    claims = claim_lines(spec, drawn) + spread_lines(spec.get("spread"), drawn)
    added = effects(found.study, factors_of(spec.get("effects")))
    text = build_page(found, asked, with_text=with_text, effects=added, claims=claims)
    make_folder(path.parent)
    return write_text(path, text)
