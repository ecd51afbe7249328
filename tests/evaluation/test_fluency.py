"""What the gibberish rules find and what they do not, on labelled texts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from harmonize.evaluation.scores.fluency import is_gibberish


def answers(shared: Path) -> list[str]:
    lines = (shared / "data" / "tofu" / "full.json").read_text().splitlines()
    return [json.loads(line)["answer"] for line in lines][:1000]


def shuffled_letters(text: str, draw: random.Random) -> str:
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=len(w))) for w in text.split())


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        ("language", 0.0, 0.002),
        ("random letters", 0.95, 1.0),
        ("random tokens", 0.85, 1.0),
        ("symbols", 1.0, 1.0),
        ("one word", 1.0, 1.0),
        ("word salad", 0.0, 0.05),
    ],
)
def test_error_on_labelled_texts(shared: Path, record_property, kind: str, least: float, most: float) -> None:
    draw = random.Random(0)
    texts = answers(shared)
    if kind == "random letters":
        texts = [shuffled_letters(t, draw) for t in texts]
    elif kind == "symbols":
        texts = ["".join(draw.choices("#@[]{}<>|~^", k=40)) for _ in texts]
    elif kind == "one word":
        texts = [" ".join([t.split()[0]] * 12) for t in texts]
    elif kind == "random tokens":
        tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2_tokenizer")
        texts = [tokenizer.decode([draw.randrange(50000) for _ in range(25)]) for _ in texts]
    elif kind == "word salad":  # real words in any order: what these rules cannot see
        texts = [" ".join(draw.sample(t.split(), len(t.split()))) for t in texts]
    rate = sum(map(is_gibberish, texts)) / len(texts)
    record_property("share called gibberish", rate)
    assert least <= rate <= most


def test_short_true_answers_are_language(shared: Path) -> None:
    rows = [json.loads(r) for r in (shared / "data/rwku/forget_level2.jsonl").read_text().splitlines()]
    names = [str(r["answer"]) for r in rows]
    rate = sum(map(is_gibberish, names)) / len(names)
    assert len(names) > 300 and rate <= 0.005


@pytest.mark.parametrize("text", ["", "  ...", "xkcdqq zzrtpl mmnbvc", "a" * 40, "\ufffd\ufffd\ufffd x"])
def test_no_language(text: str) -> None:
    assert is_gibberish(text)


@pytest.mark.parametrize(
    "text", ["Yes.", "42", "Dr. Smyth", "2 + 2 = 4", "$5", "Она живёт в Киеве.", "東京です", "rhythm"]
)
def test_language(text: str) -> None:
    assert not is_gibberish(text)
