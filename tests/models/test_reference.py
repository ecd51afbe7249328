"""The untouched model's outputs kept once, states of blocks, and several teachers as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harmonize.data.batch import Row, collate, flatten
from harmonize.errors import ModelError
from harmonize.models.body import answer_hidden, answer_states, block_number, blocks_of
from harmonize.models.cache import EnsembleCache
from harmonize.models.frozen import TeacherRequest
from harmonize.models.head import Head
from harmonize.models.lora import apply_peft
from harmonize.models.reference import build_reference
from harmonize.models.teacher import build_teacher_cache
from tests.models.tiny import tiny

LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]}
ROWS = [
    Row("a", "forget", "s", (1, 5, 6), (7, 8, 9, 2)),
    Row("a", "forget", "s", (1, 5, 6), (9, 2), prefill=(7, 8), view="prefix"),
    Row("a", "forget", "s", (1, 5, 6), (7, 8, 9, 2), prefill=(30, 31), view="opener"),
    Row("b", "retain", "s", (1, 4), (11, 2)),
]


def build(model, folder: Path, kinds=("log_probs", "hidden"), blocks=None, rows=ROWS, **changes):
    options = {"digest": "weights", "pad_id": 0, "mode": "hidden", "batch_size": 2, **changes}
    return build_reference(model, Head.of(model), rows, kinds, blocks or {}, cache_dir=folder, **options)


def direct(model, rows):
    batch = collate(rows, 0)
    with torch.no_grad():
        final, inner = answer_states(model, batch, [0, 1])
        return batch, final, inner, Head.of(model).log_probs(final, batch.labels)


@pytest.mark.parametrize("mode", ["hidden", "none"])
@pytest.mark.parametrize("adapted", [False, True])
def test_outputs_are_those_of_the_untouched_model(tmp_path: Path, mode: str, adapted: bool) -> None:
    model = tiny("llama")
    _, final, inner, log_probs = direct(model, ROWS)
    if adapted:
        model = apply_peft(model, LORA)
    reference = build(model, tmp_path, blocks={None: 0, -1: 1}, mode=mode)
    with torch.no_grad():  # what is trained afterwards moves nothing
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "norm" not in name:
                parameter.add_(0.1)
    batch = collate([reference.place(r) for r in ROWS], 0)
    reference.prepare(batch)
    index = batch.reference_index
    torch.testing.assert_close(reference.log_probs(index), log_probs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reference.hidden(index).float(), final, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(reference.at_layer(index, None).float(), inner[0], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(reference.at_layer(index, -1).float(), inner[1], rtol=2e-3, atol=2e-3)
    assert reference.logits(index).shape == (len(index), 97)


def test_only_what_is_asked_for_is_kept_and_found_again(tmp_path: Path) -> None:
    model = tiny("llama")
    first = build(model, tmp_path, kinds=("log_probs",))
    assert first.path is not None and first.forwards == 2
    assert [p.name for p in first.path.glob("*.npy")] == ["log_probs.npy"]
    assert build(model, tmp_path, kinds=("log_probs",)).forwards == 0
    assert build(model, tmp_path, kinds=("log_probs",), digest="other").forwards == 2
    # a row that continues its prefill shares the plain row's outputs
    plain, continued, opened = (first.place(r).reference_start for r in ROWS[:3])
    assert continued == plain + 2 and opened not in (plain, continued)


def test_rows_that_were_not_read_are_no_guess(tmp_path: Path) -> None:
    reference = build(tiny("llama"), tmp_path, rows=[r for r in ROWS if r.role == "forget"])
    assert reference.place(ROWS[3]).reference_start == -1
    with pytest.raises(KeyError):
        reference.place(replace(ROWS[0], target=(50, 2)))


def test_a_live_reference_runs_the_rows_it_needs_alone(tmp_path: Path) -> None:
    model = tiny("llama")
    live = build(model, tmp_path, rows=ROWS[:3], mode="none")
    sizes: list[int] = []
    live_run = live._run
    live._run = lambda batch: (sizes.append(batch.n_rows), live_run(batch))[1]
    batch = collate(ROWS, 0)
    live.prepare(batch)
    assert sizes == [3] and live.forwards == 1
    assert (batch.reference_index[batch.row == 3] == -1).all()
    retain = collate([ROWS[3]], 0)
    live.prepare(retain)
    assert live.forwards == 1


def test_moments(tmp_path: Path) -> None:
    reference = build(tiny("llama"), tmp_path, kinds=("hidden",))
    states = reference._arrays["hidden"].float()
    mean, std = reference.moments()
    torch.testing.assert_close(mean, states.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std, states.std(0, correction=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_states_of_blocks(name: str) -> None:
    model = tiny(name)
    batch = collate(ROWS, 0)
    with torch.no_grad():
        final, inner = answer_states(model, batch, [0, 1])
        whole = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            output_hidden_states=True,
        )
    first = whole.hidden_states[1].reshape(-1, 32)[batch.positions]
    torch.testing.assert_close(inner[0], first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(final, answer_hidden(model, batch))


def test_blocks_by_number() -> None:
    model = tiny("llama")
    assert len(blocks_of(model)) == 2
    assert [block_number(model, layer) for layer in (None, 0, 1, -1)] == [0, 0, 1, 1]
    with pytest.raises(ModelError, match=r"layer=7: the model has 2 blocks, 0 to 1.*layer=null"):
        block_number(model, 7)


def test_an_ensemble_is_the_mean_of_its_members(tmp_path: Path) -> None:
    model = tiny("gemma2")  # its logits are capped, so the mean of hidden states would not do

    def member(told: int, answers=None):
        asked = [TeacherRequest(r, "forget", (told, 5, 6), answers and answers.target(r)) for r in ("a", "b")]
        fixed = {"digest": "w", "renderer_digest": "t", "end_id": 2, "stop_ids": [2], "pad_id": 0}
        return build_teacher_cache(
            model,
            Head.of(model),
            asked,
            **fixed,
            max_new_tokens=4,
            mode="hidden",
            top_k=5,
            cache_dir=tmp_path,
        )

    first = member(40)
    second = member(41, first)
    both = EnsembleCache([first, second])
    index = torch.arange(first.positions)
    logits = (first.logits(index) + second.logits(index)) / 2
    torch.testing.assert_close(both.logits(index), logits)
    ids, values = both.top(index, 3)
    torch.testing.assert_close(values, logits.topk(3, dim=1).values)
    torch.testing.assert_close(both.at(index, ids), values)
    assert both.target("a") == first.target("a") and len(both.paths) == 2
    assert both.forwards == first.forwards + second.forwards


def test_companions_are_placed_too(tmp_path: Path) -> None:
    pair = replace(ROWS[0], companions=(replace(ROWS[0], target=(60, 2), response="refusal"),))
    reference = build(tiny("llama"), tmp_path, rows=[pair, *pair.companions])
    rows = flatten([reference.place(pair)])
    assert all(r.reference_start >= 0 for r in rows) and rows[0].pair_id == rows[1].pair_id == 0
