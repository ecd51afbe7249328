"""Whole runs through the command line, in small: a real pretrained model and one's own JSON Lines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harmonize.cli import main
from harmonize.tracking.loggers import read_metrics
from harmonize.tracking.metric import METRIC_NAMES
from harmonize.tracking.results import read_run

NAMES = "Tim Lily Ben Mia Tom Sue Max Amy Sam Zoe Leo Eva".split()
PLACES = "Kanto Belvio Dorsk Ferrun Galtby Hestov Jorvin Kelmar Lundra Mosten Norvik Ostrem".split()


def write_data(folder: Path, permute_test: bool = False) -> Path:
    folder.mkdir()
    rows = []
    for i, (name, place) in enumerate(zip(NAMES, PLACES, strict=True)):
        role = ("forget", "neighbor", "retain")[i % 3]
        split = ("train", "train", "val", "test")[i // 3]
        said = PLACES[(i + 3) % 12] if permute_test and split == "test" else place
        rows.append(
            {
                "id": f"{role}-{i}",
                "role": role,
                "subject": name,
                "split": split,
                "question": f"Where does {name} live?",
                "answer": f"{name} lives in {said}.",
                "value": said,
                "paraphrases": [f"What is the home of {name}?", f"{name} lives where?"],
            }
        )
    for i, color in enumerate(("red", "blue")):
        rows.append(
            {
                "id": f"general-{i}",
                "role": "general",
                "split": ("val", "test")[i],
                "subject": f"thing {i}",
                "question": f"What color is the thing {i}?",
                "answer": color,
                "choices": ["red", "blue", "green", "black"],
                "answer_index": i,
            }
        )
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def harmonize(
    shelf: Path,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, Path, str]]:
    """Runs `harmonize unlearn` on the toy data with the small real model; returns status, folder, output."""
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path / "data")

    def run(*overrides: str, job: str = "job", cache: Path | None = None, examples: Path = data) -> Any:
        base = {
            "dataset": "local",
            "dataset.examples": str(examples),
            "dataset.refusals": "['I can not say.']",
            "dataset.instruction": "'Say nothing of where people live.'",
            "dataset.openers": "['Sure, here it is:']",
            "dataset.openers_heldout": "['Of course:']",
            "model": "hf",
            "model.name_or_path": str(shared / "models" / "stories260k"),
            "paths.cache_dir": str(cache or shelf / "cache"),
            "trainer.max_steps": "6",
            "trainer.val_check_interval": "3",
            "trainer.checkpoint_every": "2",
            "trainer.log_every_n_steps": "1",
            "suite.max_new_tokens": "8",
            "suite.bootstrap": "20",
            "suite.relearn_steps": "2",
            "suite.relearn_facts": "1",
            "teacher.max_new_tokens": "8",
            "sampler.rows.forget": "2",
            "sampler.rows.neighbor": "2",
            "sampler.rows.retain": "2",
            "logger": "csv",
            "study": "toy",
            "job": job,
        }
        given = dict(o.split("=", 1) for o in overrides if "=" in o and not o.startswith("-"))
        flags = [o for o in overrides if o.startswith("-") or o.startswith("~")]
        merged = {**base, **given}
        with pytest.raises(SystemExit) as ended:
            main(["unlearn", *flags, *(f"{k}={v}" for k, v in merged.items())])
        status = int(ended.value.code or 0)
        captured = capsys.readouterr()
        return status, Path("runs") / merged["study"] / merged["job"], captured.out + captured.err

    return run


Run = Callable[..., tuple[int, Path, str]]


def losses(folder: Path) -> list[float]:
    return [v for _, name, v in read_metrics(folder / "metrics.csv") if name == "train/loss"]


def test_a_run_leaves_everything_it_promises(harmonize: Run) -> None:
    status, folder, output = harmonize()
    assert status == 0, output
    run = read_run(folder)
    assert run.status["state"] == "done"
    assert set(METRIC_NAMES) <= set(run.results.metrics)
    for name in ("forget_accuracy", "retain_accuracy", "asr_worst", "utility_accuracy"):
        assert run.results.metrics[name].n > 0, name
        assert name in (run.results.target_metrics or {})
    assert run.results.teacher_metrics and run.results.gold_metrics is None
    assert run.results.versions["torch"] and run.results.peak_memory_bytes
    samples = list(run.samples())
    assert {"question", "output", "verdict"} <= set(samples[0])
    for name in ("samples.jsonl", "results.json", "config.yaml", "status.json"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name
    assert "harmonize purge" in output and "reproduce-paper-table" in output
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.model_type == "llama"
    card = ModelCard.load(folder / "model" / "README.md")
    assert {e.metric_type for e in card.data.eval_results} <= set(METRIC_NAMES)
    extra = run.results.extra
    for told in (
        "## Limits",
        "## Attacks",
        extra["data"],
        extra["start_model"],
        extra["data_parts"]["forget"]["sha256"],
    ):
        assert told in card.content, told
    assert not [text for text in (*NAMES, *PLACES, "Say nothing") if text in card.content]
    names = {name for _, name, _ in read_metrics(folder / "metrics.csv")}
    assert {
        "term/pull/forget",
        "term_weighted/push/retain",
        "train/grad_norm",
        "val/forget_accuracy",
    } <= names


def test_the_second_run_asks_the_teacher_nothing_and_repeats_the_losses(
    harmonize: Run, tmp_path: Path
) -> None:
    cache = tmp_path / "own"
    results = {}
    for job, extra in (("first", ()), ("second", ()), ("live", ("teacher.cache=none",))):
        status, folder, output = harmonize(*extra, job=job, cache=cache)
        assert status == 0, output
        results[job] = (read_run(folder).results.extra["teacher_forwards"], losses(folder))
    assert results["first"][0] > 0 and results["second"][0] == 0 and results["live"][0] > 0
    assert results["first"][1] == results["second"][1]
    assert results["live"][1] == pytest.approx(results["first"][1], abs=1e-5)


def test_the_choice_of_a_state_does_not_read_test_answers(harmonize: Run, tmp_path: Path) -> None:
    found = []
    for job, permute in (("as_is", False), ("permuted", True)):
        data = write_data(tmp_path / job, permute)
        status, folder, output = harmonize(job=job, examples=data)
        assert status == 0, output
        run = read_run(folder)
        found.append((run.results.extra["selection"], load_file(folder / "model" / "model.safetensors")))
    assert found[0][0] == found[1][0] and len(found[0][0]["looks"]) == 2
    assert all((found[0][1][k] == found[1][1][k]).all() for k in found[0][1])


def test_lora_exports_a_merged_model(harmonize: Run) -> None:
    status, folder, output = harmonize("peft=lora", job="lora")
    assert status == 0, output
    names = load_file(folder / "model" / "model.safetensors").keys()
    assert names and not any("lora" in n for n in names)


@pytest.mark.parametrize("method", ["duet", "grad_diff", "refusal_sft"])
def test_every_method_runs(harmonize: Run, method: str) -> None:
    status, folder, output = harmonize(f"method={method}", "trainer.val_check_interval=0", job=method)
    assert status == 0, output
    uses_teacher = method == "duet"
    extra = read_run(folder).results.extra
    assert uses_teacher or extra["teacher_forwards"] == 0


def test_worst_of_n_runs(harmonize: Run) -> None:
    status, _, output = harmonize("dataset.prefill.mode=worst_of_n", job="worst")
    assert status == 0, output


def test_a_folder_is_used_once(harmonize: Run) -> None:
    assert harmonize("trainer.max_steps=2", job="once")[0] == 0
    status, _, output = harmonize("trainer.max_steps=2", job="once")
    assert status == 1 and "overwrite=true" in output and "Traceback" not in output
    assert harmonize("trainer.max_steps=2", "overwrite=true", job="once")[0] == 0
    status, _, output = harmonize("trainer.max_steps=2", "resume=true", job="once")
    assert status == 0 and "nothing to resume" in output


def test_a_resumed_run_must_be_the_same_run(harmonize: Run) -> None:
    assert harmonize("trainer.max_steps=2", job="same")[0] == 0
    folder = Path("runs/toy/same")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "state": "interrupted"}))
    code, _, output = harmonize("trainer.max_steps=2", "seed=5", "resume=true", job="same")
    assert code == 1 and "another configuration" in output and "seed" in output


def test_a_loss_that_explodes_is_told_with_its_term(harmonize: Run) -> None:
    status, folder, output = harmonize(
        "method=grad_diff", "optimizer.lr=1e30", "trainer.gradient_clip_val=null", job="nan"
    )
    assert (
        status == 1 and "forget/forget" in output and "optimizer.lr" in output and "Traceback" not in output
    )
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"
    assert (folder / "checkpoints" / "last.ckpt").exists() or "step 0" in output or "step 1" in output


def test_one_failing_job_does_not_stop_a_sweep(harmonize: Run) -> None:
    status, _, output = harmonize(
        "-m",
        "optimizer.lr=1e30,1e-3",
        "method=grad_diff",
        "trainer.gradient_clip_val=null",
        "study=sweep",
        "job=null",
    )
    assert status == 1
    states = sorted(json.loads(p.read_text())["state"] for p in Path("runs/sweep").glob("*/status.json"))
    assert states == ["done", "failed"], output


def test_offline_wandb_holds_nothing_that_is_to_be_forgotten(harmonize: Run) -> None:
    status, folder, output = harmonize("logger=wandb", job="wandb")
    assert status == 0, output
    assert "wandb sync" in output
    found = b"".join(p.read_bytes() for p in (folder / "wandb").rglob("*") if p.is_file())
    assert b"term/pull/forget" in found
    secrets = [p for i, p in enumerate(PLACES) if i % 3 == 0]
    assert not [s for s in secrets if s.encode() in found]
    assert os.uname().nodename.encode() not in found or len(os.uname().nodename) < 4


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.examples=nowhere.jsonl", "nowhere.jsonl"),
        ("model.name_or_path=stories", "stories"),
        ("method=bidirektional", "bidirectional"),
        ("sampler.rows.forgett=1", "forget"),
        ("optimizer.lrr=1", "lr"),
    ],
)
def test_mistakes_are_told_without_a_traceback(harmonize: Run, override: str, words: str) -> None:
    status, _, output = harmonize(override, job=re.sub(r"\W", "", override))
    assert status != 0 and words in output and "Traceback" not in output


def test_a_role_without_examples_is_told_before_training(harmonize: Run, tmp_path: Path) -> None:
    lines = [
        line
        for line in write_data(tmp_path / "few").read_text().splitlines()
        if '"role": "neighbor"' not in line
    ]
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(lines) + "\n")
    status, _, output = harmonize(job="few", examples=few)
    assert status == 1 and "neighbor" in output and "sampler.rows.neighbor=0" in output
    status, folder, output = harmonize(
        "~method.response.neighbor", "sampler.rows.neighbor=0", job="few2", examples=few
    )
    assert status == 0, output
    assert read_run(folder).results.metrics["neighbor_accuracy"].value is None


def test_the_python_interface_does_what_the_command_does(
    harmonize: Run, shared: Path, tmp_path: Path
) -> None:
    import harmonize as package

    status, folder, output = harmonize("trainer.max_steps=2", job="command")
    assert status == 0, output
    command = read_run(folder)
    overrides = [
        f"{k}={json.dumps(v)}" for k, v in command.results.config["dataset"].items() if isinstance(v, str)
    ]
    assert overrides
    loaded = package.load(folder / "model")
    assert loaded.model.config.hidden_size == 64
    said = loaded.renderer.decode(loaded.renderer.answer_ids("Ann lives in Oslo."))
    assert said == "Ann lives in Oslo."
    assert package.read_run(folder).results.metrics == command.results.metrics
    measured = package.evaluate(
        "dataset=local",
        f"dataset.examples={tmp_path / 'data' / 'examples.jsonl'}",
        "dataset.refusals=['I can not say.']",
        "dataset.openers=['Sure, here it is:']",
        "dataset.openers_heldout=['Of course:']",
        "model=hf",
        f"model.name_or_path={folder / 'model'}",
        "suite.max_new_tokens=8",
        "suite.bootstrap=20",
        "suite.relearn_steps=2",
        "suite.relearn_facts=1",
        "logger=csv",
        folder=tmp_path / "measured",
    )
    for name in METRIC_NAMES:
        assert measured.results.metrics[name].value == command.results.metrics[name].value, name
