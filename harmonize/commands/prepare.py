"""`harmonize prepare`: corpora -> unified question-answer examples, in a folder that every other command reads."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harmonize.errors import ConfigError, HarmonizeError, Interrupted

if TYPE_CHECKING:
    from harmonize.data.prepare.anchors import AnchorReport
    from harmonize.data.prepare.pipeline import Settings, Tally
    from harmonize.data.sources.source import Source
    from harmonize.data.unify.cache import Remembering
    from harmonize.data.unify.task import Rewriter

_SWEEPS = ("-m", "--multirun")


def run(argv: Sequence[str]) -> int:
    """The command line.

    Raises:
        ConfigError: A sweep was asked for, or the configuration is wrong.
    """
    from harmonize.commands import runs

    if any(a in _SWEEPS or a.lstrip("+").startswith("hydra.mode=") for a in argv):
        raise ConfigError(
            "harmonize prepare makes one data set and knows no sweeps. Leave out -m, and type it once for each: "
            "harmonize prepare ... output=<folder>"
        )
    return runs.run("prepare", argv)


def job(cfg: Any) -> None:
    """One data set; says on stderr what went wrong, as the jobs of other commands do.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C.
    """
    from harmonize.commands import jobs

    try:
        prepare(cfg)
    except Interrupted as error:
        print(error, file=sys.stderr)
        raise KeyboardInterrupt from error
    except HarmonizeError as error:
        print(f"Error: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
        jobs.failures.append(("prepare", str(error)))


def prepare(cfg: Any) -> Path:
    """Does what the configuration says.

    Returns:
        The folder written.

    Raises:
        HarmonizeError: Anything a user can mend.
        Interrupted: Ctrl-C or a termination signal; rewrites that were paid for are kept.
    """
    from harmonize.config.checks import check_config
    from harmonize.config.compose import structural_problems
    from harmonize.config.prepare_checks import name_of, output_of
    from harmonize.data.prepare.folder import FolderWriter
    from harmonize.data.prepare.pipeline import Tally, survey, unified
    from harmonize.reporting.data_card import data_card

    if problems := structural_problems(cfg) + check_config(cfg, "prepare"):
        raise ConfigError(problems)
    sources, settings = open_sources(cfg), settings_of(cfg)
    with ExitStack() as stack:
        stack.enter_context(_terminated_like_ctrl_c())
        # Claimed before anything is computed, so that a place that cannot be written is told at once.
        writer = stack.enter_context(FolderWriter(output_of(cfg), cfg.overwrite))
        rewriter: Rewriter | Remembering | None = None
        try:
            with _bar("reading") as tick:
                found = survey(sources, settings, lambda n: tick(n, None))
            rewriter, build = _rewriter(cfg, stack)
            tally = Tally(found.records)
            with _bar("rewriting") as progress:
                for example in unified(sources, rewriter, settings, tally, build, progress, found.tasks):
                    writer.add(example)
            anchors = _anchors(cfg, rewriter)
            report = writer.finish(
                partial(_facts, cfg, name_of(cfg), sources, settings, rewriter, tally, anchors),
                data_card,
                cfg.split,
                cfg.split_seed,
                anchors.apply if anchors.needed else None,
            )
        except KeyboardInterrupt:
            raise Interrupted(f"Interrupted; {_kept(rewriter)}") from None
        except HarmonizeError as error:
            if rewriter is not None and rewriter.cached:
                error.add_note(_kept(rewriter).capitalize())
            raise
        folder = writer.output
    _say(folder, report, tally, anchors.report, rewriter)
    return folder


def open_sources(cfg: Any) -> dict[str, Source]:
    """Every source of the configuration, opened but not read.

    Raises:
        HarmonizeError: A reader that cannot find its files.
    """
    from harmonize.config.instantiate import call
    from harmonize.config.prepare_checks import source_nodes
    from harmonize.data.sources.source import Source

    sources: dict[str, Source] = {}
    for name, node in source_nodes(cfg).items():
        source = call(node, allow=cfg.allow)
        if not isinstance(source, Source):
            raise HarmonizeError(
                f"{node['_target_']} returned a {type(source).__name__}, expected a Source of harmonize.data.sources."
            )
        sources[name] = source
    return sources


def settings_of(cfg: Any) -> Settings:
    """The pipeline's settings."""
    from harmonize.config.instantiate import to_plain
    from harmonize.data.prepare.pipeline import Settings
    from harmonize.data.unify.validate import Limits
    from harmonize.tracking.environment import hardware

    workers = cfg.workers or int(hardware()["cores"])
    return Settings(Limits(**to_plain(cfg.limits)), cfg.chunk_words, cfg.max_records, workers)


