"""Beginnings that are read once: which prompts share one, and that sharing changes nothing that is computed."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from pathlib import Path

import pytest
import torch
import transformers as tf

from harmonize.data.batch import Row, collate
from harmonize.models import lower_right
from harmonize.models import prefix as prefix_module
from harmonize.models.body import answer_hidden
from harmonize.models.frozen import TeacherRequest
from harmonize.models.prefix import SharedPrefix, alike
from tests.models.test_teacher import build
from tests.models.tiny import COMMON, V, tiny


def told(prefix: int, count: int = 5, rest: int = 6) -> list[TeacherRequest]:
    draw = torch.Generator().manual_seed(prefix)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, V, (n,), generator=draw).tolist())

    first = ids(prefix)
    return [TeacherRequest(f"e{i}", "forget", (*first, *ids(rest - i % 3)), ids(3 + i)) for i in range(count)]


def test_groups_by_hand() -> None:
    a, b = tuple(range(10)), tuple(range(50, 60))
    prompts = [(*a, 1), (*b, 1), (*a, 2, 3), (7, 7), (*b, 4)]
    assert alike(prompts, least=8) == [(10, [0, 2]), (10, [1, 4]), (0, [3])]
    assert alike(prompts, least=11) == [(0, [0, 1, 2, 3, 4])]


def test_a_token_of_each_prompt_stays_to_predict_from() -> None:
    prompt = tuple(range(40))
    assert alike([prompt, prompt]) == [(39, [0, 1])]
    assert alike([prompt, prompt[:36]]) == [(35, [0, 1])]


def test_no_prompts() -> None:
    assert alike([]) == []


def test_every_prompt_once_and_every_group_shares_what_it_says() -> None:
    draw = random.Random(0)
    for _ in range(50):
        prompts = [tuple(draw.choices((1, 2), k=draw.randint(1, 9))) for _ in range(draw.randint(1, 12))]
        groups = alike(prompts, least=2)
        assert sorted(i for _, members in groups for i in members) == list(range(len(prompts)))
        for shared, members in groups:
            assert len({prompts[i][:shared] for i in members}) <= 1
            assert all(shared < len(prompts[i]) for i in members)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "phi", "gemma2", "mistral"])
def test_the_same_states_with_and_without_sharing(name: str, tmp_path: Path) -> None:
    model, asked = tiny(name), told(40)
    shared = build(model, tmp_path / "a", asked=asked)
    plain = build(model, tmp_path / "b", asked=asked, share_prefix=False)
    index = torch.arange(plain.positions)
    torch.testing.assert_close(shared.logits(index), plain.logits(index), rtol=0, atol=2e-2)
    assert [shared.target(r.example_id) for r in asked] == [plain.target(r.example_id) for r in asked]


def test_a_sliding_window_is_not_shared() -> None:
    assert SharedPrefix().keys_of(tiny("mistral"), range(3, 43)) is None


def test_what_comes_after_a_beginning_is_not_kept() -> None:
    model, prefix = tiny("llama").eval(), SharedPrefix()
    ids = tuple(range(3, 43))
    kept = prefix.keys_of(model, ids)
    for rows in ([[5], [6]], [[7], [8], [9]]):
        whole = torch.tensor([[*ids, *row] for row in rows])
        found = model(input_ids=torch.tensor(rows), past_key_values=kept, use_cache=True).logits
        torch.testing.assert_close(found, model(input_ids=whole).logits[:, -1:], rtol=1e-4, atol=1e-5)
        assert kept.get_seq_length() == 40
    assert prefix.keys_of(model, ids) is kept


def by_definition(query, key, value, causal, scaling):
    """`lower_right.with_sums` in plain words."""
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[2:]).triu(1).bool(), float("-inf"))
    return scores.softmax(-1) @ value, scores.logsumexp(-1, keepdim=True)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "phi", "granite", "cohere"])
def test_attention_without_a_mask_gives_the_same_states(
    name: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lower_right, "merges", lambda *_: apart)
    monkeypatch.setattr(lower_right, "with_sums", by_definition)
    model = tiny(name).eval()
    ids = tuple(range(3, 13))
    rows = collate([Row(f"e{i}", "forget", "", (5, 6 + i, 7)[: 3 - i % 2], (8, 9, 2)) for i in range(4)], 0)
    with torch.no_grad():
        expected = answer_hidden(model, rows, past=SharedPrefix().keys_of(model, ids))
        monkeypatch.setattr(prefix_module, "worthwhile", lambda *_: True)
        past = SharedPrefix().keys_of(model, ids)
        assert past.maskless
        found = answer_hidden(model, rows, past=past)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_attends_by_itself_keeps_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny("llama").eval(), tuple(range(3, 13))
    expected = SharedPrefix().keys_of(model, ids)
    monkeypatch.setattr(prefix_module, "worthwhile", lambda *_: True)
    own = next(m for m in model.modules() if type(m).__name__ == "LlamaAttention")
    own.config = copy.copy(own.config)  # no longer told by the model's
    found = SharedPrefix().keys_of(model, ids)
    assert not found.maskless
    for a, b in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close(a.keys, b.keys)


OWN_WAYS = {
    # keys are made of what the cache holds
    "latent": lambda: tf.DeepseekV3ForCausalLM(
        tf.DeepseekV3Config(
            **{**COMMON, "num_key_value_heads": 4},
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
            first_k_dense_replace=2,
        )
    ),
    "counts on its mask": lambda: tf.FalconForCausalLM(
        tf.FalconConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True)
    ),
    "a mask of its own": lambda: tf.DogeForCausalLM(tf.DogeConfig(**COMMON)),
}


@pytest.mark.parametrize("name", OWN_WAYS)
def test_models_that_attend_in_their_own_way_keep_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, ids = OWN_WAYS[name]().eval(), tuple(range(3, 13))
    rows = collate([Row(f"e{i}", "forget", "", (5, 6 + i), (8, 9, 2)) for i in range(3)], 0)
    with torch.no_grad():
        expected = answer_hidden(model, rows, past=SharedPrefix().keys_of(model, ids))
        monkeypatch.setattr(prefix_module, "worthwhile", lambda *_: True)
        past = SharedPrefix().keys_of(model, ids)
        assert not past.maskless
        torch.testing.assert_close(answer_hidden(model, rows, past=past), expected)


def test_nothing_of_a_model_is_held_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_module, "worthwhile", lambda *_: True)
    model = tiny("llama").eval()
    past = SharedPrefix().keys_of(model, range(3, 13))
    batch = collate([Row("e", "forget", "", (5, 6), (8, 2))], 0)
    with torch.no_grad():
        answer_hidden(model, batch, past=past)
    held = [weakref.ref(model), weakref.ref(past.layers[0])]
    del model, past
    gc.collect()
    assert [ref() for ref in held] == [None, None]
