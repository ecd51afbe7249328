"""`harmonize diff RUN_A RUN_B`: what differs between two runs, down to single answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harmonize.commands.arguments import Parser
from harmonize.errors import RunError, did_you_mean

_KINDS = ("newly-leaked", "newly-refused", "newly-wrong", "newly-correct", "all")
_SUFFIXES = (".jsonl", ".md")


def run(argv: list[str]) -> int:
    """Prints the comparison; with `--out` also writes the answers, readable by their owner alone.

    Raises:
        RunError: A run that cannot be read, runs of different data, or a file that cannot be written.
        UsageError: A mistyped option.
    """
    given = _parser().parse(argv)
    _check(given)
    from rich.console import Console

    from harmonize.reporting.diff import compare_runs, find_run
    from harmonize.reporting.diff_text import print_diff, to_jsonl, to_markdown

    found = compare_runs(
        find_run(given.a, given.runs), find_run(given.b, given.runs), every=given.metrics == "all"
    )
    chosen = _chosen(found.pairs or [], given)
    console = Console(highlight=False)
    with_text = console.is_terminal  # a log that others read is no place for what was to be forgotten
    print_diff(found, console, chosen, given.limit, with_text)
    if given.out:
        from harmonize.tracking.files import make_folder, write_text

        if found.pairs is None:
            raise RunError(
                f"{given.out} is not written: without samples of both runs there are no answers to compare."
            )
        text = to_jsonl(chosen) if given.out.suffix == ".jsonl" else to_markdown(found, chosen)
        make_folder(given.out.parent)
        print(f"Wrote {write_text(given.out, text)} ({len(chosen)} answers; sensitive)")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "diff",
        "Compares run B with run A: configuration, axes with a paired test, and single answers.",
        "  harmonize diff runs/first/duet_sandbox_seed0 runs/first/npo_sandbox_seed0\n"
        "  harmonize diff first/duet_sandbox_seed0 first/npo_sandbox_seed0 --show newly-leaked --attack answer_prefix\n"
        "  harmonize diff runs/a/x runs/a/y --show newly-refused --role neighbor --out refused.md",
    )
    parser.add_argument("a", metavar="RUN_A", help="a run folder, its results.json, or study/job")
    parser.add_argument("b", metavar="RUN_B", help="the run that is compared with it")
    parser.add_argument(
        "--show", default="all", help=f"which answers: {', '.join(_KINDS)} (default: all that changed)"
    )
    parser.add_argument("--role", help="only answers to this role's questions, such as forget")
    parser.add_argument("--attack", help="only answers under this attack; none = plain questions")
    parser.add_argument("--limit", type=int, default=10, help="answers shown in the terminal (default: 10)")
    parser.add_argument("--metrics", default="axes", help="axes (default) or all")
    parser.add_argument(
        "--out", type=Path, help="also write the chosen answers: FILE.jsonl or FILE.md (mode 0600)"
    )
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    return parser


def _check(given: Any) -> None:
    from harmonize.cli import UsageError

    for name, known in (("show", _KINDS), ("metrics", ("axes", "all"))):
        if getattr(given, name) not in known:
            raise UsageError(f"--{name} {getattr(given, name)}: {did_you_mean(getattr(given, name), known)}")
    if given.limit < 0:
        raise UsageError(f"--limit {given.limit}: expected a whole number from 0.")
    if given.out and given.out.suffix not in _SUFFIXES:
        raise UsageError(f"--out {given.out}: the name must end with {' or '.join(_SUFFIXES)}.")


def _chosen(pairs: list[Any], given: Any) -> list[Any]:
    """The pairs that are asked for: those that leaked first, and of each kind those without an attack.

    Raises:
        RunError: A role or attack that no answer has.
    """
    for name in ("role", "attack"):
        known = {str(pair.a.get(name)) for pair in pairs}
        wanted = getattr(given, name)
        if wanted and pairs and wanted not in known:
            raise RunError(
                f"--{name} {wanted}: no answer that both runs gave has it. {did_you_mean(wanted, known)}"
            )
    found = [
        pair
        for pair in pairs
        if pair.kinds
        and (given.show == "all" or given.show in pair.kinds)
        and given.role in (None, pair.a.get("role"))
        and given.attack in (None, pair.a.get("attack"))
    ]
    return sorted(found, key=lambda pair: (_KINDS.index(pair.kinds[0]), pair.a.get("attack") != "none"))
