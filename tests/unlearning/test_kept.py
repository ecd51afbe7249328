"""`harmonize evaluate`: not twice, on after a kill, and on folders that this tool did not make."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harmonize.cli import main
from harmonize.models import generate
from harmonize.tracking.results import Run, read_run
from tests.evaluation import fake_vllm
from tests.unlearning.test_run import write_data

Evaluate = Callable[..., tuple[int, Path, str]]


@pytest.fixture
def evaluate(
    shared: Path,
    tmp_path: Path,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Evaluate:
    """Runs `harmonize evaluate` on the toy data and a small real model in a plain folder that somebody else made."""
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path / "data")
    model = shared / "models" / "stories260k"

    def run(job: str, *overrides: str) -> tuple[int, Path, str]:
        base = {
            "dataset": "local", "dataset.examples": str(data), "dataset.openers": "['Sure, here it is:']",
            "model": "hf", "model.name_or_path": str(model), "suite.max_new_tokens": "6", "suite.batch_size": "4",
            "suite.bootstrap": "20", "suite.relearn_steps": "2", "suite.relearn_facts": "1", "logger.csv": "false",
        }  # fmt: skip
        given = {**base, **dict(o.split("=", 1) for o in overrides), "job": job}
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", *(f"{k}={v}" for k, v in given.items())])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), Path("runs/evaluate") / job, captured.out + captured.err

    return run


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that were generated."""
    seen: list[int] = []
    real = generate._continue

    def counted(model: Any, prompts: Any, *rest: Any) -> Any:
        seen.append(len(prompts))
        return real(model, prompts, *rest)

    monkeypatch.setattr(generate, "_continue", counted)
    return seen


def _found(folder: Path) -> tuple[Any, ...]:
    run: Run = read_run(folder)
    return run.results.metrics, run.results.outcomes, run.samples_path.read_text()


def test_the_second_evaluation_reads_the_first(
    evaluate: Evaluate, batches: list[int], cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, first, text = evaluate("first")
    assert code == 0 and batches and "Read from the cache" not in text, text
    asked = len(batches)
    code, second, text = evaluate("second")
    assert code == 0 and len(batches) == asked and "Read from the cache" in text and "cache=false" in text
    assert _found(first) == _found(second)
    assert [read_run(f).results.extra["from_cache"] for f in (first, second)] == [False, True]
    # refused, it measures anew
    code, third, text = evaluate("third", "cache=false")
    assert code == 0 and len(batches) == 2 * asked and "Read from the cache" not in text
    assert _found(third) == _found(first)
    # whatever the figures depend on is part of the key
    for i, changed in enumerate(
        (
            "suite.max_new_tokens=5",
            "dataset.openers=['Of course:']",
            "split=val",
            "seed=1",
            "suite.relearn_steps=1",
        )
    ):
        before = len(batches)
        code, _, text = evaluate(f"other{i}", changed)
        assert code == 0 and len(batches) > before and "Read from the cache" not in text, changed
    (folder, *_) = [p for p in (cache_dir / "evaluated").iterdir() if p.is_dir()]
    assert all(p.stat().st_mode & 0o077 == 0 for p in (folder, *folder.iterdir()))
    with pytest.raises(SystemExit):
        main(["ls", "caches"])
    assert "evaluated" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["purge", "runs/evaluate", "--yes"])
    assert not [p for p in (cache_dir / "evaluated").iterdir() if p.is_dir()]


def test_other_weights_are_another_evaluation(evaluate: Evaluate, shared: Path, tmp_path: Path) -> None:
    assert evaluate("first")[0] == 0
    model = AutoModelForCausalLM.from_pretrained(shared / "models" / "stories260k")
    with torch.no_grad():
        next(iter(model.parameters()))[0, 0] += 1e-3
    model.save_pretrained(tmp_path / "moved")
    AutoTokenizer.from_pretrained(shared / "models" / "stories260k").save_pretrained(tmp_path / "moved")
    code, _, text = evaluate("second", f"model.name_or_path={tmp_path / 'moved'}")
    assert code == 0 and "Read from the cache" not in text
    # the same weights in another folder are the same model
    shutil.copytree(shared / "models" / "stories260k", tmp_path / "copy")
    code, _, text = evaluate("third", f"model.name_or_path={tmp_path / 'copy'}")
    assert code == 0 and "Read from the cache" in text


def test_a_killed_evaluation_goes_on(
    evaluate: Evaluate, batches: list[int], monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    code, whole, _ = evaluate("whole", "cache=false")
    assert code == 0
    in_all = len(batches)
    counted = generate._continue

    def dying(*arguments: Any) -> Any:
        if len(batches) == in_all + 5:
            raise KeyboardInterrupt
        return counted(*arguments)

    monkeypatch.setattr(generate, "_continue", dying)
    code, folder, text = evaluate("stopped")
    assert code == 130 and "resume=true" in text and len(batches) == in_all + 5
    assert not (folder / "results.json").exists()
    monkeypatch.setattr(generate, "_continue", counted)
    code, folder, text = evaluate("stopped", "resume=true")
    assert code == 0 and "Going on with the answers" in text
    assert len(batches) == 2 * in_all, "the five batches of the first try are not asked again"
    assert _found(folder) == _found(whole)


def test_folders_that_cannot_be_evaluated_say_why(evaluate: Evaluate, shared: Path, tmp_path: Path) -> None:
    source = shared / "models" / "stories260k"

    def folder(name: str) -> Path:
        shutil.copytree(source, tmp_path / name)
        return tmp_path / name

    bare = folder("bare")
    for path in bare.glob("*token*"):
        path.unlink()
    empty = folder("empty")
    for path in empty.glob("*.safetensors"):
        path.unlink()
    mixed = folder("mixed")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(mixed)
    other = folder("other")
    model = AutoModelForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(other)
    tokenizer.save_pretrained(other)
    for job, overrides, message in (
        ("bare", [f"model.name_or_path={bare}"], "has no tokenizer. Save it there"),
        ("empty", [f"model.name_or_path={empty}"], "has no weights"),
        ("mixed", [f"model.name_or_path={mixed}"], "the model has embeddings for"),
        ("gold", [f"model.gold={other}"], "another vocabulary"),
    ):
        code, place, text = evaluate(job, *overrides)
        assert code == 1 and message in text and "Traceback" not in text, (job, text)
        assert not (place / "results.json").exists()
    assert "'<one>', '<two>'" in text and "model.gold=null" in text


def test_answers_of_vllm_are_measured_and_kept_apart(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in answers; weights that an attack changed are torch's, so every figure is the same but for the draws."""
    engines = fake_vllm.install(monkeypatch).made
    code, plain, text = evaluate("torch", "suite.leak_draws=0")
    assert code == 0 and not engines, text
    code, served, text = evaluate("vllm", "suite.leak_draws=0", "backend=vllm")
    assert code == 0 and engines[0].requests > 0 and "Read from the cache" not in text, text
    assert _found(served) == _found(plain)
    assert not Path(engines[0].folder).exists()