def _rewriter(cfg: Any, stack: ExitStack) -> tuple[Rewriter, partial[Rewriter]]:
    """The rewriter, behind the cache where its work is worth keeping; and how to make it in another process."""
    from harmonize.config.instantiate import call, to_plain
    from harmonize.data.unify.cache import FOLDER, Remembering, RewriteCache

    build = partial(call, to_plain(cfg.rewriter), allow=tuple(cfg.allow), skip=("name",))
    rewriter = build()
    if rewriter.cached:
        cache = RewriteCache(Path(cfg.paths.cache_dir) / FOLDER, rewriter.name, rewriter.fingerprint)
        stack.callback(cache.close)
        rewriter = Remembering(rewriter, cache)
    return rewriter, build


class _anchors:
    """The step between splitting and writing: `anchors` of the configuration, applied to all examples."""

    def __init__(self, cfg: Any, rewriter: Rewriter) -> None:
        from harmonize.config.instantiate import resolve, to_plain
        from harmonize.config.rules import inputs_of

        self._cfg, self._node = cfg, to_plain(cfg.anchors)
        self._inputs = inputs_of(resolve(self._node["_target_"], cfg.allow))
        self._rewriter = rewriter
        self.report: AnchorReport | None = None
        self.needed = self._node.get("name") != "none"

    def apply(self, examples: list[Any]) -> list[Any]:
        """The examples with anchors; `report` tells what was done."""
        from harmonize.config.instantiate import call

        extra: dict[str, Any] = {"rewriter": self._rewriter} if "rewriter" in self._inputs else {}
        if self._cfg.embedding is not None:
            from transformers.utils import logging

            from harmonize.api import load
            from harmonize.models.embedding import embedding

            logging.disable_progress_bar()
            extra["embed"] = embedding(load(self._cfg.embedding))
        changed, self.report = call(
            self._node, allow=self._cfg.allow, skip=("name",), examples=examples, **extra
        )
        return list(changed)


def _facts(
    cfg: Any,
    name: str,
    sources: Mapping[str, Source],
    settings: Settings,
    rewriter: Rewriter,
    tally: Tally,
    anchors: _anchors,
    written: Mapping[str, Any],
) -> dict[str, Any]:
    """All that `dataset.json` holds. No dates and no names of the machine: the same data give the same file."""
    from dataclasses import asdict

    import harmonize
    from harmonize.config.instantiate import to_plain
    from harmonize.data.prepare.folder import SCHEMA_VERSION
    from harmonize.data.prepare.provenance import provenance
    from harmonize.data.split import resolve_shares

    inner = getattr(rewriter, "rewriter", rewriter)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "harmonize": harmonize.__version__,
        "files": written["files"],
        "sources": [provenance(key, source, tally.records[key]) for key, source in sources.items()],
        "rewriter": {
            "name": rewriter.name,
            "fingerprint": rewriter.fingerprint,
            "settings": to_plain(cfg.rewriter),
            "prompts": getattr(getattr(inner, "prompts", None), "hashes", {}),
            **_spent(rewriter),
        },
        "limits": asdict(settings.limits),
        "chunk_words": settings.chunk_words,
        "max_records": settings.max_records,
        "split": resolve_shares(to_plain(cfg.split)),
        "split_seed": cfg.split_seed,
        "tasks": tally.tasks,
        "pairs": tally.pairs,
        "kept": tally.accepted,
        "general": tally.general,
        "rejected": dict(sorted(tally.rejected.items())),
        "failed": dict(sorted(tally.failed.items())),
        "anchors": anchors.report.to_dict() if anchors.report is not None else {"kind": "none"},
        "overlap": written["overlap"],
        "refusals": list(dict.fromkeys(r for s in sources.values() for r in s.refusals)),
        "instructions": list(dict.fromkeys(i for s in sources.values() for i in s.instructions)),
    }


