"""Writes the tables of docs/benchmarks.md from the kept rows of the protocols, each ratio beside its bar.

python -m benchmarks.page --keep rows.jsonl gpu   # keep a run of benchmarks.gpu_protocol (or cpu): its sections
python -m benchmarks.page [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rows import RESULTS, Row, compact, load, merged, save

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_BLOCK = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


@dataclass(frozen=True)
class Bar:
    """What a ratio must not exceed.

    Attributes:
        arm_a, arm_b: The arms.
        most: The bar.
        of: The quantity; None = time.
        where: Values that a row must have.
    """

    arm_a: str
    arm_b: str
    most: float
    of: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)

    def holds_for(self, row: Row) -> bool:
        """Whether it is about this row."""
        mine = (row["arm_a"], row["arm_b"], row.get("of")) == (self.arm_a, self.arm_b, self.of)
        return mine and all(row.get(k) == v for k, v in self.where.items())


_FULL, _LORA = {"trained": "all weights"}, {"trained": "lora r=16"}
_LIVE = "live, shared prefix"
_METHODS = [
    Bar("cached reference", "live reference", most, where={"method": method})
    for method, most in (("npo", 0.75), ("npo_kl", 0.60), ("undial", 0.45))
]
BARS: Mapping[str, Sequence[Bar]] = {
    "gpu": [
        Bar("bidirectional", "answer-only", 1.05, where={"section": "s1"}),
        Bar("bidirectional", "stock", 0.85, where={"section": "s1"}),
        Bar("bidirectional", "answer-only", 1.05, where={"section": "s1lora"}),
        Bar("bidirectional", "stock", 0.97, where={"section": "s1lora"}),
        Bar("bidirectional", "answer-only", 1.00, of="peak memory"),
        Bar(_LIVE, "supervised", 1.40, where=_FULL),
        Bar(_LIVE, "supervised", 1.60, where=_LORA),
        *_METHODS,
        Bar("build", "forward", 1.15),
        Bar("build, shared prefix", "forward", 0.80, where={"prefix": 256}),
    ],
    "cpu": [
        *(
            Bar("bidirectional", other, most, where={"shape": shape})
            for shape, other, most in (
                ("sandbox", "answer-only", 1.10),
                ("1b-proportioned", "answer-only", 1.05),
                ("1b-proportioned", "stock", 0.85),
                ("v32k", "answer-only", 0.95),
                ("v32k", "stock", 0.45),
            )
        ),
        Bar("bidirectional", "answer-only", 1.00, of="peak memory"),
        Bar(_LIVE, "supervised", 1.40, where=_FULL),
        Bar(_LIVE, "supervised", 1.60, where=_LORA),
        *_METHODS,
        Bar("build", "forward", 1.15),
        Bar("build, shared prefix", "forward", 0.80, where={"prefix": 32}),
        Bar("twice the rows", "step", 2.20),
        Bar("one study", "single runs", 0.85, of="CPU seconds", where={"runs": 16}),
        Bar("twice the runs", "one study", 2.20, of="CPU seconds"),
    ],
    "evaluating": [
        Bar("question once", "a row an option", 0.25),
        Bar("one pass", "seven passes", 0.20),
    ],
}
LEAST_SHARE = 0.40  # of the dense bf16 peak, 1B, all weights


def ratios(kept: str, *sections: str) -> str:
    """A table of the rows of sections, or of all."""
    found = [r for r in load(kept)["rows"] if "arm_a" in r and (not sections or r["section"] in sections)]
    lines = [
        "| arms | of | rows, tokens, answers | ratio | quartiles | pairs | FLOPs predict | bar | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        bar = next((b.most for b in BARS.get(kept, ()) if b.holds_for(row)), None)
        verdict = "" if bar is None else "met" if row["ratio_median"] <= bar else "**missed**"
        quartiles = f"{row['q1']:.2f}-{row['q3']:.2f}" if row["n"] > 1 else ""
        predicted = f"{row['predicted']:.2f}" if "predicted" in row else ""
        lines.append(
            f"| {row['arm_a']} / {row['arm_b']} | {row.get('of', 'time')} | {_shape(row)} | "
            f"{row['ratio_median']:.3f} | {quartiles} | {row['n']} | {predicted} | "
            f"{'' if bar is None else f'{bar:.2f}'} | {verdict} |"
        )
    return "\n".join(lines)


def _shape(row: Row) -> str:
    if row["section"] == "s3":
        return f"{row['answers']} answers, H {row['hidden']}, V {row['vocabulary']}, K {row['k']}, head {row['head']}"
    if row["section"] == "r1":
        return f"{row['runs']} sandbox runs of {row['steps']} steps"
    parts = [f"{row['rows']}, {row['tokens']}, {row['answers']}"]
    parts += [row["method"]] if "method" in row else []
    parts += [row["shape"]] if "shape" in row else []
    parts += [row["case"]] if "case" in row else []
    parts += [f"P {row['prefix']}"] if row["section"] in ("s2", "c1") else []
    parts += [f"V {row['vocabulary']}"] if row["section"] == "v1" else []
    parts += ["LoRA"] if row.get("trained", "").startswith("lora") and row["section"] == "s2" else []
    return "; ".join(parts)


def rates(kept: str) -> str:
    """A table of achieved FLOP rates."""
    lines = [
        "| arm | trained | rows, tokens, answers | TFLOP/s | share of 790 | bar | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in load(kept)["rows"]:
        if "rate" not in row:
            continue
        share, ours = row["share_of_peak"], row["rate"] == "bidirectional" and row["section"] == "s1"
        verdict = ("met" if share >= LEAST_SHARE else "**missed**") if ours else ""
        lines.append(
            f"| {row['rate']} | {row['trained']} | {_shape(row)} | {row['tflop_per_s']:.0f} | {share:.2f} | "
            f"{f'{LEAST_SHARE:.2f}' if ours else ''} | {verdict} |"
        )
    return "\n".join(lines)


def loss_memory(kept: str) -> str:
    """A table of the bytes that loss and backward of the loss take, by vocabulary."""
    lines = ["| vocabulary | bidirectional, MB | supervised, MB |", "|---|---|---|"]
    for row in load(kept)["rows"]:
        if found := row.get("loss memory"):
            ours, theirs = (f"{found[n] / 1e6:.0f}" for n in ("bidirectional", "supervised"))
            lines.append(f"| {row['vocabulary']} | {ours} | {theirs} |")
    return "\n".join(lines)


def profile(kept: str, *what: str) -> str:
    """Where the wall milliseconds of `a build` or `a live step` go, as the profiler saw one."""
    lines = ["| function | calls | ms, callees included |", "|---|---|---|"]
    for row in load(kept)["rows"]:
        for line in row.get(f"where {' '.join(what)} goes", ()):
            lines.append(f"| `{line['name']}` | {line['calls']} | {line['ms']:.0f} |")
    return "\n".join(lines)


def place(kept: str) -> str:
    """Where the rows were measured."""
    found = load(kept)
    about, sections = found["about"], found["sections"].values()
    commits = ", ".join(dict.fromkeys(s["commit"] for s in sections))
    pairs = sum(s["pairs"] for s in sections)
    loss, gradient = (max(s[name] for s in sections) for name in ("loss", "gradient"))
    return (
        f"{about['machine']}; torch {about['torch']}, transformers {about['transformers']}, Python {about['python']}; "
        f"commit {commits}. Parity: {pairs} pairs of arms, losses apart by {loss:.1e} at most, gradients by "
        f"{gradient:.1e}."
    )


BLOCKS: Mapping[str, Callable[..., str]] = {
    "ratios": ratios,
    "rates": rates,
    "loss_memory": loss_memory,
    "profile": profile,
    "place": place,
}


def filled(page: str) -> str:
    """The page with every generated block made anew."""

    def block(match: re.Match[str]) -> str:
        head, words, end = match.groups()
        name, *given = words.split()
        return f"{head}\n{BLOCKS[name](*given)}\n\n{end}"

    return _BLOCK.sub(block, page)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or checks the page; 1 if it is stale."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--keep", nargs=2, metavar=("ROWS", "NAME"), help="first keep these rows as NAME")
    options.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 where it is stale"
    )
    given = options.parse_args(argv)
    if given.keep:
        if not Path(given.keep[0]).is_file():
            options.error(f"there is no file {given.keep[0]}")
        lines = Path(given.keep[0]).read_text(encoding="utf-8").splitlines()
        kept = RESULTS / f"{given.keep[1]}.json"
        before = load(given.keep[1]) if kept.exists() else None
        save(merged(before, compact([json.loads(line) for line in lines])), kept)
    page = PAGE.read_text(encoding="utf-8")
    after = filled(page)
    if given.check and after != page:
        print(f"{PAGE} is stale. Run: python -m benchmarks.page", file=sys.stderr)
        return 1
    if after != page:
        PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
