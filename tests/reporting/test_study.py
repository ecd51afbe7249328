"""Finding and grouping the runs of a study."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harmonize.errors import RunError
from harmonize.reporting.study import is_ignored, latest_study, load_study
from harmonize.reporting.table import build_tables

Write = Callable[..., Path]


def test_groups_by_method_over_seeds_at_any_depth(tmp_path: Path, write_run: Write) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"duet_{seed}", method="duet", seed=seed)
        write_run(tmp_path / "deep" / "er" / f"bi_{seed}", method="bidirectional", seed=seed)
    study = load_study(tmp_path, order=["bidirectional", "duet"])
    assert [(group.label, len(group.runs)) for group in study.groups] == [("bidirectional", 2), ("duet", 2)]
    assert study.problems == []
    assert [group.label for group in load_study(tmp_path, order=["duet"]).groups] == ["duet", "bidirectional"]


def test_world_seeds_are_averaged_over(tmp_path: Path, write_run: Write) -> None:
    for world in (0, 1):
        for seed in (0, 1, 2):
            write_run(tmp_path / f"{world}_{seed}", seed=seed, config={"dataset.world_seed": world})
    (group,) = load_study(tmp_path).groups
    assert len(group.runs) == 6


def test_what_was_varied_makes_rows(tmp_path: Path, write_run: Write) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", seed=seed, prefill="none")
        write_run(tmp_path / f"b{seed}", seed=seed, config={"method.objectives.pull.weight": 0.5})
        write_run(
            tmp_path / f"c{seed}",
            seed=seed,
            config={"method.objectives.push": {"weight": 1.0, "k": 4}, "job": f"c{seed}"},
        )
        write_run(tmp_path / f"other{seed}", method="grad_diff", seed=seed)
    study = load_study(tmp_path)
    assert {group.label: (len(group.runs), group.prefill) for group in study.groups} == {
        "duet random prefill pull.weight=0.5 ~push": (2, "random"),
        "duet no prefill pull.weight=1.0 ~push": (2, "none"),
        "duet random prefill pull.weight=1.0": (2, "random"),
        "grad_diff": (2, "random"),
    }


def test_rows_are_called_what_the_experiment_says(tmp_path: Path, write_run: Write) -> None:
    pull, push = "method.objectives.pull.positions", "method.objectives.push"
    for place in ("all", "first"):
        given = {pull: place, f"{push}.positions": place, "teacher.instruction": None}
        write_run(tmp_path / place, config=given)
        write_run(tmp_path / f"{place}_worded", config={**given, "teacher.instruction": "no painters"})
        write_run(tmp_path / f"{place}_alone", config={pull: place, "teacher.instruction": None})
    labels = {
        pull: {"all": "", "first": "first position"},
        f"{push}.positions": {"*": ""},
        push: {"<missing>": "no push"},
        "teacher.instruction": {"null": "", "*": "other wording"},
    }
    assert {group.label for group in load_study(tmp_path, labels=labels).groups} == {
        "duet",
        "duet (first position)",
        "duet (other wording)",
        "duet (first position, other wording)",
        "duet (no push)",
        "duet (first position, no push)",
    }
    # words that give two rows one name are no words for these two
    labels[pull] = {"*": ""}
    found = {group.label for group in load_study(tmp_path, labels=labels).groups}
    assert {"duet pull.positions=all teacher.instruction=null ~push"} < found and len(found) == 6


def test_settings_stand_apart(tmp_path: Path, write_run: Write) -> None:
    write_run(tmp_path / "a", dataset="tofu")
    write_run(tmp_path / "b", dataset="sandbox")
    tables = build_tables(load_study(tmp_path))
    assert [table.title for table in tables] == ["sandbox, sandbox:target", "tofu, sandbox:target"]


def test_a_repeated_seed_counts_once_and_is_told(tmp_path: Path, write_run: Write) -> None:
    old = write_run(tmp_path / "a")
    os.utime(old / "results.json", (1, 1))
    write_run(tmp_path / "b")
    study = load_study(tmp_path)
    assert [run.path.name for run in study.runs] == ["b"]
    assert study.notes == ["duet: 2 runs of seed 0 (a, b); the newest one, b, counts."]


def test_different_data_under_one_name_is_told(tmp_path: Path, write_run: Write) -> None:
    def of(name: str, data: str, **more: Any) -> None:
        place = write_run(tmp_path / name, **more)
        found = json.loads((place / "results.json").read_text())
        found["extra"]["data"] = data * 64
        (place / "results.json").write_text(json.dumps(found))

    of("a", "1", seed=0)
    of("b", "1", seed=1)
    of("other_world", "2", seed=0, config={"dataset.world_seed": 1})
    assert load_study(tmp_path).notes == []
    of("edited", "3", seed=2)
    (note,) = load_study(tmp_path).notes
    assert note.startswith("duet: runs of different data")
    assert "11111111: a, b; 33333333: edited" in note
    # of one seed, too, where only the newest counts
    of("again", "4", seed=1)
    os.utime(tmp_path / "b" / "results.json", (1, 1))
    again = load_study(tmp_path).notes[0]
    assert again.startswith(
        "duet: 2 runs of seed 1 (b, again); they are of different data (11111111, 44444444); "
    )
    assert again.endswith("the newest one, again, counts.")


def test_what_cannot_be_used_is_listed_and_the_rest_goes_on(tmp_path: Path, write_run: Write) -> None:
    write_run(tmp_path / "good")
    corrupt = write_run(tmp_path / "corrupt")
    (corrupt / "results.json").write_text('{"schema_version": 1, "metr')
    older = write_run(tmp_path / "older")
    data = json.loads((older / "results.json").read_text())
    (older / "results.json").write_text(json.dumps(data | {"schema_version": 0}))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "results.json").write_text('{"accuracy": 0.9}')
    write_run(tmp_path / "stopped", state="interrupted")
    write_run(tmp_path / "lost", state="done")
    (tmp_path / "lost" / "results.json").unlink()
    failed = write_run(tmp_path / "failed", state="failed", error="the loss is not finite\n\x1b[31m")
    (failed / "results.json").unlink()
    write_run(tmp_path / "empty", found={})
    nameless = write_run(tmp_path / "nameless")
    (nameless / "results.json").write_text(json.dumps(data | {"config": {"method": "npo", "dataset": None}}))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("not a run")
    half = tmp_path / "half"
    half.mkdir()
    (half / "status.json").write_text("[]")
    study = load_study(tmp_path)
    assert [run.path.name for run in study.runs] == ["good"]
    reasons = {path.name: reason for path, reason in study.problems}
    assert reasons.keys() == {
        "corrupt",
        "older",
        "foreign",
        "stopped",
        "failed",
        "empty",
        "nameless",
        "half",
        "lost",
    }
    assert "not valid JSON" in reasons["corrupt"]
    assert "older than 1, the one this version reads" in reasons["older"]
    assert reasons["older"].endswith(f"harmonize evaluate model=hf model.name_or_path={older}/model")
    assert reasons["nameless"] == "its configuration names neither a data set nor a model"
    assert "not a results file of harmonize" in reasons["foreign"]
    assert reasons["stopped"] == "interrupted; results left out"
    assert reasons["lost"] == "done, but results.json is missing"
    assert reasons["failed"] == "failed: the loss is not finite [31m"
    assert "\x1b" not in reasons["failed"]


def test_a_run_without_a_status_counts(tmp_path: Path, write_run: Write) -> None:
    write_run(tmp_path / "a", state=None)
    assert len(load_study(tmp_path).runs) == 1


def test_model_folders_are_not_searched(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "a")
    write_run(run / "model" / "inner")
    assert len(load_study(tmp_path).runs) == 1


def test_missing_folder_and_latest(tmp_path: Path, write_run: Write) -> None:
    with pytest.raises(RunError, match="no such study folder"):
        load_study(tmp_path / "none")
    for empty in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match=r"no runs found.*harmonize unlearn -m"):
            latest_study(empty)
    old = write_run(tmp_path / "old" / "a")
    for name in ("results.json", "status.json"):
        os.utime(old / name, (1, 1))
    write_run(tmp_path / "new" / "b" / "c")
    assert latest_study(tmp_path) == tmp_path / "new"


def test_a_seed_that_follows_the_seed_makes_no_other_row() -> None:
    key = "method.objectives.forget.control_seed"  # RMU draws its direction anew with every seed
    assert is_ignored(key) and not is_ignored(key, seeds=False)
    assert not is_ignored("dataset.split_seed")


def test_what_an_option_says_of_itself_makes_no_other_row() -> None:
    for key in ("method.evidence", "method.variants.other", "gradient.description", "sampler.fidelity"):
        assert is_ignored(key), key
    for key in ("method.objectives.paper.weight", "dataset.mine.description", "method.name"):
        assert not is_ignored(key), key


def test_a_thousand_runs_load_and_tabulate_in_time(tmp_path: Path, write_run: Write) -> None:
    wide = {f"suite.option_{i}": i for i in range(120)}
    for i in range(1000):
        write_run(tmp_path / f"{i}", method=f"method_{i % 10}", seed=i // 10, config=wide)
    began = time.perf_counter()
    tables = build_tables(load_study(tmp_path))
    assert time.perf_counter() - began < 5
    assert [row.n for row in tables[0].rows] == [100] * 10
