"""Generated parts of the documentation: blocks between marks in a hand-written page, made from the catalogue.

    <!-- generated: methods -->
    ...
    <!-- end -->

`python -m harmonize.reporting.methods_page` (`make docs`) writes them anew; with `--check` it only tells what is stale.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import harmonize.objectives
from harmonize.config.sources import Source
from harmonize.errors import ConfigError, did_you_mean
from harmonize.reporting.catalogue import EVIDENCE, Option, Part, described_groups, methods, names, option

wrap = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "methods.md"
ELSEWHERE = {"attack": ROOT / "docs" / "attacks.md"}  # groups that have a page of their own
_BLOCK = re.compile(r"(<!-- generated: ([\w-]+)(?: ([\w ]+))? -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or checks the pages; returns 1 if `--check` finds one stale."""
    parser = argparse.ArgumentParser(prog="python -m harmonize.reporting.methods_page", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, default=[PAGE, *ELSEWHERE.values()])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where it is stale")
    given = parser.parse_args(argv)
    return max(_write(page, given.check) for page in given.pages)


def _write(page: Path, check: bool) -> int:
    before = page.read_text(encoding="utf-8")
    after = filled(before)
    if after == before:
        print(f"{page} is up to date.")
        return 0
    if check:
        print(f"{page} is stale. Run: make docs", file=sys.stderr)
        return 1
    page.write_text(after, encoding="utf-8")
    print(f"Wrote {page}")
    return 0


def filled(page: str) -> str:
    """The page with every generated block made anew.

    Raises:
        ConfigError: A mark names no block, or a mark has no end.
    """
    groups = {
        group for _, name, given, _ in _BLOCK.findall(page) if name == "options" for group in given.split()
    }

    def block(match: re.Match[str]) -> str:
        head, name, given, end = match.groups()
        if name == "other-options":
            text = "\n\n".join(
                f"## {g.capitalize()}\n\n{options(g)}"
                for g in described_groups()
                if g not in groups and g not in ELSEWHERE
            )
        elif name in BLOCKS:
            text = BLOCKS[name](*(given or "").split())
        else:
            raise ConfigError(
                f"'{name}' is no generated block. {did_you_mean(name, [*BLOCKS, 'other-options'])}"
            )
        return f"{head}\n{text}\n\n{end}" if text else f"{head}{end}"

    if page.count("<!-- generated:") != len(_BLOCK.findall(page)):
        raise ConfigError("A mark <!-- generated: ... --> has no <!-- end -->, or is not spelled so.")
    return _BLOCK.sub(block, page)


def evidence() -> str:
    """What the words of the evidence column mean."""
    return "\n".join(f"- **{word}**: {meaning}" for word, meaning in EVIDENCE.items())


def notation() -> str:
    """Symbols of the formulas, as the objectives' package states them."""
    text = inspect.cleandoc(harmonize.objectives.__doc__ or "")
    return text.partition("\n\n")[2].strip()


