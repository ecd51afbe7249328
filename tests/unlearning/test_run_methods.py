"""Whole runs of methods that need more than logits: a reference, pairs of answers, states of a block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harmonize.tracking.results import read_run
from tests.unlearning.test_run import harmonize, shelf, write_data

__all__ = ["harmonize", "shelf"]  # fixtures


def with_alternates(path: Path) -> Path:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["role"] == "forget":
            row["meta"] = {
                "alternates": [f"{row['subject']} lives in Oz.", f"{row['subject']} lives nowhere."]
            }
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def forwards(folder: Path) -> int:
    """Forward passes of frozen models."""
    return int(read_run(folder).results.extra["teacher_forwards"])


def test_alternates_are_needed_and_then_used(harmonize: Any, tmp_path: Path) -> None:
    status, folder, output = harmonize("method=altpo", job="without")
    assert status != 0 and "have none" in output and "method=idk_dpo" in output
    assert not (folder / "model").exists() and "Traceback" not in output
    (tmp_path / "more").mkdir()
    data = with_alternates(write_data(tmp_path / "more" / "data"))
    status, folder, output = harmonize("method=altpo", job="with", examples=data)
    assert status == 0, output
    assert forwards(folder) > 0
    assert "reference" in output  # its cache is sensitive, and is listed


def test_a_reference_is_read_once_for_a_study(harmonize: Any) -> None:
    counts = []
    for job, seed in (("first", 0), ("second", 1)):
        status, folder, output = harmonize(
            "method=npo", "peft=lora", f"seed={seed}", "peft.target_modules=[q_proj,v_proj]", job=job
        )
        assert status == 0, output
        counts.append(forwards(folder))
    assert counts[0] > 0 and counts[1] == 0


def test_a_layer_that_does_not_exist(harmonize: Any) -> None:
    status, folder, output = harmonize("method=rmu", "method.objectives.forget.layer=99", job="rmu")
    assert status != 0 and "layer=99" in output and "blocks" in output
    assert "Traceback" not in output and not (folder / "model").exists()
