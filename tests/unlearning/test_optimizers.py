"""Fused where it can be: on a GPU, unless said otherwise, and only for optimizers that know the word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harmonize.unlearning import optimizers

NODE = {"_target_": "torch.optim.AdamW", "lr": 0.1}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the optimizer is called with."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(optimizers, "call", lambda node, **more: found.update(more))
    return found


def weight(cuda: bool) -> Any:
    return SimpleNamespace(is_cuda=cuda, is_floating_point=lambda: True)


@pytest.mark.parametrize(
    ("node", "places", "fused"),
    [
        (NODE, (True, True), True),
        (NODE, (True, False), None),
        (NODE, (False,), None),
        ({**NODE, "fused": False}, (True,), None),  # the node's own word is passed on as it is
        ({**NODE, "fused": None}, (True,), True),
        ({**NODE, "_target_": "torch.optim.Adagrad"}, (True,), True),
        ({**NODE, "_target_": "torch.optim.RMSprop"}, (True,), None),
    ],
)
def test_fused(given: dict[str, Any], node: dict[str, Any], places: tuple[bool, ...], fused: Any) -> None:
    optimizers.build_optimizer(node, [weight(p) for p in places])
    assert given.get("fused") is fused


def test_on_a_cpu_it_is_torchs_own_choice() -> None:
    made = optimizers.build_optimizer(NODE, [torch.nn.Parameter(torch.ones(2))])
    assert (
        isinstance(made, torch.optim.AdamW) and made.defaults["fused"] is None and made.defaults["lr"] == 0.1
    )
