"""Names of run folders."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from harmonize.config.names import job_name

HEAD = ["duet", "sandbox", "seed0"]


def test_names_say_what_was_asked_for() -> None:
    assert job_name("unlearn", HEAD, []) == "duet_sandbox_seed0"
    assert job_name("unlearn", HEAD, ["method=duet", "seed=0", "study=a", "resume=true", "logger=csv"]) == (
        "duet_sandbox_seed0"
    )
    assert (
        job_name("unlearn", HEAD, ["method.objectives.push.weight=0.5"])
        == "duet_sandbox_seed0_push.weight-0.5"
    )
    assert job_name("unlearn", HEAD, ["~method.objectives.pull"]) == "duet_sandbox_seed0_no-objectives.pull"


def test_a_name_of_ones_own_is_kept_and_extended_in_a_sweep() -> None:
    assert job_name("unlearn", HEAD, ["job=mine"], job="mine") == "mine"
    assert job_name("unlearn", HEAD, ["optimizer.lr=1e-3"], job="mine") == "mine"
    swept = job_name("unlearn", HEAD, ["optimizer.lr=1e-3", "job=mine"], job="mine", sweep=True)
    assert swept == "mine_duet_sandbox_seed0_optimizer.lr-1e-3"


@given(st.lists(st.text(min_size=1, max_size=40), min_size=2, max_size=2, unique=True))
def test_names_are_safe_and_different_values_never_share_one(values: list[str]) -> None:
    names = [job_name("unlearn", HEAD, [f"model.name_or_path={v}"]) for v in values]
    assert names[0] != names[1]
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9.+_-]+", name) and len(name) < 120 and not name.startswith(("-", "."))
