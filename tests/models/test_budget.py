"""The size of a cache is known before it is built, and what becomes of one that is too large."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from harmonize.config.units import show_size
from harmonize.errors import RunError
from harmonize.models import budget as budget_module
from harmonize.models import teacher as teacher_module
from harmonize.models.budget import Budget, teacher_bytes
from harmonize.models.cache import HiddenCache, LiveTeacher, TopKCache
from harmonize.models.reference import LiveReference
from tests.models import test_reference, test_teacher
from tests.models.tiny import tiny

GIVEN = sum(len(r.target) for r in test_teacher.requests() if r.target)
OWN = sum(r.target is None for r in test_teacher.requests())
HIDDEN = 2 * 32 + 8 * 20 + 4  # H = 32, K' = 20
LISTS = 8 * 10 + 4


def build(folder: Path, limit: int | None, over: str = "error", **more: Any) -> Any:
    allowed = Budget(limit, over, top_k=10)
    return test_teacher.build(tiny("llama"), folder, budget=allowed, **more)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build(tmp_path_factory.mktemp("exact"), None)


def test_the_prediction_is_what_the_files_take(exact: Any) -> None:
    assert (teacher_bytes("hidden", 32, 20), teacher_bytes("topk", 32, 10)) == (HIDDEN, LISTS)
    content = ("hidden", "top_ids", "top_values", "targets")
    files = sum((exact.path / f"{name}.npy").stat().st_size for name in content)
    headers = 128 * len(content)
    assert files == exact.positions * HIDDEN + headers
    assert all(p.stat().st_blocks * 512 >= p.stat().st_size for p in exact.path.glob("*.npy")), (
        "no holes: the disk cannot fill up under a map"
    )


def test_what_fits_by_its_upper_bound_is_built_at_once(
    tmp_path: Path, exact: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budget_module, "LARGE", 1)
    most = (GIVEN + 5 * OWN) * HIDDEN
    assert build(tmp_path, most).forwards == exact.forwards
    assert "will take at most" in capsys.readouterr().err
    assert build(tmp_path, 0).forwards == 0, "what is there already costs nothing"
    assert capsys.readouterr().err == ""


def test_answers_that_turn_out_short_are_asked_once(
    tmp_path: Path, exact: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = teacher_module.greedy

    def short(*arguments: Any) -> Any:
        asked.append(1)
        return [ids[:2] for ids in real(*arguments)]

    monkeypatch.setattr(teacher_module, "greedy", short)
    limit = (GIVEN + 3 * OWN) * HIDDEN  # two tokens and the end of turn
    cache = build(tmp_path, limit)
    assert isinstance(cache, HiddenCache) and cache.positions == GIVEN + 3 * OWN and asked == [1]
    with pytest.raises(RunError, match=f"needs {show_size(limit)} "):
        build(tmp_path / "b", limit - 1)
    assert not (tmp_path / "b").exists(), "nothing was written"


def test_what_cannot_fit_is_refused_before_the_teacher_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_module, "greedy", None)
    with pytest.raises(RunError) as told:
        build(tmp_path, (GIVEN + OWN) * HIDDEN - 1)
    said = str(told.value)
    assert (
        f"needs at least {(GIVEN + OWN) * HIDDEN / 1000:.1f} kB ({GIVEN + OWN} positions of {HIDDEN} B"
        in said
    )
    for way in ("teacher.cache_budget=", "teacher.cache=topk (it needs", "teacher.cache=none"):
        assert way in said


def test_top_lists_take_its_place_where_that_was_allowed(
    tmp_path: Path, exact: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = exact.positions * HIDDEN - 1
    cache = build(tmp_path, limit, "topk")
    assert isinstance(cache, TopKCache) and cache.top(torch.arange(3), 10)[0].shape == (3, 10)
    assert (
        "kept as teacher.cache=topk" in cache.note and "kept as teacher.cache=topk" in capsys.readouterr().err
    )
    assert cache.forwards == exact.forwards, "it answered once"
    assert [cache.target(r.example_id) for r in test_teacher.requests()] == [
        exact.target(r.example_id) for r in test_teacher.requests()
    ]
    again = build(tmp_path, limit, "topk")
    assert again.forwards == 0 and again.note == cache.note and again.path == cache.path
    assert isinstance(build(tmp_path, None, "topk"), HiddenCache), "a larger budget is made use of"
    with pytest.raises(RunError, match=r"teacher\.cache=topk \(it needs .* too"):
        build(tmp_path / "b", exact.positions * LISTS - 1, "topk")


def test_a_live_teacher_takes_its_place_where_that_was_allowed(tmp_path: Path, exact: Any) -> None:
    live = build(tmp_path, 10, "none")
    assert isinstance(live, LiveTeacher) and "kept as teacher.cache=none" in live.note
    assert not (tmp_path / "teacher").exists()
    index = torch.arange(4)
    torch.testing.assert_close(live.logits(index), exact.logits(index), rtol=1e-5, atol=2e-3)


def test_the_disk_counts_as_well_as_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "free_space", lambda folder: 1000)
    with pytest.raises(RunError, match=r"1 kB are free at .*harmonize clean caches --older-than 7d"):
        build(tmp_path, None)


def test_a_reference_has_no_shorter_form(tmp_path: Path) -> None:
    each = 4 + 2 * 32

    def reference(name: str, limit: int, over: str) -> Any:
        return test_reference.build(tiny("llama"), tmp_path / name, budget=Budget(limit, over))

    rows = {(r.prompt, (*r.prefill, *r.target)) for r in test_reference.ROWS}
    positions = sum(len(text) for _, text in rows)
    assert reference("fits", positions * each, "error").path is not None
    for over in ("error", "topk"):
        with pytest.raises(RunError, match="The reference's cache needs") as told:
            reference("not", positions * each - 1, over)
        assert "teacher.cache=none" in str(told.value) and "topk (" not in str(told.value)
    live = reference("live", positions * each - 1, "none")
    assert isinstance(live, LiveReference) and "kept as teacher.cache=none" in live.note


def test_a_disk_that_is_full_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match=r"No space left on device.*harmonize clean caches"):
        build(tmp_path, None)
    assert not list((tmp_path / "teacher").iterdir())
