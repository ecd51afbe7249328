"""States between blocks and the logit lens, on every architecture at hand, beside transformers' own hidden states."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harmonize.data.batch import collate
from harmonize.errors import ModelError
from harmonize.models.layers import Lens, layer_states
from tests.models.tiny import ARCHITECTURES, some_rows, tiny


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_lens_at_the_last_layer_is_the_model(name: str) -> None:
    model, batch = tiny(name), collate(some_rows(), 0, side="left")
    with torch.no_grad():
        states, lens = layer_states(model, batch), Lens.of(model)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        whole = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            output_hidden_states=True,
        )
        logits = lens.logits(states[-1])
        # transformers' list ends with the normed states; those below are what leaves the blocks
        for layer, theirs in enumerate(whole.hidden_states[:-1]):
            own = theirs.flatten(0, 1)[batch.positions]
            assert torch.equal(states[layer], own), layer
        final = whole.hidden_states[-1].flatten(0, 1)[batch.positions]
        assert torch.allclose(lens.final(states[-1]), final, atol=1e-6)
    assert torch.allclose(logits, whole.logits.flatten(0, 1)[batch.positions], atol=1e-5)
    assert len(lens.last) == 1 and states.shape[0] == 3


def test_states_do_not_depend_on_padding() -> None:
    model, rows = tiny("gpt2"), some_rows()
    with torch.no_grad():
        found = [layer_states(model, collate(rows, 0, side=s)) for s in ("left", "right")]
        alone = torch.cat(
            [layer_states(model, collate([r], 0)) for r in sorted(rows, key=lambda r: -r.length)], 1
        )
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert torch.allclose(found[0], alone, atol=1e-5)


def test_a_model_without_a_final_norm_has_an_empty_chain() -> None:
    model = tiny("llama")
    model.model.norm = nn.Identity()
    lens = Lens.of(model)
    batch = collate(some_rows(), 0)
    with torch.no_grad():
        states = layer_states(model, batch)
        assert torch.equal(lens.final(states[-1]), states[-1])


def test_a_step_that_is_no_module_is_refused() -> None:
    model = tiny("llama")
    model.lm_head.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    with pytest.raises(ModelError, match="not a chain of modules"):
        Lens.of(model)


def test_a_model_without_blocks_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.config = SimpleNamespace(num_hidden_layers=3)
    with pytest.raises(ModelError, match="no list of blocks"):
        layer_states(model, None)  # type: ignore[arg-type]
