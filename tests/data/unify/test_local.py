"""The rewriter `local` with a real model that replies in JSON to some prompts and in nonsense to others."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from harmonize.config.instantiate import check_parameters
from harmonize.data.unify.local import CUT_OFF, TOO_LONG, Local
from harmonize.data.unify.replies import UNREADABLE
from harmonize.data.unify.task import Failure, Pair, Task
from harmonize.errors import ConfigError, ModelError


def test_rewrites_what_it_can_and_counts_the_rest(
    replying: ModuleType, json_model: Path, tmp_path: Path
) -> None:
    prompts = replying.prompts(tmp_path / "prompts")
    rewriter = Local(name_or_path=str(json_model), prompts=prompts, max_new_tokens=200, batch=2, device="cpu")
    tasks = [*replying.passages(), Task("passage", text="word " * 600)]
    kept: list[tuple[Task, list[Pair], tuple[int, int]]] = []
    found = rewriter.rewrite(tasks, lambda *args: kept.append(args))
    assert found[:2] == [[Pair("What is Toto?", "a dog")], [Pair("What has Oz?", "a road")]]
    assert found[2] == Failure(UNREADABLE)
    assert found[3] == Failure(TOO_LONG)
    assert [(t, p) for t, p, _ in kept] == [(tasks[0], found[0]), (tasks[1], found[1])]
    assert all(0 < a < 40 and 20 < b < 200 for _, _, (a, b) in kept)

    alone = Local(name_or_path=str(json_model), prompts=prompts, max_new_tokens=200, batch=1, device="cpu")
    assert alone.rewrite(tasks) == found
    assert alone.fingerprint == rewriter.fingerprint
    cut = Local(name_or_path=str(json_model), prompts=prompts, max_new_tokens=20, device="cpu")
    assert cut.rewrite(tasks[:1]) == [Failure(CUT_OFF, "raise rewriter.max_new_tokens")]
    shipped = Local(name_or_path=str(json_model), max_new_tokens=200, device="cpu")
    assert len({rewriter.fingerprint, cut.fingerprint, shipped.fingerprint}) == 3


def test_a_missing_model_and_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Local(name_or_path=str(tmp_path / "none")).rewrite([Task("qa", question="a", answer="b")])
    with pytest.raises(ConfigError, match="batch must be at least 1"):
        Local(name_or_path="x", batch=0)
    node = {"_target_": "harmonize.data.unify.local.Local", "name_or_path": "x", "max_tokens": 3}
    (problem,) = check_parameters(node, where="rewriter")
    assert "rewriter.max_tokens is no parameter" in problem and "'max_new_tokens'" in problem
