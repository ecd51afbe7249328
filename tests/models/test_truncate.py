"""Truncated views: the first blocks of a model under its own norm and head, sharing its tensors."""

from __future__ import annotations

import pytest
import torch

from harmonize.errors import ModelError
from harmonize.models.body import answer_states, blocks_of
from harmonize.models.generate import greedy
from harmonize.models.head import Head
from harmonize.models.lora import apply_peft
from harmonize.models.truncate import layers_kept, truncated_view
from tests.models.tiny import ARCHITECTURES, some_rows, tiny

IDS = torch.tensor([[5, 6, 7, 8, 9]])
EACH = pytest.mark.parametrize("name", sorted(ARCHITECTURES))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@EACH
def test_a_view_is_the_model_with_its_last_blocks_skipped(name: str) -> None:
    model = tiny(name)
    view = truncated_view(model, 1)
    # a block that adds nothing: its output is replaced by its input
    skipped = blocks_of(model)[1].register_forward_hook(
        lambda module, args, kwargs, out: _like(out, args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    expected = logits(model)
    skipped.remove()
    assert torch.allclose(logits(view), expected, atol=1e-5)
    assert not torch.allclose(logits(model), expected, atol=1e-2)


def _like(out, hidden):
    return (hidden, *out[1:]) if isinstance(out, tuple) else hidden


@EACH
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")  # peft, of GPT-2's layers
def test_tensors_are_shared_and_modules_are_not(name: str) -> None:
    model = tiny(name)
    before, plain = model.config.to_dict(), logits(model)
    view = truncated_view(model, 1)
    own = dict(model.named_parameters())
    assert len(blocks_of(view)) == 1 and len(blocks_of(model)) == 2
    assert all(p is own[n] for n, p in view.named_parameters())
    assert not {id(m) for m in model.modules()} & {id(m) for m in view.modules()}
    adapted = apply_peft(
        view, {"peft_type": "LORA", "r": 2, "target_modules": "all-linear", "init_lora_weights": False}
    )
    assert not torch.equal(logits(adapted), logits(truncated_view(model, 1)))
    assert torch.equal(logits(model), plain) and model.config.to_dict() == before
    assert not [n for n, _ in model.named_parameters() if "lora" in n]


@EACH
def test_a_view_generates_and_has_a_head(name: str) -> None:
    view = truncated_view(tiny(name), 1)
    asked = [[5, 6, 7], [4], [9, 8]]
    assert greedy(view, asked, [2], 0, 6) == [greedy(view, [p], [2], 0, 6)[0] for p in asked]
    Head.of(view)
    from harmonize.data.batch import collate

    states, _ = answer_states(view, collate(some_rows(), 0))
    assert states.isfinite().all()


def test_how_many_blocks_are_kept() -> None:
    assert [layers_kept(n, None) for n in (1, 2, 3, 5, 12, 16, 32, 80)] == [1, 1, 2, 3, 6, 8, 8, 8]
    assert layers_kept(12, 12) == 12 and layers_kept(12, 1) == 1
    for wrong in (0, 13):
        with pytest.raises(ModelError, match="the model has 12 blocks"):
            layers_kept(12, wrong)


def test_a_model_with_adapters_is_refused() -> None:
    model = apply_peft(tiny("llama"), {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]})
    with pytest.raises(ModelError, match="merge"):
        truncated_view(model, 1)
