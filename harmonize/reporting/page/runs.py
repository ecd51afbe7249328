"""What was run: every run with its seed, state, cost and command; what varied; what could not be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harmonize.errors import RunError
from harmonize.reporting.columns import GAP, duration, size
from harmonize.reporting.markup.elements import join, tag, words
from harmonize.reporting.markup.tables import plain
from harmonize.reporting.study import Study, StudyRun, is_ignored
from harmonize.reporting.table import unlearning_time
from harmonize.tracking.loggers import without_home
from harmonize.tracking.results import STATUS, read_json

_SETTINGS = 400  # lines of the shared configuration


def what_was_run(study: Study) -> Markup:
    """The runs, the configuration they share, versions and machines, and what was left out."""
    parts = [
        _problems(study),
        _runs(study),
        tag("h3", "Configuration"),
        _configuration(study.runs),
        _made_with(study.runs),
    ]
    return join(parts)


def _runs(study: Study) -> Markup:
    heads = [("run", False), ("row", False), ("seed", True), ("world", True), ("ended", False), ("unlearning", True),
             ("total", True), ("memory", True), ("commit", False)]  # fmt: skip
    rows, commands = [], []
    for group in study.groups:
        for run in group.runs:
            status = _status(run)
            own, memory = unlearning_time(run.results), run.results.peak_memory_bytes
            total = run.results.timing.get("total")
            seed, world = run.seeds
            rows.append([
                words(_below(study, run.path), 140), words(group.label, 60), seed, world or GAP,
                words(str(status.get("ended") or GAP).replace("+00:00", "").replace("T", " "), 40),
                (GAP, None) if own is None else (duration(own), f"{own:.3f}"),
                (GAP, None) if total is None else (duration(total), f"{total:.3f}"),
                (GAP, None) if memory is None else (size(memory), str(memory)), words(_commit(run), 12),
            ])  # fmt: skip
            if status.get("command"):
                commands.append(tag("code", words(without_home(str(status["command"])), 600)))
    shown = plain(heads, rows, "list runs")
    found = tag("details", tag("summary", f"{len(rows)} runs"), shown, open="" if len(rows) <= 12 else None)
    if not commands:
        return found
    title = f"The {len(commands)} commands that made them"
    return join([found, tag("details", tag("summary", title), tag("div", *commands, class_="commands"))])


def _problems(study: Study) -> Markup | None:
    if not study.problems and not study.notes:
        return None
    rows = [tag("li", words(without_home(note), 300)) for note in study.notes]
    rows += [
        tag("li", tag("b", words(_below(study, path), 140)), ": ", words(without_home(reason), 300))
        for path, reason in study.problems
    ]
    title = f"Not in the table: {len(study.problems)}" if study.problems else "Notes"
    return tag("div", tag("h3", title), tag("ul", *rows), class_="warning")


def _configuration(runs: Sequence[StudyRun]) -> Markup:
    """What varied, as a table; what all share, folded."""
    values: dict[str, Counter[str]] = {}
    for run in runs:
        for key, value in run.flat.items():
            values.setdefault(key, Counter())[value] += 1
    own = {k: v for k, v in values.items() if not is_ignored(k, seeds=False)}
    varied = {k: v for k, v in own.items() if len(v) > 1 or v.total() < len(runs)}
    rows = []
    for key, found in sorted(varied.items()):
        shown = [f"{without_home(value)} ({n})" for value, n in found.most_common(8)]
        if len(found) > 8:
            shown.append(f"{len(found) - 8} more")
        if (rest := len(runs) - found.total()) > 0:
            shown.append(f"not there ({rest})")
        rows.append([tag("code", words(key)), words("; ".join(shown), 600)])
    shared = [f"{k}: {without_home(next(iter(v)))}" for k, v in sorted(own.items()) if k not in varied]
    text = tag("pre", "\n".join(str(words_of(line)) for line in shared[:_SETTINGS]))
    parts = []
    if rows:
        table = plain([("key", False), ("values (runs)", False)], rows)
        parts.append(tag("details", tag("summary", f"{len(rows)} keys that vary"), table))
    parts.append(tag("details", tag("summary", f"{len(shared)} keys that all runs share"), text))
    return join(parts)


def words_of(line: str) -> str:
    """A line of the configuration, without control characters."""
    from harmonize.reporting.escape import clean

    return clean(line, 300)


def _made_with(runs: Sequence[StudyRun]) -> Markup:
    """Versions and machines, with the number of runs where they differ."""
    versions: Counter[str] = Counter()
    machines: Counter[str] = Counter()
    for run in runs:
        versions[", ".join(f"{k} {v}" for k, v in run.results.versions.items())] += 1
        hardware = run.results.hardware
        devices = hardware.get("devices")
        told = [hardware.get("platform"), hardware.get("cpu"), f"{hardware.get('cores')} cores",
                *(map(str, devices) if isinstance(devices, list) else [])]  # fmt: skip
        machines[", ".join(str(x) for x in told if x)] += 1
    parts = []
    for name, found in (("Versions", versions), ("Machine", machines)):
        told = [
            f"{k} ({n} run{'' if n == 1 else 's'})" if len(found) > 1 else k for k, n in found.most_common(5)
        ]
        told = [text or GAP for text in told]
        parts += [tag("dt", name), *(tag("dd", words(text, 900)) for text in told)]
    return tag("dl", *parts, class_="made")


def _status(run: StudyRun) -> dict[str, Any]:
    try:
        found = read_json(run.path / STATUS) if (run.path / STATUS).is_file() else {}
    except RunError:
        return {}
    return found if isinstance(found, dict) else {}


def _commit(run: StudyRun) -> str:
    git = run.results.git or {}
    return f"{str(git['commit'])[:7]}{'+' if git.get('dirty') else ''}" if git.get("commit") else GAP


def _below(study: Study, path: Path) -> str:
    return str(without_home(str(path))).removeprefix(f"{without_home(str(study.path))}/")
