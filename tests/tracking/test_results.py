"""The results schema: round trip, and what a reader is told when a file is not as it should be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harmonize.errors import RunError
from harmonize.tracking import files
from harmonize.tracking.direction import DOWN, UP
from harmonize.tracking.metric import METRIC_NAMES, Metric, direction_of
from harmonize.tracking.results import (
    SCHEMA_VERSION,
    Results,
    build_results,
    read_results,
    read_run,
    write_results,
)

numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
metrics = st.builds(
    Metric,
    value=st.none() | numbers,
    n=st.integers(0, 10**6),
    ci_low=st.none() | numbers,
    ci_high=st.none() | numbers,
    higher_is_better=st.booleans(),
    best=st.none() | numbers,
)
blocks = st.dictionaries(st.text(min_size=1), metrics, max_size=4)
containers = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
results_objects = st.builds(
    Results,
    config=st.dictionaries(st.text(), containers, max_size=3),
    seed=st.integers(0, 2**31),
    metrics=blocks,
    target_metrics=st.none() | blocks,
    teacher_metrics=st.none() | blocks,
    gold_metrics=st.none() | blocks,
    outcomes=st.dictionaries(st.text(), containers, max_size=2),
    notes=st.lists(st.text(), max_size=2),
    git=st.none() | st.just({"commit": "abc", "dirty": False}),
    timing=st.dictionaries(st.text(), numbers, max_size=2),
    peak_memory_bytes=st.none() | st.integers(0, 2**40),
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the strategy is large, not the test
@given(results_objects)
def test_round_trip(results: Results) -> None:
    text = json.dumps(results.to_dict(), allow_nan=False)
    assert Results.from_dict(json.loads(text)) == results


def minimal() -> dict[str, Any]:
    return Results(config={"seed": 1}, seed=1, metrics={"forget_accuracy": Metric(0.5, 10)}).to_dict()


def test_written_file_reads_back_and_is_private(tmp_path: Path) -> None:
    results = Results(config={}, seed=0, metrics={"asr_worst": Metric(0.1, 20, 0.0, 0.2, False)})
    path = write_results(tmp_path, results)
    assert path == tmp_path / "results.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_results(path) == results
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    results = Results(config={"x": math.inf}, seed=0, metrics={"a": Metric(math.nan, 3)})
    read = read_results(write_results(tmp_path, results))
    assert read.metrics["a"].value is None
    assert read.config == {"x": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 0}, "older"),
        ({"schema_version": SCHEMA_VERSION + 1}, "newer.*Update harmonize"),
        ({"schema_version": None}, "not a results file"),
        ({"seed": "0"}, "'seed'.*whole number"),
        ({"seed": True}, "'seed'.*whole number"),
        ({"metrics": []}, "'metrics'.*object"),
        ({"metrics": {"asr_worst": 0.5}}, "metrics'.asr_worst"),
        ({"metrics": {"asr_worst": {"value": 0.5, "n": 3}}}, "asr_worst: missing higher_is_better"),
        ({"metrics": {"a": {"value": "x", "n": 3, "higher_is_better": True}}}, "a.value"),
        ({"metrics": {"a": {"value": 1, "n": -3, "higher_is_better": True}}}, "a.n"),
        ({"metrics": {"a": {"value": 1, "n": 3, "higher_is_better": True, "best": "0.5"}}}, "a.best"),
        (
            {"target_metrics": {"a": {"value": 1, "n": 3, "higher_is_better": "up"}}},
            "target_metrics'.a.higher",
        ),
        ({"timing": {"total": "fast"}}, "timing.total"),
        ({"notes": "x"}, "'notes'"),
    ],
)
def test_errors_name_file_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(minimal() | change))
    with pytest.raises(RunError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("missing", ["config", "seed", "metrics"])
def test_missing_field_is_named(missing: str) -> None:
    data = minimal()
    del data[missing]
    with pytest.raises(RunError, match=f"missing field {missing}"):
        Results.from_dict(data)


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{\n"schema_version": 1,\n')
    with pytest.raises(RunError, match="line 3: not valid JSON"):
        read_results(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="not UTF-8"):
        read_results(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    files.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device.*already written is kept"):
        files.write_text(path, "new and longer")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    files.write_text(path, "old")
    seen: list[str] = []
    replace = files.os.replace

    def look_first(source: str, target: str) -> None:
        seen.append(path.read_text())
        assert Path(source).read_text() == "new"
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", look_first)
    files.write_text(path, "new")
    assert seen == ["old"]
    assert path.read_text() == "new"


def test_directions() -> None:
    assert len(METRIC_NAMES) == 12
    assert METRIC_NAMES["asr_heldout_worst"] == DOWN
    assert METRIC_NAMES["utility_accuracy"] == UP
    assert direction_of("neighbor_refusal_rate_trained") == DOWN
    assert direction_of("neighbor_accuracy_trained") == UP
    assert direction_of("something_new", DOWN) == DOWN


def test_build_results_adds_the_environment(tmp_path: Path) -> None:
    results = build_results(
        config={"path": tmp_path},
        seed=3,
        metrics={"forget_accuracy": Metric(0.0, 5, higher_is_better=False)},
        target_metrics={},
        selection={"best_step": 40},
    )
    assert results.versions["python"]
    assert results.hardware["cores"] >= 1
    assert results.peak_memory_bytes
    assert results.target_metrics is None
    assert results.extra == {"selection": {"best_step": 40}}
    assert read_results(write_results(tmp_path, results)) == results


def test_read_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        read_run(tmp_path / "none")
    with pytest.raises(RunError, match="not a run folder"):
        read_run(tmp_path)
    (tmp_path / "status.json").write_text('{"state": "failed", "error": "the loss is not finite"}')
    with pytest.raises(RunError, match=r"'failed'\. the loss is not finite"):
        read_run(tmp_path)
    write_results(tmp_path, Results.from_dict(minimal()))
    run = read_run(tmp_path)
    assert run.status["state"] == "failed"
    assert run.metrics["forget_accuracy"].value == 0.5
    with pytest.raises(RunError, match="no samples"):
        next(run.samples())
    (tmp_path / "samples.jsonl").write_text('{"answer": "a"}\n\n{"answer"\n')
    samples = run.samples()
    assert next(samples) == {"answer": "a"}
    with pytest.raises(RunError, match="line 3"):
        next(samples)