def overview() -> str:
    """A row for every method."""
    rows = [
        "| method | paper | evidence | needs | rows | backward | frozen |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in methods():
        costs = method.costs
        cells = [f"[`{method.name}`](#{method.name})", method.says("paper"), method.says("evidence")]
        cells += [
            ", ".join(method.needs) or "nothing",
            str(costs.rows),
            str(costs.backward),
            str(costs.frozen),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def sections() -> str:
    """A short section for every method."""
    return "\n\n".join(_section(method) for method in methods())


def options(group: str) -> str:
    """A table of one group's options, and what is to be said of each."""
    found = [option(group, name) for name in names(group)]
    rows = ["| option | what it does | paper | evidence |", "|---|---|---|---|"]
    rows += [
        f"| `{group}={o.name}` | {o.says('description')} | {o.says('paper')} | {o.says('evidence')} |"
        for o in found
    ]
    notes = [line for o in found if (text := _notes(o)) for line in _bullet(f"`{o.name}`: {text}")]
    return "\n".join([*rows, *(["", *notes] if notes else [])])


BLOCKS: dict[str, Callable[..., str]] = {
    "evidence": evidence,
    "notation": notation,
    "methods": overview,
    "sections": sections,
    "options": options,
}


def formula_lines(method: Option, width: int = 108) -> list[str]:
    """Every term of a method with its rows, weight and formula; of other options the formulas they state."""
    roles = ", ".join(method.response)
    heads = [[t.name, "adapters" if t.on_weights else ", ".join(t.roles) or roles] for t in method.terms]
    texts = [_formula(t) for t in method.terms]
    if not texts:
        texts = [text for _, text in method.formulas]
        heads = [[] for _ in texts]
    columns = [max(map(len, column)) for column in zip(*heads, strict=True)]
    lines = []
    for head, text in zip(heads, texts, strict=True):
        start = "".join(f"{cell:<{n}}   " for cell, n in zip(head, columns, strict=True))
        lines += wrap(text, width, initial_indent=start, subsequent_indent=" " * len(start))
    return lines


def _formula(term: Part) -> str:
    weight = "" if term.weight == 1 else f"{str(term.weight).removesuffix('.0')} x  "
    unit = "" if term.unit in ("", "position") else f"  (per {term.unit})"
    return f"{weight}{term.section('Formula') or term.target}{unit}"


def summary(found: Option) -> list[str]:
    """What follows from an option's YAML, in lines of text: formulas, needs, costs, code."""
    needs = "; ".join(found.said_needs)
    targets = dict.fromkeys(p.target for p in found.parts if p.source)
    blocks = {
        "formula": formula_lines(found, 96),
        "needs": wrap(needs or ("nothing" if found.terms else ""), 96),
        "costs": wrap("; ".join([*_counted(found), *_stated_costs(found)]), 96),
        "code": wrap(", ".join(targets), 96),
    }
    return [f"{'' if i else head:<9}{line}" for head, lines in blocks.items() for i, line in enumerate(lines)]


def _counted(found: Option) -> list[str]:
    """Costs of a method that trains."""
    if not found.terms:
        return []
    costs = found.costs
    passes = "backward pass" if costs.backward == 1 else "backward passes"
    said = [f"1 forward and {costs.backward} {passes} of the student a step"]
    if costs.rows > 1:
        said.append(f"{costs.rows} rows of one example")
    if costs.frozen:
        said.append(f"frozen models: 0 forwards a step from a cache, {costs.frozen} with teacher.cache=none")
    return said


def _stated_costs(found: Option) -> list[str]:
    """Costs that docstrings state."""
    parts = [*found.parts, *(p for o in found.chosen for p in o.parts)]
    return list(dict.fromkeys(said for p in parts if (said := p.section("Costs"))))


def tests_of(source: Source) -> list[Path]:
    """Test files of the same room that import a function, by path in the repository."""
    room = ROOT / "tests" / Path(*source.module.split(".")[1:-1])
    return [p.relative_to(ROOT) for p in sorted(room.glob("*.py")) if _imports(p, source)]


def _imports(path: Path, source: Source) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    brought = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == source.module]
    return any(alias.name == source.name for node in brought for alias in node.names)


def _section(method: Option) -> str:
    paper = ", ".join(filter(None, [method.says("paper"), f"evidence: {method.says('evidence')}"]))
    lines = [f"### {method.name}", "", f"{method.says('description')}. {paper}.", ""]
    lines += [f"    {line}" for line in formula_lines(method)]
    lines += ["", *(line for item in _items(method) for line in _bullet(item))]
    return "\n".join(lines)


def _bullet(text: str) -> list[str]:
    if "`method=" in text:  # to be copied as one line
        return [f"- {text}"]
    return wrap(text, 120, initial_indent="- ", subsequent_indent="  ")


def _items(method: Option) -> list[str]:
    found = [method.says("fidelity")] if method.says("fidelity") else []
    chosen = [f"`{group}={name}`" for group, name in method.choices.items()]
    if chosen:
        found.append(f"Chooses {', '.join(chosen)}.")
    if method.needs:
        found.append(f"Needs {'; '.join(method.said_needs)}.")
    if costs := _stated_costs(method):
        found.append(f"Costs: {'; '.join(costs)}.")
    for what, overrides in method.variants.items():
        found.append(f"{what[0].upper()}{what[1:]}: `method={method.name} {overrides}`")
    keys = [
        f"`{key}={'null' if value is None else value}`" for term in method.terms for key, value in _keys(term)
    ]
    if keys:
        found.append(f"Settings under `method.objectives`: {', '.join(keys)}.")
    parts = [*method.parts, *(p for o in method.chosen for p in o.parts)]
    found.append(_where({(s.module, s.name): s for p in parts if (s := p.source)}.values()))
    return found


def _keys(term: Part) -> list[tuple[str, object]]:
    """What can be set of a term; `positions` of all is not worth a word."""
    return [(f"{term.name}.{k}", v) for k, v in term.settings.items() if (k, v) != ("positions", "all")]


def _where(sources: Iterable[Source]) -> str:
    code, tests = [], []
    for source in sources:
        path = Path(*source.module.split(".")).with_suffix(".py")
        code.append(f"[{source.module.rpartition('.')[2]}.{source.name}]({_link(path)})")
        tests += [f"[{p.name}]({_link(p)})" for p in tests_of(source)]
    said = f"Code: {', '.join(code)}."
    return f"{said} Tests: {', '.join(dict.fromkeys(tests))}." if tests else said


def _link(path: Path) -> str:
    return Path(os.path.relpath(ROOT / path, PAGE.parent)).as_posix()


def _notes(found: Option) -> str:
    said = []
    for part in found.parts[:1]:
        if formula := part.section("Formula"):
            said.append(f"`{formula}`.")
        said += [f"{name}: {text}." for name in ("Needs", "Costs") if (text := part.section(name))]
    if found.says("fidelity"):
        said.append(found.says("fidelity"))
    return " ".join(said)


if __name__ == "__main__":
    sys.exit(main())
