"""The cost protocol: its two smallest rows with doubled limits, arms that differ are not timed, tables from rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import cpu_protocol, page, sections
from benchmarks.arms import SHAPES, Work, build_model
from benchmarks.measure import interleaved, parity, ratio
from benchmarks.place import Place
from benchmarks.rows import compact, merged

CPU = torch.device("cpu")
ABOUT = {"machine": "m", "torch": "2", "transformers": "5", "python": "3"}


def place(pairs: int) -> Place:
    return Place(CPU, torch.float32, False, pairs, lambda row: None, until=float("inf"))


@pytest.mark.parametrize("name", cpu_protocol.SMALLEST)
def test_a_cached_step_stays_under_twice_its_bars(name: str) -> None:
    work = cpu_protocol.WORKS[name]
    if name == "v32k":
        work = replace(work, rows=4)
    rows = [r for r in sections.step(place(5), SHAPES[name], work) if "arm_a" in r or "parity" in r]
    assert all(r["ok"] for r in rows if "parity" in r)
    bars = {
        (b.arm_b, b.where["shape"]): b.most
        for b in page.BARS["cpu"]
        if b.arm_a == "bidirectional" and b.of is None and "shape" in b.where
    }
    timed = {r["arm_b"]: r for r in rows if "arm_a" in r}
    checked = [other for other in timed if (other, name) in bars]
    assert checked and all(
        timed[o]["ratio_median"] <= 2 * bars[o, name] and timed[o]["n"] == 5 for o in checked
    )


def test_arms_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = sections.stock_loss
    monkeypatch.setattr(sections, "stock_loss", lambda *a: 1.01 * stock(*a))
    rows = list(sections.step(place(1), SHAPES["tiny"], Work(8, 24, prefix=40)))
    assert [r["ok"] for r in rows] == [False, True, True]  # parity alone


def test_parity_sees_a_gradient_that_differs_behind_an_equal_loss() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    found = parity(
        lambda: weight.sum(), lambda: weight.sum().detach() + (weight - weight.detach()).sum() * 2, [weight]
    )
    assert found["loss"] == 0.0 and found["gradient"] == pytest.approx(0.5) and not found["ok"]


def test_ratios_are_medians_of_pairs() -> None:
    found = ratio({"a": [1.0, 4.0, 9.0], "b": [2.0, 2.0, 3.0]}, "a", "b")
    assert (found["ratio_median"], found["q1"], found["q3"], found["n"]) == (2.0, 1.25, 2.5, 3)


def test_arms_take_turns() -> None:
    order: list[str] = []
    interleaved({n: lambda n=n: order.append(n) for n in "ab"}, CPU, 2, warmup=1)
    assert "".join(order) == "baabba"


def test_a_plain_step_moves_a_model_as_ours_does() -> None:
    model = build_model(SHAPES["tiny"], CPU, torch.float32)
    assert sum(p.numel() for p in model.parameters()) == SHAPES["tiny"].body + 300 * 32 + 5 * 32


def kept(*rows: dict[str, Any], section: str = "s1", commit: str = "c") -> dict[str, Any]:
    return compact([{"section": section, "commit": commit, **row, **ABOUT} for row in rows])


def test_peak_memory_becomes_ratios() -> None:
    found = kept(
        {"parity": "x", "ok": True, "loss": 1e-7, "gradient": 2e-6},
        {"memory": "bidirectional", "peak": 100, "rows": 8},
        {"memory": "stock", "peak": 400, "rows": 8},
        {"memory": "bidirectional", "peak": 100, "rows": 16},
        {"memory": "stock", "peak": 200, "rows": 16},
        {"seconds": 3.0},
    )
    assert [(r["ratio_median"], r["rows"], r["bytes"]) for r in found["rows"]] == [
        (0.25, 8, [100, 400]),
        (0.5, 16, [100, 200]),
    ]
    assert found["sections"] == {"s1": {"commit": "c", "pairs": 1, "loss": 1e-7, "gradient": 2e-6}}
    assert found["about"] == ABOUT


def test_rows_of_two_machines_are_not_mixed() -> None:
    row = {"section": "s1", "commit": "c"}
    with pytest.raises(ValueError, match="several"):
        compact([{**row, **ABOUT}, {**row, **ABOUT, "machine": "n"}])
    other = {**kept({"rate": "x"}), "about": {**ABOUT, "machine": "n"}}
    assert merged(other, kept({"rate": "y"})) == kept({"rate": "y"})


def test_a_section_that_is_measured_again_replaces_itself_alone() -> None:
    first = merged(merged(None, kept({"rate": "a"})), kept({"rate": "b"}, section="s2"))
    assert [r["rate"] for r in first["rows"]] == ["a", "b"]
    again = merged(first, kept({"rate": "c"}, {"rate": "d"}, commit="e"))
    assert [(r["section"], r["rate"]) for r in again["rows"]] == [("s1", "c"), ("s1", "d"), ("s2", "b")]
    assert {name: s["commit"] for name, s in again["sections"].items()} == {"s1": "e", "s2": "c"}


def test_the_page_is_what_its_rows_say() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "stale: python -m benchmarks.page"


def test_a_missed_bar_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"section": "s1", "arm_a": "bidirectional", "arm_b": "stock", "q1": 0.8, "q3": 0.9, "n": 3}
    row |= {"rows": 8, "tokens": 9, "answers": 2}
    for found, says in ((0.85, "| met |"), (0.86, "**missed**")):
        monkeypatch.setattr(page, "load", lambda _, f=found: {"rows": [{**row, "ratio_median": f}]})
        assert says in page.ratios("gpu")
