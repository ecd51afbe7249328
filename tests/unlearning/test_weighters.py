"""Weighters: SGA's selection and GUARD's attributions against slow versions, and what a weight does in a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harmonize.data.batch import Row
from harmonize.errors import DataError
from harmonize.models.head import Head
from harmonize.models.load import LoadedModel
from harmonize.statistics import Statistics
from harmonize.unlearning.weighters import (
    GUARD,
    SGA,
    Even,
    Subject,
    guard_weights,
    probabilities,
    reweighted,
    selected,
)
from tests.unlearning.test_fit import go, weights
from tests.unlearning.toy import VOCABULARY, make_module, make_rows, tiny_llama


def slow_log_probs(model: Any, row: Row) -> torch.Tensor:
    """[m] log-probability of each response token, one row at a time."""
    ids = [*row.prompt, *row.prefill, *row.target]
    found = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(row.target)
    return torch.stack([found[start + j - 1, t] for j, t in enumerate(row.target)])


def subject(model: Any, rows: list[Row]) -> Subject:
    return Subject(model, Head.of(model), 0, lambda role: [r for r in rows if r.role == role])


def test_selection_by_hand() -> None:
    assert selected([0.9, 0.2, 0.7], 0.7) == [1, 0, 1]
    assert selected([0.1, 0.2, 0.15], 0.7) == [0, 1, 0]


def test_probabilities_are_means_over_the_response() -> None:
    model, rows = tiny_llama(), make_rows(7)
    with torch.no_grad():
        slow = [float(slow_log_probs(model, r).exp().mean()) for r in rows]
    assert probabilities(model, Head.of(model), rows, 0) == pytest.approx(slow, rel=1e-4)


def test_sga_weighs_forget_rows_alone() -> None:
    model, rows = tiny_llama(), make_rows(8)
    known = probabilities(model, Head.of(model), rows, 0)
    forget = [i for i, r in enumerate(rows) if r.role == "forget"]
    threshold = sorted(known[i] for i in forget)[1]
    sga = SGA(threshold=threshold)
    sga.prepare(subject(model, rows))
    model.train()
    found = sga(model, Head.of(model), rows, 0)
    assert model.training
    assert [r.weight for r in found] == [
        1.0 if r.role == "retain" else float(p >= threshold) for r, p in zip(rows, known, strict=True)
    ]
    assert sum(r.weight for r in found if r.role == "forget") == 3


def test_training_on_selected_rows_is_training_on_them_alone() -> None:
    """Weight 0 leaves a row out of the step's means."""
    plain, weighted = (
        make_module(),
        make_module(weigh=lambda m, h, rows, s: [reweighted(r, float(r.example_id != "e2")) for r in rows]),
    )
    fewer = make_module(weigh=lambda m, h, rows, s: [r for r in rows if r.example_id != "e2"])
    even = make_module(weigh=Even())
    for module in (plain, weighted, fewer, even):
        go(module, 2)
    assert torch.allclose(weights(weighted), weights(fewer), atol=2e-5)
    assert torch.equal(weights(plain), weights(even)) and not torch.allclose(
        weights(plain), weights(fewer), atol=1e-4
    )


def test_rows_that_come_along_get_the_weight_too() -> None:
    row = make_rows(1)[0]
    both = replace(row, companions=(row, row))
    assert [r.weight for r in (reweighted(both, 0.5), *reweighted(both, 0.5).companions)] == [0.5] * 3


def test_guard_attributes_by_inner_products() -> None:
    model, rows = tiny_llama(), make_rows(9, roles=("forget", "retain", "retain"))
    guard = GUARD(temperature=0.5)
    model.train()
    guard.prepare(subject(model, rows))
    assert model.training and all(p.grad is None for p in model.parameters())
    parameters = list(model.parameters())

    def slow_gradient(some: list[Row]) -> torch.Tensor:
        loss = torch.stack([-slow_log_probs(model, r).mean() for r in some]).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    kept = slow_gradient([r for r in rows if r.role == "retain"])
    forget = [r for r in rows if r.role == "forget"]
    a = torch.stack([slow_gradient([r]) @ kept for r in forget]).double()
    expected = 3 * torch.softmax(-a / a.std(correction=0) / 0.5, 0)
    assert [guard.weights[r.example_id] for r in forget] == pytest.approx(expected.tolist(), rel=1e-3)
    found = guard(model, Head.of(model), rows, 3)
    assert [r.weight for r in found if r.role == "retain"] == [1.0] * 6
    assert sum(r.weight for r in found if r.role == "forget") == pytest.approx(3)


def test_guard_with_a_kept_gradient_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    model, rows = tiny_llama(), make_rows(9, roles=("forget", "retain", "retain"))
    alone = subject(model, rows)
    renderer: Any = SimpleNamespace(pad_id=0)
    kept = Statistics(LoadedModel(model, range(VOCABULARY), renderer), alone.rows, tmp_path)
    found = []
    for statistics in (None, kept, kept):
        guard = GUARD(temperature=0.5)
        guard.prepare(replace(alone, statistics=statistics))
        found.append(guard.weights)
    assert found[0] == found[1] == found[2] and len(list((tmp_path / "statistics").iterdir())) == 1


def test_probabilities_do_not_depend_on_the_batching(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny_llama(), make_rows(7)
    known = probabilities(model, Head.of(model), rows, 0)
    monkeypatch.setattr("harmonize.unlearning.weighters._PROBE_ROWS", 2)
    assert known == pytest.approx(probabilities(model, Head.of(model), rows, 0), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    st.floats(0.2, 5),
    st.floats(1e-6, 1e6),
    st.floats(-3, 3),
)
def test_guard_weights_have_mean_one_and_no_scale(
    a: list[float], t: float, scale: float, shift: float
) -> None:
    values = torch.tensor(a, dtype=torch.float64).round(decimals=3)
    found = guard_weights(values, t)
    assert float(found.mean()) == pytest.approx(1)
    assert torch.allclose(found, guard_weights(scale * (values + shift), t), rtol=1e-3, atol=1e-5)
    for i in range(len(a)):
        for j in range(len(a)):
            if values[i] < values[j]:
                assert found[i] >= found[j]


def test_equal_attributions_weigh_alike() -> None:
    assert guard_weights(torch.full((4,), 1e-3, dtype=torch.float64), 1.0).tolist() == [1.0] * 4
    assert guard_weights(torch.zeros(3, dtype=torch.float64), 1.0).tolist() == [1.0] * 3


def test_guard_without_retain_data_is_refused() -> None:
    model = tiny_llama()
    with pytest.raises(DataError, match=r"'retain'.*weighter=none"):
        GUARD().prepare(subject(model, make_rows(3, roles=("forget",))))


@pytest.mark.parametrize(
    ("kind", "weighter", "told"),
    [
        (SGA, {}, None),
        (SGA, {"threshold": 1.5}, "weighter.threshold"),
        (SGA, {"roles": ["neighbor"]}, "weighter.roles=[forget]"),
        (SGA, {"roles": ["forgett"]}, "Did you mean 'forget'"),
        (GUARD, {"against": ["neighbor"]}, None),
        (GUARD, {"against": ["general"]}, "weighter.against"),
        (GUARD, {"temperature": 0}, "weighter.temperature"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind: Any, weighter: dict[str, Any], told: str | None) -> None:
    cfg = OmegaConf.create({"weighter": weighter, "method": {"response": {"forget": "reference"}}})
    problems = kind.problems(cfg)
    assert (problems == []) if told is None else (len(problems) == 1 and told in problems[0])
