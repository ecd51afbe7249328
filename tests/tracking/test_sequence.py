"""`sequence.json`: round trip, and what a reader is told of a file that is not as it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harmonize.errors import RunError
from harmonize.tracking.metric import Metric
from harmonize.tracking.sequence import (
    SEQUENCE,
    SEQUENCE_VERSION,
    Measured,
    SequenceResults,
    Step,
    read_sequence,
)


def record() -> SequenceResults:
    metric = Metric(0.25, 8, 0.1, 0.4, False)
    measured = Measured({"A": {"forget_accuracy": metric}, "B": {}}, {"retain_accuracy": Metric(0.9, 4)})
    return SequenceResults(
        order=["A", "B"],
        earlier="forget",
        config={"method": {"name": "duet"}},
        seed=3,
        data="abc",
        requests={"A": {"train": 2}},
        steps=[
            Step(0, None, None, "m", measured),
            Step(1, "A", "1_A", "1_A/model", measured, {"run": 1.5}, 0.5, None, 0.75),
        ],
        gold=measured,
        summaries=[{"name": "DDS", "value": None}],
        notes=["so it is"],
    )


def write(folder: Path, data: Any) -> Path:
    (folder / SEQUENCE).write_text(json.dumps(data))
    return folder


def test_round_trip(tmp_path: Path) -> None:
    found = read_sequence(write(tmp_path, record().to_dict()))
    assert found.path == tmp_path
    found.path = record().path
    assert found == record()


def test_what_it_says_of_itself() -> None:
    data = record().to_dict()
    assert data["sequence_version"] == SEQUENCE_VERSION and data["complete"] is False
    assert [s["asked"] for s in data["steps"]] == [[], ["A"]]
    figure = data["steps"][1]["requests"]["A"]["forget_accuracy"]
    assert figure == {"value": 0.25, "n": 8, "ci_low": 0.1, "ci_high": 0.4, "higher_is_better": False}
    assert record().curve("A", "forget_accuracy") == [0.25, 0.25]
    assert record().curve(None, "retain_accuracy") == [0.9, 0.9] and record().curve("B", "asr_worst") == [
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sequence_version": SEQUENCE_VERSION + 1}, "overwrite=true"),
        ({"sequence_version": None}, "not a sequence of harmonize"),
        ({"steps": [{"number": 0}]}, "damaged or incomplete"),
        ({"steps": None}, "damaged or incomplete"),
        ({"gold": {"requests": {"A": {"x": {"value": "high"}}}, "kept": {}}}, "gold, request A, x"),
        ({"order": ...}, "damaged or incomplete"),
    ],
)
def test_a_file_that_is_not_as_it_should_be(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    data = {k: v for k, v in {**record().to_dict(), **change}.items() if v is not ...}
    with pytest.raises(RunError, match=words):
        read_sequence(write(tmp_path, data))


def test_a_folder_without_a_sequence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no sequence"):
        read_sequence(tmp_path)
    with pytest.raises(RunError, match="not a sequence"):
        read_sequence(write(tmp_path, [1]))
