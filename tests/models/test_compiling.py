"""Compiled blocks: in training alone, in every block, and with the same numbers."""

from __future__ import annotations

import pytest
import torch

from harmonize.models.body import blocks_of
from harmonize.models.compiling import PAD_TO, CompiledBlocks
from harmonize.unlearning.module import UnlearningModule
from tests.models.tiny import tiny
from tests.unlearning.toy import make_module

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.compile imports old parts of torch
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute:UserWarning"
    ),  # and looks at states that have none
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_blocks_run_compiled_inside_and_as_they_are_outside(name: str) -> None:
    model = tiny(name).eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    plain = model(input_ids=ids).logits
    seen = 0

    def backend(graph, inputs):
        nonlocal seen
        seen += 1
        return graph.forward

    blocks = CompiledBlocks(model, backend=backend)
    with blocks:
        assert all("forward" in vars(b) for b in blocks_of(model))
        torch.testing.assert_close(model(input_ids=ids).logits, plain)
    assert seen >= 1 and not any("forward" in vars(b) for b in blocks_of(model))
    compiled = seen
    model(input_ids=ids[:, :3])
    assert seen == compiled
    with pytest.raises(ZeroDivisionError), blocks:
        raise ZeroDivisionError
    assert not any("forward" in vars(b) for b in blocks_of(model))


def test_gradients_are_the_same() -> None:
    ids = torch.tensor([[3, 4, 5, 6]])
    found = []
    for fast in (False, True):
        model = tiny("llama").train()
        if fast:
            with CompiledBlocks(model, backend="aot_eager"):
                model(input_ids=ids, labels=ids).loss.backward()
        else:
            model(input_ids=ids, labels=ids).loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_the_flag_pads_to_few_shapes() -> None:
    plain: UnlearningModule = make_module()
    fast: UnlearningModule = make_module(compile_blocks=True)
    assert plain._pad_to == 1 and fast._pad_to == PAD_TO == 64
    assert isinstance(fast._compiled, CompiledBlocks) and not isinstance(plain._compiled, CompiledBlocks)
