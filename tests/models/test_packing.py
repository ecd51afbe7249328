"""Rows without padding give what padded ones give, and no row sees another."""

from types import SimpleNamespace

import pytest
import torch

from harmonize.data.batch import Batch, Row, collate
from harmonize.errors import ModelError
from harmonize.models import packing
from harmonize.models.body import answer_hidden, answer_states
from harmonize.models.prefix import SharedPrefix
from tests.models.tiny import V, some_rows, tiny

READS = ("llama", "mistral", "qwen2", "qwen3", "cohere", "granite", "gpt_neox", "phi")


def both(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    packing.register()
    padded, packed = tiny(name), tiny(name)
    packed.load_state_dict(padded.state_dict())
    packed.set_attn_implementation(packing.VARLEN)
    return padded, packed


def batch() -> Batch:
    found = collate(some_rows(5), pad_id=0)
    assert found.columns is not None and found.columns.numel() < found.input_ids.numel()
    return found


@pytest.mark.parametrize("name", READS)
def test_states_and_gradients_are_those_of_a_padded_batch(name: str) -> None:
    padded, packed = both(name)
    rows, calls = batch(), []
    packed.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    expected, inner = answer_states(padded, rows, [0])
    found, also = answer_states(packed, rows, [0])
    assert calls == [(1, rows.columns.numel())]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(also[0], inner[0], rtol=1e-4, atol=1e-5)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    (expected * direction).sum().backward()
    (found * direction).sum().backward()
    for (key, a), (_, b) in zip(padded.named_parameters(), packed.named_parameters(), strict=True):
        if a.grad is not None:
            assert float((b.grad - a.grad).norm()) <= 1e-4 * float(a.grad.norm()), key


def test_no_row_sees_another() -> None:
    _, packed = both("llama")
    rows = batch()
    before = answer_hidden(packed, rows)
    changed = collate(
        [
            r
            if i
            else Row(r.example_id, r.role, r.subject, tuple(t % (V - 3) + 3 for t in r.prompt), r.target)
            for i, r in enumerate(some_rows(5))
        ],
        pad_id=0,
    )
    after = answer_hidden(packed, changed)
    first = some_rows(5)[0].example_id
    same = torch.tensor([rows.example_id[i] != first for i in rows.row])
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before[~same], after[~same])


def test_attention_by_rows_is_the_softmax_of_the_definition() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 7, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    for window in (None, 2):
        found = packing.by_rows(query, key, value, [0, 4, 5, 7], 0.3, window=window)
        for i in range(7):
            start = 0 if i < 4 else 4 if i < 5 else 5
            seen = range(max(start, i - window + 1) if window else start, i + 1)
            for head in range(4):
                scores = torch.stack([0.3 * query[0, head, i] @ key[0, head // 2, j] for j in seen])
                mean = sum(p * value[0, head // 2, j] for p, j in zip(scores.softmax(0), seen, strict=True))
                torch.testing.assert_close(found[0, i, head], mean)


def test_even_rows_left_padding_prescribed_widths_and_prefixes_are_read_as_ever() -> None:
    _, packed = both("llama")
    even = [Row(f"e{i}", "forget", "", (5, 6 + i), (7, 8)) for i in range(3)]
    assert not packing.packable(packed, collate(even, 0))
    assert not packing.packable(packed, collate(some_rows(5), 0, side="left"))
    assert not packing.packable(packed, collate(some_rows(5), 0, pad_to=8))
    assert not packing.packable(tiny("llama"), batch())
    past = SharedPrefix().keys_of(packed, [5, 6, 7])
    whole = [Row(r.example_id, r.role, "", (5, 6, 7, *r.prompt), r.target) for r in even]
    with torch.no_grad():
        found = answer_hidden(packed, collate(even, 0), past=past)
        torch.testing.assert_close(found, answer_hidden(packed, collate(whole, 0)), rtol=1e-4, atol=1e-5)


def test_generation_is_that_of_sdpa() -> None:
    padded, packed = both("llama")
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = (ids > 0).long()
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(padded.generate(ids, **options), packed.generate(ids, **options))


def test_models_whose_attention_cannot_know_where_rows_begin_are_refused() -> None:
    with pytest.raises(ModelError, match=r"softcaps .* model\.attention=sdpa"):
        answer_hidden(both("gemma2")[1], batch())
    blind = torch.nn.Linear(1, 1)
    query = torch.randn(1, 2, 6, 4)
    with pytest.raises(ModelError, match="does not tell its attention where rows begin"):
        packing.attention(blind, query, query, query, torch.zeros(1, 1, 1, 1))

    class Block(torch.nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return states

    with pytest.raises(ModelError, match="does not tell its attention where rows begin"):
        packing.check(blind, Block())


@pytest.mark.parametrize(
    "known", [("is_causal",), ("scale", "window_size"), ("scale", "window_size", "enable_gqa")]
)
def test_torchs_kernel_is_called_in_the_words_of_its_version(known: tuple[str, ...], monkeypatch) -> None:
    """The kernel itself runs on CUDA alone (tests/gpu); this one stands for it, with the same meaning."""

    def kernel(q, k, v, cu_q, cu_k, max_q, max_k, **options):
        assert set(options) <= set(known) and (max_q, max_k) == (4, 4) and torch.equal(cu_q, cu_k)
        assert options.get("is_causal") or options["window_size"] == (-1, 0)
        assert q.shape[1] == k.shape[1] or options["enable_gqa"]
        whole = [x.transpose(0, 1).unsqueeze(0) for x in (q, k, v)]
        return packing.by_rows(*whole, cu_q.tolist(), options.get("scale", q.shape[-1] ** -0.5))[0]

    import torch.nn.attention.varlen as module

    monkeypatch.setattr(module, "varlen_attn", kernel)
    monkeypatch.setattr(packing, "_parameters", lambda: frozenset(known))
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 7, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    bounds = torch.tensor([0, 4, 5, 7], dtype=torch.int32)
    found = packing._flash(query, key, value, bounds, 4, 0.3, None)
    torch.testing.assert_close(found, packing.by_rows(query, key, value, bounds.tolist(), 0.3))


def test_transformers_flash_attention_gets_the_same_bounds() -> None:
    rows = batch()
    model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="flash_attention_2"))
    assert packing.packable(model, rows)
    inputs = packing.packed_inputs(model, rows)
    lengths = sorted((r.length for r in some_rows(5)), reverse=True)
    assert "attention_mask" not in inputs
    assert inputs["cu_seq_lens_q"].tolist() == [sum(lengths[:i]) for i in range(6)]
    assert inputs["cu_seq_lens_q"].dtype == torch.int32 and inputs["max_length_k"] == lengths[0]
    assert inputs["position_ids"][0].tolist() == [i for n in lengths for i in range(n)]


def test_a_kernel_that_is_not_installed_is_said_with_what_to_type() -> None:
    from harmonize.models.load import _explain

    raised = ImportError("FlashAttention2 has been toggled on, but the package flash_attn is not installed.")
    assert "model.attention=varlen" in _explain("x", "model", raised)
