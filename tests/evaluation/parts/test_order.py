"""Figures of every benchmark depend neither on the batch size nor on the order of its files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from harmonize.evaluation.pairing import keyed, scores
from harmonize.evaluation.parts import choices, muse, rwku, tofu, xstest
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import Part
from tests.evaluation.parts.scenes import measure, renderer, write_rows

FEW = 4
CONTEXT = 256


def random_model(folder: Path) -> SimpleNamespace:
    """A tiny model that knows nothing, in double precision; the words of some files are its tokens."""
    found = {word for file in folder.rglob("*.*") for word in re.split(r"[\s\"\\]+", file.read_text())}
    made = renderer(sorted(found | {*"ABCD."}))
    torch.manual_seed(0)
    config = tf.GPT2Config(
        vocab_size=len(made.tokenizer), n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2
    )
    model = tf.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0, 0.3)
    return SimpleNamespace(model=model, renderer=made)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()[:FEW]]


def _tofu(shared: Path, to: Path, turn: Callable[[list[Any]], list[Any]]) -> Part:
    for stem in ("forget01", "retain", "real_authors", "world_facts"):
        name = f"{stem}_perturbed.json"
        write_rows(to / name, turn(_lines(shared / "data" / "tofu" / name)))
    return tofu.Tofu(root=str(to), max_new_tokens=4)


def _muse(shared: Path, to: Path, turn: Callable[[list[Any]], list[Any]]) -> Part:
    qa = [{"question": f"Who wrote book {i} of {10 * i}?", "answer": f"The {i}th author"} for i in range(FEW)]
    texts = [f"Chapter {i}. It was a {'very ' * i}dark night in {1800 + i}." for i in range(2 * FEW)]
    sets = {
        "knowmem/forget_qa": turn(qa),
        "knowmem/retain_qa": turn(qa),
        "knowmem/forget_qa_icl": qa[:1],  # few-shot examples are part of the prompt: their order is theirs
        "verbmem/forget": turn([{"prompt": t[:20], "gt": t[20:]} for t in texts[:FEW]]),
        "privleak/forget": turn(texts[:FEW]),
        "privleak/holdout": turn(texts[FEW:]),
    }
    for name, rows in sets.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / f"{name}.json").write_text(json.dumps(rows))
    return muse.Muse(root=str(to), verbmem_tokens=6, knowmem_tokens=4)


def _rwku(shared: Path, to: Path, turn: Callable[[list[Any]], list[Any]]) -> Part:
    for name in rwku.SETS:
        write_rows(to / f"{name}.jsonl", turn(_lines(shared / "data" / "rwku" / f"{name}.jsonl")))
    return rwku.Rwku(root=str(to), max_new_tokens=3, passage_tokens=40)


def _wmdp(form: str) -> Callable[..., Part]:
    def made(shared: Path, to: Path, turn: Callable[[list[Any]], list[Any]]) -> Part:
        rows = json.loads((shared / "data" / "wmdp_cyber" / "questions.json").read_text())
        short = sorted(rows, key=lambda r: len(str(r)))[: 2 * FEW]
        to.mkdir(parents=True)
        (to / "cyber_questions.json").write_text(json.dumps(turn(short)))
        return choices.Wmdp(root=str(to), form=form)

    return made


def _xstest(shared: Path, to: Path, turn: Callable[[list[Any]], list[Any]]) -> Part:
    head, *lines = (shared / "data" / "xstest" / "xstest_prompts.csv").read_text().splitlines()
    to.mkdir(parents=True)
    chosen = turn([*lines[:FEW], *lines[-FEW:]])
    (to / "xstest_prompts.csv").write_text("\n".join([head, *chosen]) + "\n")
    return xstest.Xstest(root=str(to))


PARTS = {
    "tofu": _tofu,
    "muse": _muse,
    "rwku": _rwku,
    "wmdp letters": _wmdp("letters"),
    "wmdp options": _wmdp("options"),
    "xstest": _xstest,
}


@pytest.mark.parametrize("name", PARTS)
def test_neither_batch_size_nor_order(name: str, shared: Path, tmp_path: Path) -> None:
    reports: list[Report] = []
    model: Any = None
    for number, (turn, size) in enumerate(((list, 64), (list, 3), (lambda rows: rows[::-1], 64))):
        part = PARTS[name](shared, tmp_path / str(number), turn)
        model = model or random_model(tmp_path)
        reports.append(measure(part, model, batch_size=size, bootstrap=2, max_new_tokens=4))
    first = reports[0]
    measured = {k: m for k, m in first.metrics.items() if m.value is not None}
    assert measured and len(first.samples) >= 2 * FEW
    # every mean over rows can be paired with another run's
    keyed_samples, told = keyed(first.samples), 0
    for key, metric in measured.items():
        if (rows := scores(key, keyed_samples)) is not None:
            assert len(rows) == metric.n and metric.value == pytest.approx(
                np.mean([v for v, _ in rows.values()])
            )
            told += 1
        else:
            assert re.search("model_utility|mia_|privleak|_loss$", key), key
    assert told
    for other in reports[1:]:
        values = {k: m.value for k, m in other.metrics.items() if m.value is not None}
        assert values == pytest.approx({k: m.value for k, m in measured.items()}, abs=1e-7)
        assert {k: other.metrics[k].n for k in measured} == {k: m.n for k, m in measured.items()}
        said = [sorted(str(s.get("output")) for s in r.samples) for r in (first, other)]
        assert said[0] == said[1]
