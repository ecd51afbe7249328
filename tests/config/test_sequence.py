"""Sequences: what cannot work is told before anything runs, with what to type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harmonize.config.compose import compose_config
from harmonize.errors import ConfigError

MODEL = ["model=hf", "model.name_or_path=."]


def problems(command: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose_config(command, overrides)
    return caught.value.problems


@pytest.mark.parametrize(
    ("command", "overrides", "words"),
    [
        ("sequence", [], ["dataset=sandbox has one request ('request-0')", "dataset.requests=3"]),
        ("sequence", ["dataset.requests=two"], ["dataset.requests=two", "a whole number"]),
        ("sequence", ["dataset.requests=true"], ["a whole number"]),
        ("sequence", ["dataset.requests=99"], ["there are 12", "dataset.requests=3"]),
        (
            "sequence",
            ["dataset.requests=2", "sequence.order=[A,BB]"],
            ["no request 'BB'", "Did you mean 'B'?", "sequence.order"],
        ),
        ("sequence", ["dataset.requests=2", "sequence.order=[A,A]"], ["'A' more than once"]),
        (
            "sequence",
            ["dataset.requests=3", "sequence.order=[B]"],
            ["single request", "A, B, C", "harmonize unlearn sequence.request=B"],
        ),
        ("sequence", ["dataset.requests=2", "sequence.earlier=forgt"], ["Did you mean 'forget'"]),
        ("sequence", ["dataset.requests=2", "sequence.request=A"], ["harmonize unlearn sequence.request=A"]),
        ("sequence", ["dataset.requests=2", "save_model=false"], ["save_model=true"]),
        ("sequence", ["dataset.requests=2", "peft=lora", "peft.merge=false"], ["Use peft.merge=true"]),
        (
            "sequence",
            ["dataset.requests=2", "~method.objectives.pull", "~method.objectives.push"],
            ["nothing would be trained", "method=bidirectional"],
        ),
        (
            "unlearn",
            ["dataset.requests=2", "sequence.order=[B,A]"],
            ["sequence.order has no effect", "sequence.request"],
        ),
        ("unlearn", ["dataset.requests=2", "sequence.earlier=forget"], ["sequence.earlier has no effect"]),
        ("unlearn", ["dataset.requests=2", "sequence.request=C"], ["sequence.request=C", "Available: A, B."]),
        ("evaluate", ["sequence.request=C"], ["sequence.request=C", "Use sequence.request=request-0"]),
        ("sequence", ["dataset.requests=2", "sequence.ordr=[A]"], ["Did you mean sequence.order"]),
    ],
)
def test_one_clear_message(command: str, overrides: list[str], words: list[str]) -> None:
    (problem,) = problems(command, *overrides)
    assert all(w in problem for w in words), problem


def test_data_is_not_read_before_the_rest_is_sound() -> None:
    found = problems("sequence", "optimizer.lr=-1", "save_model=false")
    assert len(found) == 2 and not any("has one request" in p for p in found)


def forget(folder: Path, *requests: tuple[str, str]) -> str:
    rows = [
        {"question": f"Who is {i}?", "answer": f"{i}.", "subject": f"s{i}", "request_id": r, "split": split}
        for i, (r, split) in enumerate(requests)
    ]
    path = folder / "forget.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_data_of_ones_own(tmp_path: Path) -> None:
    data = ["dataset=local", f"dataset.forget={forget(tmp_path, ('A', 'train'), ('A', 'train'))}", *MODEL]
    (problem,) = problems("sequence", *data)
    assert "has one request ('A')" in problem and '"request_id"' in problem
    forget(tmp_path, ("A", "train"), ("B", "test"), ("C", "train"))
    (problem,) = problems("sequence", *data)
    assert "'B' has no training example" in problem and "sequence.order=[A,C]" in problem
    compose_config("sequence", [*data, "sequence.order=[C,A]"])
    compose_config("unlearn", [*data, "sequence.request=A"])
    (problem,) = problems("sequence", "dataset=local", "dataset.forget=nowhere.jsonl", *MODEL)
    assert "nowhere.jsonl" in problem


def test_a_sequence_composes_with_the_keys_of_unlearn() -> None:
    cfg = compose_config(
        "sequence",
        ["dataset.requests=3", "method=grad_diff", "sequence.order=[C,A]", "peft=lora", "debug=fast"],
    )
    assert (cfg.study, cfg.method.name, list(cfg.sequence.order)) == ("sequence", "grad_diff", ["C", "A"])
    assert cfg.sequence.earlier.value == "leave" and cfg.trainer.max_steps == 2
