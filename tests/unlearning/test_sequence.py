"""Whole sequences in small: a real pretrained model, three requests, Ctrl-C, kill and resume, adapters."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from safetensors.torch import load_file

import harmonize
from harmonize.cli import main
from harmonize.evaluation.answers import ANSWER_METRICS
from harmonize.tracking.results import read_run
from harmonize.tracking.sequence import SequenceResults, read_sequence
from tests.unlearning.test_run import write_data

# forget examples of `write_data`: one subject each, the last one held out
REQUESTS = {"forget-0": "A", "forget-3": "B", "forget-6": "C", "forget-9": "A"}
FOLDERS = ("1_A", "2_B", "3_C")


def with_requests(folder: Path) -> Path:
    path = write_data(folder)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["role"] == "forget":
            row |= {
                "request_id": REQUESTS[row["id"]],
                "split": "test" if row["id"] == "forget-9" else "train",
            }
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> list[str]:
    """Overrides of every sequence here."""
    shelf = tmp_path_factory.mktemp("shelf")
    model = shared / "models" / "stories260k"
    return [
        "dataset=local",
        f"dataset.examples={with_requests(shelf / 'data')}",
        "dataset.refusals=['I can not say.']",
        "dataset.openers=['Sure, here it is:']",
        "dataset.openers_heldout=['Of course:']",
        "model=hf",
        f"model.name_or_path={model}",
        f"paths.cache_dir={shelf / 'cache'}",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "trainer.checkpoint_every=1",
        "trainer.log_every_n_steps=1",
        "trainer.enable_progress_bar=false",
        "suite.max_new_tokens=8",
        "suite.bootstrap=20",
        "suite.relearn=false",
        "teacher.max_new_tokens=8",
        "sampler.rows.forget=2",
        "sampler.rows.neighbor=2",
        "sampler.rows.retain=2",
        "logger=csv",
    ]


@pytest.fixture(scope="module")
def whole(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> SequenceResults:
    """A sequence that nothing disturbed, with the untouched model in gold's place."""
    folder = tmp_path_factory.mktemp("whole") / "seq"
    target = next(o for o in base if o.startswith("model.name_or_path="))
    return harmonize.sequence(*base, target.replace("name_or_path", "gold"), folder=folder)


