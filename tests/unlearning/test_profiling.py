"""`harmonize profile`: predicted FLOPs by hand and as torch counts them, stages that add up, and the command."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harmonize.cli import main
from harmonize.data.batch import collate
from harmonize.models.body import answer_hidden
from harmonize.models.head import Head
from harmonize.models.lora import apply_peft
from harmonize.objectives.distill import pull
from harmonize.objectives.likelihood import cross_entropy
from harmonize.unlearning.terms import Term
from harmonize.unlearning.watching import BACKWARD, FORWARD, HEAD, STAGES, Clock, step_flops
from tests.models.tiny import V, some_rows, tiny
from tests.unlearning.test_run import write_data

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": "all-linear"}
BODY = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48) + 5 * 32  # of the tiny llama: matrices and norms


def test_flops_by_hand() -> None:
    model, ce = tiny("llama"), [Term("ce", cross_entropy, 1.0, {"forget": 1.0})]
    found = step_flops(model, ce, tokens=10, answers=3)
    product = 2 * 32 * V * 3
    assert found[FORWARD] == 2 * BODY * 10 and found[HEAD] == product
    assert found[BACKWARD] == 4 * BODY * 10 + 2 * product
    few = step_flops(model, [Term("pull", pull, 1.0, {"forget": 1.0})], tokens=10, answers=3)
    assert few[BACKWARD] == 4 * BODY * 10  # logits that nobody reads get no gradient
    adapted = apply_peft(tiny("llama"), LORA)
    adapters = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    found = step_flops(adapted, ce, tokens=10, answers=3)
    assert found[FORWARD] == 2 * (BODY + adapters) * 10
    assert found[BACKWARD] == 2 * (BODY + 2 * adapters) * 10 + product


def test_flops_are_what_torch_counts_but_for_attention_and_norms() -> None:
    model = tiny("llama").train()
    batch = collate(some_rows(), 0)
    with FlopCounterMode(display=False) as counter:
        hidden = answer_hidden(model, batch)
        (-Head.of(model).frozen().logits(hidden).logsumexp(1).sum()).backward()
    found = step_flops(model, [], batch.input_ids.numel(), len(batch.labels))
    ours = (
        found[FORWARD] + found[BACKWARD] + 2 * found[HEAD]
    )  # a frozen head: forward, and the states' gradient
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.1)


def test_a_stage_inside_another_is_charged_alone() -> None:
    clock = Clock(cuda=False)

    def work(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    began = time.process_time()
    with clock.stage("a"):
        work(0.02)
        with clock.stage("b"):
            work(0.06)
        clock.turn_to("c")
        work(0.04)
    whole = time.process_time() - began
    assert clock.seconds["a"] < clock.seconds["c"] < clock.seconds["b"]
    assert sum(clock.seconds.values()) == pytest.approx(whole, rel=0.2)
    assert set(clock.peak) == {"a", "b", "c"} and min(clock.peak.values()) > 0


def test_the_command(shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "data")
    out = tmp_path / "out"
    arguments = [
        "dataset=local",
        f"dataset.examples={tmp_path / 'data' / 'examples.jsonl'}",
        "model=hf",
        f"model.name_or_path={shared / 'models' / 'stories260k'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "teacher.max_new_tokens=4",
        "teacher.instruction=Say nothing.",
        "sampler.rows={forget: 2, neighbor: 2, retain: 2}",
        "trainer.accelerator=cpu",
    ]
    before = torch.get_num_threads()
    with pytest.raises(SystemExit) as done:
        main(["profile", "--steps", "2", f"--out={out}", *arguments])
    assert done.value.code == 0 and torch.get_num_threads() == before
    printed = capfd.readouterr().out
    table = (out / "table.md").read_text()
    assert table in printed
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    shares = [float(rows[name].split(" | ")[2].rstrip("%")) for name in STAGES]
    assert sum(shares) == pytest.approx(100, abs=0.5) and min(shares) > 0
    assert "Mean of 2 steps" in table
    events = json.loads((out / "trace.json").read_text())["traceEvents"]
    assert any("embedding" in e["name"] for e in events)
    assert sorted(p.name for p in out.iterdir()) == ["table.md", "trace.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "0"], "whole number"),
        (["--steps"], "--steps needs a value"),
        (["-m", "seed=0,1"], "no sweep"),
        (["trainer.devices=2"], "one device"),
        (["metod=npo"], "method"),
    ],
)
def test_mistakes(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["profile", *arguments])
    assert done.value.code == 1 and says in capsys.readouterr().err
