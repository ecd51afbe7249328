"""Batches: positions and masks come from lengths, and padding changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from harmonize.data.batch import RESPONSES, VIEWS, Batch, Row, collate
from harmonize.data.example import ROLES

VOCABULARY = 23
ids = st.lists(st.integers(0, VOCABULARY - 1), max_size=5).map(tuple)
filled = ids.filter(bool)
rows_strategy = st.lists(st.tuples(filled, ids, filled), min_size=1, max_size=5).map(
    lambda parts: [
        Row(f"e{i}", "forget", "s", prompt=p, prefill=f, target=t) for i, (p, f, t) in enumerate(parts)
    ]
)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def answer_logits(model: LlamaForCausalLM, batch: Batch) -> dict[tuple[str, int], torch.Tensor]:
    """Logits at every answer position by (example id, offset)."""
    with torch.no_grad():
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        ).logits
    flat = logits.reshape(-1, logits.shape[-1])[batch.positions]
    return {
        (batch.example_id[row], offset): value
        for row, offset, value in zip(batch.row.tolist(), batch.offset.tolist(), flat, strict=True)
    }


def agree(a: dict[tuple[str, int], torch.Tensor], b: dict[tuple[str, int], torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(rows=rows_strategy, pad_id=st.integers(0, VOCABULARY - 1), pad_to=st.sampled_from([1, 8]))
def test_left_right_and_no_padding_agree(
    model: LlamaForCausalLM, rows: list[Row], pad_id: int, pad_to: int
) -> None:
    alone: dict[tuple[str, int], torch.Tensor] = {}
    for row in rows:
        alone.update(answer_logits(model, collate([row], pad_id)))
    for side in ("right", "left"):
        agree(answer_logits(model, collate(rows, pad_id, side=side, pad_to=pad_to)), alone)


@settings(max_examples=50, deadline=None)
@given(rows=rows_strategy, side=st.sampled_from(["left", "right"]))
def test_a_position_is_the_one_before_its_label(rows: list[Row], side: str) -> None:
    batch = collate(rows, pad_id=0, side=side)
    flat = batch.input_ids.reshape(-1)
    assert torch.equal(flat[batch.positions + 1], batch.labels)
    assert batch.attention_mask.reshape(-1)[batch.positions].all()
    by_id = {r.example_id: r for r in rows}
    for i, name in enumerate(batch.example_id):
        row = by_id[name]
        own = batch.row == i
        assert tuple(batch.labels[own].tolist()) == row.target
        assert batch.offset[own].tolist() == list(range(len(row.target)))
        width = batch.attention_mask[i].bool()
        assert tuple(batch.input_ids[i][width].tolist()) == (*row.prompt, *row.prefill, *row.target)
        assert batch.position_ids[i][width].tolist() == list(range(row.length))
    lengths = batch.attention_mask.sum(1).tolist()
    assert lengths == sorted(lengths, reverse=True)


def test_the_padding_id_is_irrelevant_even_if_it_is_a_real_token(model: LlamaForCausalLM) -> None:
    rows = [Row("a", "forget", "s", (1, 5, 5), (5, 2)), Row("b", "retain", "s", (1,), (5, 5, 5, 2, 2, 3))]
    agree(
        answer_logits(model, collate(rows, pad_id=5, side="left")),
        answer_logits(model, collate(rows, pad_id=9, side="left")),
    )
    assert torch.equal(collate(rows, pad_id=5).attention_mask, collate(rows, pad_id=9).attention_mask)


def test_a_prefill_carries_no_loss(model: LlamaForCausalLM) -> None:
    batch = collate([Row("a", "forget", "s", (1, 2), (7, 8), prefill=(3, 4, 5))], 0)
    assert batch.positions.tolist() == [4, 5] and batch.labels.tolist() == [7, 8]


def test_columns_follow_their_rows() -> None:
    rows = [
        Row("a", "forget", "s1", (1,), (2,), cache_start=-1, weight=0.5),
        Row(
            "b",
            "neighbor",
            "s2",
            (1, 1),
            (2, 2),
            view="prefix",
            response="teacher",
            cache_start=10,
            pair_id=3,
        ),
    ]
    batch = collate(rows, 0)
    assert batch.example_id == ["b", "a"] and batch.subject_id == ["s2", "s1"]
    assert [ROLES[i] for i in batch.role_id.tolist()] == ["neighbor", "forget"]
    assert [VIEWS[i] for i in batch.view_id.tolist()] == ["prefix", "plain"]
    assert [RESPONSES[i] for i in batch.response_id.tolist()] == ["teacher", "reference"]
    assert batch.cache_index.tolist() == [10, 11, -1]
    assert batch.weight.tolist() == [1.0, 0.5] and batch.pair_id.tolist() == [3, -1]
    assert batch.n_rows == 2 and batch.to("cpu").request_id == ["request-0"] * 2


def test_width_is_rounded_up() -> None:
    assert collate([Row("a", "forget", "s", (1,), (2, 3))], 0, pad_to=8).input_ids.shape == (1, 8)


def test_rows_that_cannot_be_trained_on_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        collate([], 0)
    with pytest.raises(ValueError, match="empty prompt"):
        collate([Row("a", "forget", "s", (), (2,))], 0)


def test_what_was_sent_can_still_be_read_here() -> None:
    batch = collate([Row("e", "forget", "s", (1, 2), (3,))], 0)
    there = batch.to("cpu")
    assert batch.here is None and there.here is batch and there.to("cpu").here is batch
    assert torch.equal(there.cache_index, batch.cache_index)
