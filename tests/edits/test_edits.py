"""Every edit: values worked by hand, a slow second implementation, extremes, and inputs that stay as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from harmonize.edits.inputs import FIELDS, STATES, block_of, inputs_of, measured_inputs
from harmonize.edits.layer_boost import layer_boost
from harmonize.edits.sparse_update import sparse_update
from harmonize.edits.ssd import ssd
from harmonize.edits.tall_mask import masks, tall_mask
from harmonize.edits.task_vector import task_vector
from harmonize.errors import ConfigError

EDITS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (ssd, task_vector, tall_mask, layer_boost, sparse_update)
}
EACH = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
NAMES = {"embed.weight": (9, 4), "model.layers.0.a.weight": (4, 6), "model.layers.0.a.bias": (6,)}
NAMES |= {"model.layers.1.a.weight": (4, 6), "model.layers.1.b.weight": (3, 4), "norm.weight": (4,)}


def state(seed: int, positive: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found = {n: torch.randn(shape, generator=draw) for n, shape in NAMES.items()}
    return {n: (v**2 if positive else v).to(dtype) for n, v in found.items()}


def near(start: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    return {n: start[n] + 0.1 * v.to(start[n].dtype) for n, v in state(seed).items()}


def given(edit: Callable[..., Any], dtype: torch.dtype = torch.float32) -> dict[str, dict[str, Tensor]]:
    """One state for each input that the edit names."""
    start = state(0, dtype=dtype)
    made = {"start": start, "weights": near(start, 1)}
    for i, name in enumerate(FIELDS, 10):
        made[name] = state(i, positive=True) if name.endswith("fisher") else near(start, i)
    return {name: made[name] for name in inputs_of(edit)}


def slow(name: str, inputs: Mapping[str, Mapping[str, Tensor]], **settings: Any) -> dict[str, Tensor]:
    """The same, entry by entry in plain Python."""
    lists = {i: {n: v.flatten().tolist() for n, v in s.items()} for i, s in inputs.items()}
    shapes = {n: v.shape for n, v in inputs["weights"].items()}
    found = SLOW[name](lists, **settings)
    return {n: torch.tensor(v).reshape(shapes[n]) for n, v in found.items()}


def slow_ssd(s: Any, alpha: float = 10.0, dampening: float = 1.0) -> dict[str, list[float]]:
    return {
        n: [
            w * min(1.0, dampening * r / f) if f > alpha * r else w
            for w, f, r in zip(s["weights"][n], s["forget_fisher"][n], s["retain_fisher"][n], strict=True)
        ]
        for n in s["weights"]
    }


def slow_task_vector(s: Any, alpha: float = 1.0) -> dict[str, list[float]]:
    return {
        n: [
            w - alpha * (f - b)
            for w, f, b in zip(s["weights"][n], s["forget_weights"][n], s["start"][n], strict=True)
        ]
        for n in s["weights"]
    }


def slow_tall_mask(s: Any, alpha: float = 1.0, threshold: float = 0.4) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for n in s["weights"]:
        columns = (s[k][n] for k in ("start", "weights", "forget_weights", "retain_weights"))
        for b, w, f, r in zip(*columns, strict=True):
            together = b + (f - b) + (r - b)
            mask_f = abs(b - f) > threshold * abs(together - f)
            mask_r = abs(b - r) > threshold * abs(together - r)
            found.setdefault(n, []).append(w - alpha * (f - b) if mask_f and not mask_r else w)
    return found


def slow_layer_boost(
    s: Any, share: float = 0.25, factor: float = 1.75, unit: str = "matrix"
) -> dict[str, list[float]]:
    layers = [n for n in s["weights"] if "layers" in n and (unit == "block" or not n.endswith("bias"))]
    group = (lambda n: n) if unit == "matrix" else (lambda n: ".".join(n.split(".")[:3]))
    norms: dict[str, float] = {}
    for n in layers:
        moved = [(w - b) ** 2 for w, b in zip(s["weights"][n], s["start"][n], strict=True)]
        norms[group(n)] = norms.get(group(n), 0.0) + math.fsum(moved)
    order = sorted(norms, key=lambda g: -norms[g])
    top = order[: max(1, round(share * len(order))) if share else 0]
    return {
        n: [b + factor * (w - b) for w, b in zip(s["weights"][n], s["start"][n], strict=True)]
        if n in layers and group(n) in top
        else s["weights"][n]
        for n in s["weights"]
    }


def slow_sparse_update(s: Any, share: float = 0.1, keep: str = "largest") -> dict[str, list[float]]:
    found = {}
    for n, weights in s["weights"].items():
        moved = [abs(w - b) for w, b in zip(weights, s["start"][n], strict=True)]
        count = round(share * len(moved))
        top = set(sorted(range(len(moved)), key=lambda i: -moved[i])[:count])
        found[n] = [
            w if (i in top) == (keep == "largest") else b
            for i, (w, b) in enumerate(zip(weights, s["start"][n], strict=True))
        ]
    return found


SLOW: dict[str, Callable[..., dict[str, list[float]]]] = {
    "ssd": slow_ssd,
    "task_vector": slow_task_vector,
    "tall_mask": slow_tall_mask,
    "layer_boost": slow_layer_boost,
    "sparse_update": slow_sparse_update,
}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("ssd", {}),
    ("ssd", {"alpha": 1.0, "dampening": 0.5}),
    ("ssd", {"alpha": 0.5, "dampening": 3.0}),
    ("task_vector", {}),
    ("task_vector", {"alpha": -0.3}),
    ("tall_mask", {}),
    ("tall_mask", {"alpha": 2.0, "threshold": 0.2}),
    ("tall_mask", {"threshold": 1.5}),
    ("layer_boost", {}),
    ("layer_boost", {"share": 0.7, "factor": 0.5}),
    ("layer_boost", {"share": 0.5, "unit": "block"}),
    ("sparse_update", {}),
    ("sparse_update", {"share": 0.4, "keep": "rest"}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_against_a_slow_one(name: str, settings: dict[str, Any]) -> None:
    inputs = given(EDITS[name])
    found = {**inputs["weights"], **dict(EDITS[name](*inputs.values(), **settings))}
    expected = slow(name, inputs, **settings)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[n], expected[n], atol=1e-6) for n in expected)
    assert any(not torch.equal(found[n], inputs["weights"][n]) for n in found)


@EACH
def test_inputs_stay_as_they_are(edit: Callable[..., Any]) -> None:
    inputs = given(edit)
    before = {i: {n: v.clone() for n, v in s.items()} for i, s in inputs.items()}
    for _, new in edit(*inputs.values()):
        new.add_(1.0)  # what comes out is nobody else's
    assert all(torch.equal(inputs[i][n], before[i][n]) for i in inputs for n in inputs[i])


@EACH
def test_dtypes_stay_and_are_worked_in_fp32(edit: Callable[..., Any]) -> None:
    half = given(edit, torch.bfloat16)
    exact = {i: {n: v.float() for n, v in s.items()} for i, s in half.items()}
    found, expected = dict(edit(*half.values())), dict(edit(*exact.values()))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.bfloat16 and torch.equal(value, expected[name].bfloat16())


@EACH
def test_integers_and_tensors_that_an_input_lacks_are_left_alone(edit: Callable[..., Any]) -> None:
    inputs = given(edit)
    for each in inputs.values():
        each["steps"] = torch.tensor([3])
    untouched = dict(edit(*inputs.values()))
    assert "steps" not in untouched and untouched
    for name, each in inputs.items():
        if name != "weights" and name != "retain_weights":
            del each["norm.weight"], each["model.layers.0.a.weight"]
            break
    assert not {"norm.weight", "model.layers.0.a.weight"} & set(dict(edit(*inputs.values())))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ssd", {"alpha": 1e30}),
        ("task_vector", {"alpha": 0.0}),
        ("tall_mask", {"alpha": 0.0}),
        ("tall_mask", {"threshold": 0.0}),
        ("layer_boost", {"factor": 1.0, "share": 1.0}),
        ("layer_boost", {"share": 0.0}),
        ("sparse_update", {"share": 1.0}),
        ("sparse_update", {"share": 0.0, "keep": "rest"}),
    ],
)
def test_where_nothing_is_chosen_nothing_changes(name: str, settings: dict[str, Any]) -> None:
    inputs = given(EDITS[name])
    changed = dict(EDITS[name](*inputs.values(), **settings))
    assert all(torch.allclose(v, inputs["weights"][n], atol=1e-7) for n, v in changed.items())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("layer_boost", {"factor": 0.0, "share": 1.0, "unit": "block"}),
        ("sparse_update", {"share": 0.0}),
        ("sparse_update", {"share": 1.0, "keep": "rest"}),
    ],
)
def test_where_all_is_undone_the_start_is_back(name: str, settings: dict[str, Any]) -> None:
    inputs = given(EDITS[name])
    changed = dict(EDITS[name](*inputs.values(), **settings))
    assert changed and all(torch.equal(v, inputs["start"][n]) for n, v in changed.items())


def one(values: list[float]) -> dict[str, Tensor]:
    return {"model.layers.0.w": torch.tensor([values])}


def changed(edit: Callable[..., Any], *inputs: Mapping[str, Tensor], **settings: Any) -> list[float]:
    return dict(edit(*inputs, **settings))["model.layers.0.w"][0].tolist()


def test_ssd_by_hand() -> None:
    """I_f / I_r: 40 > 10 dampens by 1/40; 10 is not above 10; no retain importance at all sets to zero; 0 / 0 stays."""
    weights, forget, retain = [2.0, 2.0, 2.0, 2.0], [4.0, 1.0, 1.0, 0.0], [0.1, 0.1, 0.0, 0.0]
    assert changed(ssd, one(weights), one(forget), one(retain)) == pytest.approx([0.05, 2.0, 0.0, 2.0])
    # a dampening above alpha never amplifies
    assert changed(ssd, one(weights), one(forget), one(retain), dampening=100.0)[0] == 2.0


def test_task_vector_by_hand() -> None:
    """theta = theta_0 = 1, theta_forget = 1.5: one minus a half, twice that for alpha = 2."""
    start, forget = one([1.0, -1.0]), one([1.5, -1.0])
    assert changed(task_vector, start, start, forget) == [0.5, -1.0]
    assert changed(task_vector, start, one([3.0, 3.0]), forget, alpha=2.0) == [2.0, 3.0]


def test_tall_masks_by_hand() -> None:
    """At 0.4, (tau_f, tau_r): (1, 0) forget alone; (1, 1) both; (0.1, 1) retain alone; (1, 0.4) the bound: forget."""
    forget, retain = torch.tensor([1.0, 1.0, 0.1, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.4])
    used, kept = masks(forget, retain, 0.4)
    assert used.tolist() == [True, True, False, True] and kept.tolist() == [False, True, True, False]
    start = one([0.0] * 4)
    f, r = {"model.layers.0.w": forget[None]}, {"model.layers.0.w": retain[None]}
    assert changed(tall_mask, start, start, f, r) == pytest.approx([-1.0, 0.0, 0.0, -1.0])
    # a retain checkpoint that leaves a tensor out did not change it
    assert changed(tall_mask, start, start, f, {}) == pytest.approx([-1.0, -1.0, -0.1, -1.0])


def test_layer_boost_by_hand() -> None:
    """Of four layers that changed, the top quarter is the one with norm 3; the embedding changed more and is none."""
    start = {f"model.layers.{i}.w": torch.zeros(1, 2) for i in range(5)} | {"embed.w": torch.zeros(1, 2)}
    moves = [1.0, 3.0, 0.5, 2.0, 0.0]
    weights = {f"model.layers.{i}.w": torch.tensor([[m, 0.0]]) for i, m in enumerate(moves)}
    weights["embed.w"] = torch.tensor([[9.0, 9.0]])
    found = dict(layer_boost(start, weights))
    assert list(found) == ["model.layers.1.w"] and found["model.layers.1.w"].tolist() == [[5.25, 0.0]]
    assert sorted(dict(layer_boost(start, weights, share=0.5))) == ["model.layers.1.w", "model.layers.3.w"]


def test_sparse_update_by_hand() -> None:
    """Half of four entries: the moves -3 and 2 stay, 1 and 0.5 are undone; a tie at the bound keeps both."""
    start, weights = one([0.0] * 4), one([1.0, -3.0, 2.0, 0.5])
    assert changed(sparse_update, start, weights, share=0.5) == [0.0, -3.0, 2.0, 0.0]
    assert changed(sparse_update, start, weights, share=0.5, keep="rest") == [1.0, 0.0, 0.0, 0.5]
    assert changed(sparse_update, start, one([1.0, 1.0, 2.0, 0.5]), share=0.5) == [1.0, 1.0, 2.0, 0.0]


def test_what_edits_read() -> None:
    assert {n: sorted(inputs_of(e)) for n, e in EDITS.items()} == {
        "ssd": ["forget_fisher", "retain_fisher", "weights"],
        "task_vector": ["forget_weights", "start", "weights"],
        "tall_mask": ["forget_weights", "retain_weights", "start", "weights"],
        "layer_boost": ["start", "weights"],
        "sparse_update": ["start", "weights"],
    }
    assert not measured_inputs(sparse_update) and set(measured_inputs(ssd)) == {
        "forget_fisher",
        "retain_fisher",
    }

    def misspelt(weights: Any, forget_fischer: Any) -> Any: ...

    with pytest.raises(ConfigError, match="Did you mean 'forget_fisher'"):
        inputs_of(misspelt)
    assert set(STATES).isdisjoint(FIELDS)


def test_blocks_are_told_by_the_first_number() -> None:
    assert block_of("model.layers.11.mlp.experts.3.up.weight") == "model.layers.11"
    assert block_of("transformer.h.0.attn.c_attn.weight") == "transformer.h.0"
    assert block_of("model.embed_tokens.weight") is None
