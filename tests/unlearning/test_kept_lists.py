"""Top lists in the place of states: their length, what is logged of them, and what the results say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harmonize.config.compose import compose_config
from harmonize.data.batch import collate
from harmonize.models.frozen import TeacherRequest
from harmonize.models.head import Head
from harmonize.models.teacher import build_teacher_cache
from harmonize.objectives.distill import push
from harmonize.unlearning.forward import Forward
from harmonize.unlearning.teaching import kept_length
from harmonize.unlearning.terms import Term, denominators, losses
from harmonize.unlearning.training import Parts
from tests.unlearning.toy import make_rows, tiny_llama

PUSH = Term("push", push, 1.0, {"forget": 1.0}, {"k": 5, "k_teacher": 5})


@pytest.mark.parametrize(
    ("overrides", "hidden", "lists"),
    [
        ([], 64, 64),  # K = 16
        (["method.objectives.push.k=20"], 64, 80),
        (["method.objectives.pull.k=40"], 64, 160),
        (["method=bild"], 64, 64),
        (["teacher.cache_top_k=17"], 17, 17),
    ],
)
def test_lists_are_four_times_as_long_as_what_is_read(overrides: list[str], hidden: int, lists: int) -> None:
    cfg = compose_config("unlearn", overrides)
    assert (kept_length(cfg, "hidden"), kept_length(cfg, "topk")) == (hidden, lists)


@pytest.mark.parametrize(("mode", "bounds"), [("hidden", False), ("topk", True)])
def test_the_bounded_share_is_logged_and_noted(mode: str, bounds: bool, tmp_path: Path) -> None:
    rows = make_rows(4, roles=("forget",))
    cache = build_teacher_cache(
        tiny_llama(),
        Head.of(tiny_llama()),
        [TeacherRequest(r.example_id, r.role, r.prompt, r.target) for r in rows],
        digest="",
        renderer_digest="",
        end_id=2,
        stop_ids=[2],
        pad_id=0,
        max_new_tokens=1,
        mode=mode,
        top_k=5,
        cache_dir=tmp_path,
    )
    student = Forward(tiny_llama(seed=1), [PUSH], cache)
    batch = collate([replace(r, cache_start=cache.start(r.example_id)) for r in rows], pad_id=0)
    losses([PUSH], student(batch), batch, denominators([PUSH], [batch]))
    parts = Parts(None, None, [PUSH], None, None, cache)  # type: ignore[arg-type]
    figures = student.figures()
    if not bounds:
        assert figures == {} and parts.notes == []
        return
    share = figures["train/teacher_missing_share"]
    assert 0 < share < 1 and share == cache.missing_share
    assert f"{share:.2%} of the ids" in parts.notes[0]
    assert student.figures() == {"train/teacher_missing_share": 0.0}, "nothing was asked since"
