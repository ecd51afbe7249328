"""The whole page: head, contents, one chapter for each setting, and what was run."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harmonize.reporting.columns import DECIMALS, fixed
from harmonize.reporting.effects import NOTE, EffectTable, shown
from harmonize.reporting.escape import clean
from harmonize.reporting.markup.document import asset, document
from harmonize.reporting.markup.elements import join, tag, words
from harmonize.reporting.markup.tables import notes, plain
from harmonize.reporting.page import chapter as parts
from harmonize.reporting.page import tables
from harmonize.reporting.page.gather import Chapter, Diagnosed, Gathered
from harmonize.reporting.page.questions import questions
from harmonize.reporting.page.runs import what_was_run
from harmonize.reporting.page.worst import Worst

_LACKING = {
    "curves": "No run logged anything over training (metrics.csv is missing; logger=csv writes it).",
    "attacks": "No attack was measured.",
    "gradients": (
        "No run logged how its terms' gradients agree. trainer.cosines_every_n_steps=20 does; harmonize diagnose "
        "measures it before training, and what it finds in this folder is shown here."
    ),
}
_SECTIONS = (
    *(("table", "Table"), ("trade", "Trade-offs"), ("curves", "Over training"), ("attacks", "Attacks")),
    *(("gradients", "Gradient conflict"), ("worst", "Worst questions")),
)
_NAMED = 12  # rows in a sentence
_HEADLINES = ("asr_worst", "forget_heldout_accuracy", "neighbor_accuracy", "utility_accuracy")


def build_page(
    found: Gathered,
    worst: Sequence[Worst],
    *,
    with_text: bool,
    effects: Sequence[EffectTable] = (),
    claims: Sequence[str] = (),
    published: Markup | None = None,
) -> str:
    """The page as text, complete in itself: style, script and figures are inside, and nothing else may be loaded.

    Args:
        found: The study. worst: What the samples tell, for each chapter.
        with_text: The page holds what was asked and said.
        effects, claims, published: Of the study's experiment.
    """
    script, style = (asset("harmonize.reporting.page", f"page.{kind}") for kind in ("js", "css"))
    name = found.study.path.resolve().name
    sections = [
        *(
            _chapter(each, one, len(found.chapters) > 1, with_text)
            for each, one in zip(found.chapters, worst, strict=True)
        ),
        _added(effects, claims),
        _section("published", "Published figures", published) if published else None,
        _diagnosed(found.diagnosed),
        _section("runs", "What was run", what_was_run(found.study)),
    ]
    body = [
        tag("header", tag("p", "Study", class_="kicker"), tag("h1", words(name, 120)), _lead(found)),
        _contents(found, bool(effects or claims), bool(published)),
        tag("main", *sections),
        tag("footer", "Written by harmonize report. Nothing on this page is loaded from elsewhere."),
    ]
    return document(f"{clean(name, 80)} – harmonize", body, style, script)


def _lead(found: Gathered) -> Markup:
    """What stands first: how much was run, who is on the front, who is best where."""
    study, members = found.study, [m for chapter in found.chapters for m in chapter.members]
    runs = [run for m in members for run in m.group.runs]
    tiles = {"runs": len(runs), "rows": len(members), "seeds": len({run.seeds for run in runs})}
    tiles |= {"diagnoses": len(found.diagnosed), "left out": len(study.problems)}
    shown = tag(
        "dl", *(tag("div", tag("dt", k), tag("dd", n)) for k, n in tiles.items() if n), class_="tiles"
    )
    said = [
        tag("p", tag("b", words(chapter.table.title)), ": ", _best(chapter))
        for chapter in found.chapters
        if chapter.members
    ]
    note = "A row is a method and what was varied of it; seeds are averaged over. What was left out stands at the end."
    return join([shown, *said, tag("p", note, class_="note") if members else None])


def _best(chapter: Chapter) -> Markup:
    on = [m for m in chapter.members if m.row.front]
    said: list[Markup] = []
    if len(chapter.members) == 1:
        row = chapter.members[0].row
        told = [
            f"{c.header} {fixed(cell.mean)}"
            for c in chapter.table.columns
            if c.key in _HEADLINES and (cell := row.cells.get(c.key))
        ]
        return join([words(row.label, 60), " ", ", ".join(told)])
    if on:
        names = Markup(", ").join(words(m.who.label, 60) for m in on[:_NAMED])
        more = f" and {len(on) - _NAMED} more" if len(on) > _NAMED else ""
        said.append(join(["on the Pareto front: ", names, more, ". "]))
    for column in chapter.table.columns:
        if column.key not in _HEADLINES:
            continue
        best = [m for m in chapter.members if chapter.table.is_best(m.row, column)]
        cell = best[0].row.cells[column.key] if best else None
        if cell is None:
            continue
        who = words(best[0].who.label, 60) if len(best) == 1 else f"{len(best)} rows"
        said.append(
            join(
                [
                    f"{column.better.superlative} {column.header}: {fixed(round(cell.mean, DECIMALS))} (",
                    who,
                    "). ",
                ]
            )
        )
    return join(said)


def _chapter(chapter: Chapter, worst: Worst, named: bool, with_text: bool) -> Markup:
    k = chapter.key
    said = [f"All rows begin with: {chapter.common}."] if chapter.common else []
    said += chapter.table.footnotes
    below = notes(said)
    inside = {
        "table": join([tables.five_axes(chapter), below]),
        "trade": parts.trade_offs(chapter),
        "curves": parts.curves(chapter) or _lacking("curves"),
        "attacks": parts.attacks(chapter) or _lacking("attacks"),
        "gradients": parts.gradients(chapter) or _lacking("gradients"),
        "worst": questions(worst, with_text),
    }
    sections = [_section(f"{place}-{k}", title, inside[place]) for place, title in _SECTIONS]
    title = tag("h2", words(chapter.table.title), class_="setting") if named else None
    return tag("article", title, parts.legend(chapter), *sections)


def _lacking(what: str) -> Markup:
    return tag("p", _LACKING[what], class_="note")


def _section(place: str, title: str, inside: object) -> Markup:
    return tag("section", tag("h2", title), inside, id=place)


def _contents(found: Gathered, added: bool, published: bool) -> Markup:
    links: list[Markup] = []
    for chapter in found.chapters:
        own = [tag("a", title, href=f"#{place}-{chapter.key}") for place, title in _SECTIONS]
        several = len(found.chapters) > 1
        links += [tag("span", tag("b", words(chapter.table.title, 60)), *own)] if several else own
    if added:
        links.append(tag("a", "Factors and claims", href="#added"))
    if published:
        links.append(tag("a", "Published figures", href="#published"))
    if found.diagnosed:
        links.append(tag("a", "Diagnoses", href="#diagnosed"))
    links.append(tag("a", "What was run", href="#runs"))
    return tag("nav", *links)


def _added(effects: Sequence[EffectTable], claims: Sequence[str]) -> Markup | None:
    """What each factor of the experiment adds, and what its claims come to."""
    inside = [tag("ul", *(tag("li", words(claim, 400)) for claim in claims)) if claims else None]
    for table in effects:
        heads, rows = shown(table)
        cells = [[words(row[0]), *row[1:]] for row in rows]
        drawn = plain([(head, i > 0) for i, head in enumerate(heads)], cells)
        inside += [tag("h3", words(table.title)), drawn]
    if effects:
        inside.append(tag("p", NOTE, class_="note"))
    return _section("added", "Factors and claims", join(inside)) if effects or claims else None


def _diagnosed(found: Sequence[Diagnosed]) -> Markup | None:
    """The heat maps of `harmonize diagnose`."""
    if not found:
        return None
    figures = []
    for one in found:
        cells = [[None if v is None else (v, f"{v:.3f}") for v in row] for row in one.means]
        table = tables.diverging(one.layers, [p.replace("~", " · ") for p in one.pairs], cells)
        figures.append(parts.figure(words(one.title), table, kind="fit"))
    note = "Cosines between the roles' gradients on the start model, by layer, mean over draws (harmonize diagnose)."
    return _section(
        "diagnosed", "Diagnoses", join([tag("p", note, class_="note"), parts.chart_grid(figures, "fits")])
    )