@pytest.fixture
def command(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Path, str]]:
    """Runs `harmonize sequence` from the command line; returns status, folder, output."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, job: str = "job") -> tuple[int, Path, str]:
        with pytest.raises(SystemExit) as ended:
            main(["sequence", *base, *overrides, f"job={job}"])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), Path("runs/sequence") / job, captured.out + captured.err

    return run


def state(folder: Path) -> str:
    return str(json.loads((folder / "status.json").read_text())["state"])


def same_figures(one: SequenceResults, two: SequenceResults) -> bool:
    return [s.measured for s in one.steps] == [s.measured for s in two.steps]


def test_every_request_is_a_run_that_starts_from_the_last(whole: SequenceResults) -> None:
    assert whole.order == ["A", "B", "C"] and whole.complete and state(whole.path) == "done"
    assert whole.requests["A"] == {"train": 1, "val": 0, "test": 1}
    runs = [read_run(whole.path / name) for name in FOLDERS]
    assert [r.results.config["sequence"]["request"] for r in runs] == whole.order
    starts = [r.results.config["model"]["name_or_path"] for r in runs]
    assert starts[1:] == [str(whole.path / name / "model") for name in FOLDERS[:2]]
    models = [load_file(whole.path / name / "model" / "model.safetensors") for name in FOLDERS]
    assert all(any((a[k] != b[k]).any() for k in a) for a, b in pairwise(models))
    for name in ("sequence.json", "sequence.md", "sequence.png", "config.yaml"):
        assert (whole.path / name).stat().st_mode & 0o077 == 0, name


def test_all_requests_are_measured_after_each(whole: SequenceResults) -> None:
    assert [s.request for s in whole.steps] == [None, "A", "B", "C"]
    for step in whole.steps:
        asked = whole.asked(step.number)
        for request, metrics in step.measured.requests.items():
            assert metrics["forget_accuracy"].n > 0
            assert ("asr_worst" in metrics) == (request in asked or step.number == 0)
            assert set(ANSWER_METRICS) <= set(metrics) or request not in asked
        for name in ("retain_accuracy", "neighbor_accuracy", "utility_accuracy", *ANSWER_METRICS):
            assert step.number == 0 or step.measured.kept[name].n > 0, name
    kept = [s.measured.kept["retain_accuracy"].n for s in whole.steps]
    assert len(set(kept)) == 1, "the same questions after every request"


def test_figures_of_a_request_are_those_of_its_own_run(whole: SequenceResults) -> None:
    for number, request in enumerate(whole.order, 1):
        own = read_run(whole.path / FOLDERS[number - 1]).results
        found = whole.steps[number].measured
        assert found.value(request, "forget_accuracy") == own.metrics["forget_accuracy"].value
        assert found.value(None, "utility_accuracy") == own.metrics["utility_accuracy"].value
        before = whole.steps[number - 1].measured.value(request, "forget_accuracy")
        assert before == (own.target_metrics or {})["forget_accuracy"].value, "measured again by the next run"


def test_summaries_and_gold(whole: SequenceResults) -> None:
    names = [s["name"] for s in whole.summaries]
    assert names == ["DDS", "DUS", "F.D.", "R.U.", "came back", "kept until asked"]
    assert all(s["value"] is not None for s in whole.summaries)
    assert whole.gold is not None and set(whole.gold.requests) == {"A", "B", "C"}
    untouched = whole.steps[0].measured
    for request in whole.order:  # gold is the untouched model here
        assert whole.gold.value(request, "asr_worst") == untouched.value(request, "asr_worst")


def test_one_turn_can_be_repeated_alone(whole: SequenceResults, base: list[str], tmp_path: Path) -> None:
    start = whole.path / "1_A" / "model"
    own = [o for o in base if not o.startswith("model.name_or_path=")]
    again = harmonize.unlearn(
        *own, "sequence.request=B", f"model.name_or_path={start}", folder=tmp_path / "b"
    )
    there = read_run(whole.path / "2_B").results
    # gold apart, the sequence's run is the same one
    assert again.results.metrics == there.metrics
    one, two = (load_file(p / "model" / "model.safetensors") for p in (tmp_path / "b", whole.path / "2_B"))
    assert all((one[k] == two[k]).all() for k in one)


class InterruptOnce(L.Callback):
    """Ctrl-C after two steps of the second training of this process, once."""

    trainings = 0

    def on_train_start(self, *args: Any) -> None:
        InterruptOnce.trainings += 1

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if InterruptOnce.trainings == 2 and trainer.global_step == 2:
            InterruptOnce.trainings += 100
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("foreground")
def test_ctrl_c_and_resume(command: Any, whole: SequenceResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InterruptOnce, "trainings", 0)
    stop = ("--allow", "tests", f"+callbacks.stop={{_target_: {__name__}.InterruptOnce}}")
    status, folder, output = command(*stop)
    assert status == 130 and "resume=true" in output and "Traceback" not in output
    assert [state(folder), state(folder / "1_A"), state(folder / "2_B")] == [
        "interrupted",
        "done",
        "interrupted",
    ]
    assert not (folder / "3_C").exists() and len(read_sequence(folder).steps) == 2
    first = (folder / "1_A" / "results.json").stat().st_mtime_ns
    status, folder, output = command(*stop, "resume=true")
    assert status == 0, output
    assert (folder / "1_A" / "results.json").stat().st_mtime_ns == first, (
        "finished requests are not run again"
    )
    assert "Request 1 of 3" not in output and "Request 2 of 3: B" in output
    found = read_sequence(folder)
    assert same_figures(found, whole) and state(folder) == "done"
    models = [load_file(p / "3_C" / "model" / "model.safetensors") for p in (folder, whole.path)]
    assert all((models[0][k] == models[1][k]).all() for k in models[0])
    status, _, output = command(*stop, "resume=true")
    assert status == 0 and "nothing to resume" in output and "3 C" in output
    status, _, output = command(*stop)
    assert status == 1 and "overwrite=true" in output


def test_a_killed_sequence_goes_on(command: Any, whole: SequenceResults) -> None:
    assert command("sequence.order=[A,B]")[0] == 0
    folder = Path("runs/sequence/job")
    done = read_sequence(folder)
    # as if the process had died while it measured after B: nothing of that step is recorded
    data = json.loads((folder / "sequence.json").read_text())
    data["steps"], data["summaries"] = data["steps"][:2], []
    (folder / "sequence.json").write_text(json.dumps(data))
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "state": "running"}))
    code, _, output = command("sequence.order=[A,B]", "resume=true")
    assert code == 0 and "Request" not in output, output
    found = read_sequence(folder)
    assert same_figures(found, done) and found.summaries == done.summaries
    assert found.steps[1].measured.requests["A"] == whole.steps[1].measured.requests["A"], (
        "C is never asked for"
    )
    # a model that the next request needs is gone
    data["steps"] = data["steps"][:1]
    (folder / "sequence.json").write_text(json.dumps(data))
    (folder / "status.json").write_text(json.dumps({**status, "state": "running"}))
    (folder / "1_A" / "model" / "config.json").unlink()
    code, _, output = command("sequence.order=[A,B]", "resume=true")
    assert code == 1 and "is gone" in output and "Traceback" not in output


def test_another_sequence_is_not_resumed_and_overwrite_starts_anew(command: Any) -> None:
    few = ("trainer.max_steps=1", "trainer.val_check_interval=0", "method=grad_diff", "teacher.report=false")
    assert command("sequence.order=[A,B,C]", *few)[0] == 0
    folder = Path("runs/sequence/job")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "state": "interrupted"}))
    code, _, output = command("sequence.order=[B,A]", *few, "resume=true")
    assert code == 1 and "another configuration" in output and "sequence" in output
    (folder / "mine.txt").write_text("not yours")
    # what another sequence left behind is not taken for a finished request
    kept = {name: (folder / name).read_text() for name in ("sequence.json", "config.yaml", "status.json")}
    (folder / "sequence.json").unlink()
    (folder / "config.yaml").unlink()
    code, _, output = command("sequence.order=[A,C]", *few, "resume=true")
    assert code == 1 and "1_A was started with another configuration" in output
    for name, text in kept.items():
        (folder / name).write_text(text)
    code, _, output = command(
        "sequence.order=[B,A]", *few, "peft=lora", "peft.target_modules=[q_proj]", "overwrite=true"
    )
    assert code == 0, output
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["1_B", "2_A"], "old steps are gone"
    assert (folder / "mine.txt").exists()
    names = load_file(folder / "2_A" / "model" / "model.safetensors").keys()
    assert names and not any("lora" in n for n in names), "a merged export"
    assert read_sequence(folder).gold is None


def test_earlier_requests_can_be_forgotten_again(base: list[str], tmp_path: Path) -> None:
    found = harmonize.sequence(
        *base,
        "sequence.earlier=forget",
        "sequence.order=[C,A]",
        "trainer.max_steps=1",
        "trainer.val_check_interval=0",
        "method=refusal_sft",
        folder=tmp_path / "again",
    )
    assert found.earlier == "forget"
    asked = {s["example_id"] for s in read_run(tmp_path / "again" / "2_A").samples() if s["role"] == "forget"}
    assert asked == {"forget-0", "forget-9"}, "measured: the request in turn alone"


def test_weights_that_are_edited_without_training_are_passed_on_as_well(
    base: list[str], tmp_path: Path
) -> None:
    found = harmonize.sequence(*base, "method=ssd", "sequence.order=[A,B]", folder=tmp_path / "edits")
    known = [step.measured.value("A", "answer_probability") for step in found.steps]
    assert known[0] is None and known[1] != known[2], "the second edit changed the model of the first"
    starts = [
        read_run(tmp_path / "edits" / n).results.config["model"]["name_or_path"] for n in ("1_A", "2_B")
    ]
    assert starts[1] == str(tmp_path / "edits" / "1_A" / "model") != starts[0]


def test_a_failing_request_says_so_and_keeps_the_others(command: Any) -> None:
    status, folder, output = command(
        "method=grad_diff", "optimizer.lr=1e30", "trainer.gradient_clip_val=null", "sequence.order=[A,B]"
    )
    assert status == 1 and "optimizer.lr" in output and "Traceback" not in output
    assert state(folder) == "failed" and state(folder / "1_A") == "failed" and not (folder / "2_B").exists()
