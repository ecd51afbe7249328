"""Scenes for parts: the small world of `worlds`, an oracle, settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tokenizers as tk
import transformers as tf

from harmonize.data.render import Renderer
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import Part, measure_parts
from tests.evaluation import oracle, worlds


def renderer(texts: Iterable[str]) -> Renderer:
    """Words are tokens; a newline is one, too."""
    found = [w for t in texts for w in t.replace("\n", " \n ").replace(":", " : ").split(" ")]
    known = [
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        "\n",
        *sorted({*found, "Question", "Answer", ":", "a"} - {"", "\n"}),
    ]
    raw = tk.Tokenizer(tk.models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    raw.pre_tokenizer = tk.pre_tokenizers.Sequence(
        [
            tk.pre_tokenizers.Split("\n", "isolated"),
            tk.pre_tokenizers.Split(" ", "removed"),
            tk.pre_tokenizers.Split(":", "isolated"),
        ]
    )
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", bos_token="<s>"
    )
    return Renderer(tokenizer)


def measure(part: Part, loaded: Any, corpus: Any = None, name: str = "part", **settings: Any) -> Report:
    """One part's report; an error of it is raised."""
    reference = settings.pop("reference", None)
    samples = settings.pop("samples", ())
    told, beside = settings.pop("instruction", None), settings.pop("beside", None)
    corpus = corpus or worlds.corpus()
    suite = worlds.suite(**settings)
    part.check(corpus, suite)
    report = measure_parts(
        {name: part},
        loaded,
        corpus,
        suite,
        Report({}, list(samples)),
        references={name: reference} if reference else None,
        beside=beside,
        instruction=told,
        instruct_roles=("forget",),
    )
    for error in report.failures.values():
        raise error
    return report


def values(report: Report) -> dict[str, float | None]:
    return {k: m.value for k, m in report.metrics.items()}


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return path


def knowing(made: Renderer, known: Iterable[Sequence[int]]) -> SimpleNamespace:
    """An oracle that knows these sequences of ids."""
    return SimpleNamespace(model=oracle.Oracle(known, len(made.tokenizer)).eval(), renderer=made)
