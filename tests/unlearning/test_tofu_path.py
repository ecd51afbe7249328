"""The whole path on real data with a real pretrained model, in small: finetune, unlearn, evaluate, table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harmonize.cli import main
from harmonize.tracking.results import read_run


def harmonize(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code


def test_the_path_of_the_docs(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARMONIZE_CACHE", str(tmp_path / "cache"))
    data = f"dataset.root={shared / 'data' / 'tofu'}"
    small = ["trainer.max_steps=3", "logger=csv", "study=tofu"]
    finetune = ["dataset=tofu", data, "dataset.finetune_paraphrases=true", "model=hf", "from_scratch=false"]
    start = f"model.name_or_path={shared / 'models' / 'stories260k'}"
    for job, gold in (("target", "false"), ("gold", "true")):
        harmonize("finetune", *finetune, start, *small, f"gold={gold}", f"job={job}", "batch_rows=2")
        card = Path(f"runs/tofu/{job}/model/README.md").read_text()
        assert ("never saw the forget set" in card) == (job == "gold") and "SHA-256" in card
    models = [
        f"model.name_or_path={tmp_path}/runs/tofu/target/model",
        f"model.gold={tmp_path}/runs/tofu/gold/model",
    ]
    few = ["suite.max_new_tokens=8", "suite.max_examples=4", "suite.val_max_examples=2", "suite.bootstrap=20"]
    harmonize(
        "unlearn",
        "experiment=tofu",
        data,
        *models,
        *small,
        *few,
        "job=run",
        "trainer.val_check_interval=3",
        "teacher.max_new_tokens=8",
        "suite.relearn_steps=1",
        "sampler.rows={forget: 2, neighbor: 1, retain: 2}",
    )
    run = read_run("runs/tofu/run")
    assert run.results.config["dataset"]["prefill"]["heldout_share"] == 0.5
    for name in ("forget_accuracy", "neighbor_accuracy", "asr_answer_prefix", "asr_answer_prefix_untrained"):
        metric = run.results.metrics[name]
        assert metric.n > 0 and metric.value is not None and 0 <= metric.value <= 1, name
    assert run.results.gold_metrics and run.results.teacher_metrics
    used = {s["fact"] for s in run.samples() if s["role"] == "forget"}
    assert used and all(s["prompt"] for s in run.samples() if "prompt" in s)
    harmonize("reproduce-paper-table", "--study", "runs/tofu")
    written = {p.name for p in (tmp_path / "runs" / "tofu" / "report").iterdir()}
    assert {"table.md", "table.tex", "table.csv", "radar.png"} <= written
    harmonize("report", "runs/tofu")
    assert Path("runs/tofu/report/report.html").stat().st_size > 10_000
    assert json.loads(Path("runs/tofu/run/status.json").read_text())["state"] == "done"