def _spent(rewriter: Any) -> dict[str, Any]:
    """Tokens of all rewrites in the data set, whenever they were paid for, and their price where one is known."""
    tokens = getattr(rewriter, "tokens", None)
    if tokens is None:
        return {"tokens": None, "cost": None}
    return {
        "tokens": {"prompt": tokens[0], "reply": tokens[1]},
        "cost": _price(getattr(rewriter.rewriter, "prices", (None, None)), tokens),
    }


def _price(prices: tuple[float | None, float | None], tokens: tuple[int, int]) -> float | None:
    if prices == (None, None):
        return None
    return round(sum((price or 0) * n for price, n in zip(prices, tokens, strict=True)) / 1e6, 6)


def _kept(rewriter: Any) -> str:
    again = "type the same command again to go on."
    if rewriter is None or not rewriter.cached:
        return f"nothing was written; {again}"
    return f"{len(rewriter.cache)} rewrites are kept in {rewriter.cache.path}; {again}"


def _say(folder: Path, facts: Mapping[str, Any], tally: Tally, anchors: Any, rewriter: Any) -> None:
    """What was written, what was left out, and what to type next; on stdout."""
    from rich.console import Console
    from rich.table import Table

    from harmonize.data.example import ROLES
    from harmonize.data.prepare.folder import file_name
    from harmonize.data.split import SPLITS
    from harmonize.reporting.data_card import overlap_lines

    table = Table(title="examples (subjects)", title_justify="left", box=None)
    for column in ("role", *map(str, SPLITS)):
        table.add_column(column, justify="left" if column == "role" else "right")
    for role in ROLES:
        cells = [facts["files"].get(file_name(role, split)) for split in SPLITS]
        table.add_row(str(role), *(f"{c['examples']} ({c['subjects']})" if c else "-" for c in cells))
    Console(highlight=False).print(table)
    print(f"{tally.tasks} tasks gave {tally.pairs} pairs, {tally.accepted} were kept.")
    for title, counts in (
        ("Rejected", tally.rejected),
        ("Failed, tried again by the next run", tally.failed),
    ):
        if counts:
            print(f"{title}: {', '.join(f'{n} {reason}' for reason, n in counts.most_common())}")
    if rewriter.cached:
        print(f"{rewriter.calls} asked of the rewriter now, {rewriter.found} were in the cache.")
        print(f"Tokens now: {rewriter.paid[0]} in prompts, {rewriter.paid[1]} in replies.", end="")
        cost = _price(getattr(rewriter.rewriter, "prices", (None, None)), rewriter.paid)
        print(
            ""
            if cost is None
            else f" Cost now: {cost:.4f}; of the whole data set: {facts['rewriter']['cost']:.4f}."
        )
    for line in anchors.lines() if anchors is not None else ():
        print(line)
    for line in overlap_lines(facts["overlap"]) or [
        "No two parts share a subject, a question or a near-duplicate."
    ]:
        print(f"Overlap: {line.removesuffix('.')}.")
    for source in facts["sources"]:
        for note in source["notes"]:
            print(f"Note ({source['name']}): {note}")
    if tally.failed:
        print("To try the failed ones again: the same command with overwrite=true.")
    print(f"\nWritten (readable by you alone): {folder}\n  read it: {folder / 'CARD.md'}")
    root = shlex.quote(str(folder))
    print("Next:\n  harmonize unlearn dataset=prepared dataset.root=" + root, end="")
    print(" model=hf model.name_or_path=<folder> optimizer.lr=1e-5")


@contextmanager
def _bar(what: str) -> Iterator[Any]:
    """A bar with rate and time left; without a terminal a line every half minute."""
    import time

    from harmonize.console import console, progress_bar, say

    start = told = time.monotonic()
    with progress_bar("{task.fields[rate]}") as bar:
        task = bar.add_task(what, total=None, rate="")

        def move(done: int, total: int | None) -> None:
            nonlocal told
            now = time.monotonic()
            rate = f"{done / max(now - start, 1e-3):.1f}/s"
            bar.update(task, completed=done, total=total, rate=rate)
            if not console.is_terminal and now - told > 30:
                told = now
                say(f"{what}: {done}{f' of {total}' if total else ''}, {rate}")

        yield move


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """A termination signal (a scheduler's, `kill`) stops as Ctrl-C does: cleanly."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are someone else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
