import weakref

import pytest
import torch
import torch.nn.functional as F

from harmonize.data.batch import Row, collate
from harmonize.errors import ModelError
from harmonize.models import products
from harmonize.models.body import answer_hidden, evaluating
from harmonize.models.head import Head
from tests.models.tiny import ARCHITECTURES, V, some_rows, tiny


def own_logits(model, row: Row) -> torch.Tensor:
    ids = torch.tensor([[*row.prompt, *row.prefill, *row.target]])
    first = len(row.prompt) + len(row.prefill) - 1
    return model(input_ids=ids).logits[0, first : first + len(row.target)].float()


@pytest.mark.parametrize("side", ["right", "left", "none"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_logits_at_answer_positions_are_the_models_own(name: str, side: str) -> None:
    model = tiny(name)
    rows = some_rows(1 if side == "none" else 5)
    batch = collate(
        rows, pad_id=0, side="right" if side == "none" else side, pad_to=1 if side == "none" else 8
    )
    head = Head.of(model)
    with torch.no_grad():
        logits = head.logits(answer_hidden(model, batch))
        for i, example in enumerate(batch.example_id):
            row = next(r for r in rows if r.example_id == example)
            expected = own_logits(model, row)
            torch.testing.assert_close(logits[batch.row == i], expected, rtol=1e-4, atol=1e-4)
    assert logits.dtype == torch.float32


def test_caps_scales_and_biases_are_read() -> None:
    assert Head.of(tiny("gemma2")).softcap == 3.0
    assert Head.of(tiny("cohere")).scale == 0.25
    assert Head.of(tiny("granite")).scale == 0.25
    assert Head.of(tiny("phi")).bias is not None


def test_an_unknown_head_is_refused() -> None:
    model = tiny("llama")
    inner = model.forward

    def capped(**arguments):
        out = inner(**arguments)
        out.logits = torch.tanh(out.logits / 30.0) * 30.0
        return out

    model.forward = capped
    with pytest.raises(ModelError, match="not supported"):
        Head.of(model)


def test_model_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="no output layer"):
        Head.of(tiny("llama").model)


def test_probe_leaves_no_trace() -> None:
    model = tiny("llama").train()
    model.model.layers[0].eval()
    Head.of(model)
    assert model.training and not model.model.layers[0].training
    assert not model.lm_head._forward_pre_hooks
    with evaluating(model):
        assert not any(m.training for m in model.modules())


HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.3, "bias": True},
    "capped": {"softcap": 2.0},
    "padded": {"n_vocab": 80},
}


def make_head(kind: str, frozen: bool = False, dtype: torch.dtype = torch.float32) -> Head:
    draw = torch.Generator().manual_seed(1)
    options = dict(HEADS[kind])
    weight = torch.randn(V, 16, generator=draw).to(dtype).requires_grad_(not frozen)
    bias = (
        torch.randn(V, generator=draw).to(dtype).requires_grad_(not frozen)
        if options.pop("bias", 0)
        else None
    )
    return Head(weight, bias, **options)


@pytest.mark.parametrize("chunk", [4 * V * 3, 1 << 28])
@pytest.mark.parametrize("kind", sorted(HEADS))
def test_sparse_selection_equals_dense_autograd(kind: str, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr("harmonize.models.head.rows_per_chunk", lambda v: max(1, chunk // (4 * v)))
    monkeypatch.setattr(products, "GATHER_BYTES", chunk)
    draw = torch.Generator().manual_seed(2)
    hidden = torch.randn(11, 16, generator=draw)
    ids = torch.randint(0, 80, (11, 5), generator=draw)
    results = []
    for dense in (True, False):
        head, h = make_head(kind), hidden.clone().requires_grad_()
        top, top_values, values = head.select(h, ids, 7, dense=dense)
        loss = (top_values.sin() * torch.arange(7)).sum() + (values**2 * torch.arange(5)).sum()
        loss.backward()
        at = head.at(hidden, ids, dense=dense)
        results.append(
            [
                top_values,
                values,
                at,
                h.grad,
                head.weight.grad,
                *([] if head.bias is None else [head.bias.grad]),
            ]
        )
        assert int(top.max()) < head.n_vocab
        torch.testing.assert_close(head.logits(hidden).gather(1, top), top_values)
    for dense_result, sparse_result in zip(*results, strict=True):
        torch.testing.assert_close(sparse_result, dense_result, rtol=1e-5, atol=1e-5)


def test_at_has_gradients_on_both_paths() -> None:
    hidden = torch.randn(6, 16)
    ids = torch.randint(0, V, (6, 4))
    gradients = []
    for dense in (True, False):
        head, h = make_head("capped"), hidden.clone().requires_grad_()
        head.at(h, ids, dense=dense).square().sum().backward()
        gradients.append((h.grad, head.weight.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


def test_a_frozen_weight_gets_and_computes_no_gradient(monkeypatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("computed a gradient nobody needs")

    monkeypatch.setattr(products, "_weight_gradient", never)
    head, h = make_head("bias", frozen=True), torch.randn(4, 16, requires_grad=True)
    _, top, _ = head.select(h, None, 3, dense=False)
    top.sum().backward()
    assert h.grad is not None and head.weight.grad is None


def test_half_precision_weights_give_fp32_logits_and_gradients() -> None:
    half, hidden = make_head("plain", dtype=torch.bfloat16), torch.randn(9, 16).bfloat16().requires_grad_()
    logits = half.logits(hidden)
    exact = hidden.detach().float() @ half.weight.detach().float().t()
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.detach(), exact, rtol=1e-6, atol=1e-6)
    logits.square().sum().backward()
    expected = 2 * exact @ half.weight.detach().float()
    torch.testing.assert_close(hidden.grad.float(), expected, rtol=3e-2, atol=0.5)
    ids = torch.randint(0, V, (9, 4))
    torch.testing.assert_close(half.at(hidden, ids, dense=False), exact.gather(1, ids), rtol=1e-5, atol=1e-5)


def test_autocast_does_not_reach_the_head() -> None:
    head, hidden = make_head("plain"), torch.randn(5, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head.logits(hidden)
        sparse = head.select(hidden, None, V, dense=False)[1]
    assert torch.equal(inside, head.logits(hidden))
    torch.testing.assert_close(sparse, inside.sort(descending=True).values)


def test_log_probs_in_chunks(monkeypatch) -> None:
    head, hidden = make_head("capped"), torch.randn(10, 16, requires_grad=True)
    labels = torch.randint(0, V, (10,))
    expected = F.log_softmax(head.logits(hidden), 1).gather(1, labels[:, None])[:, 0]
    whole = torch.autograd.grad(expected.sum(), [hidden, head.weight])
    monkeypatch.setattr("harmonize.models.head.rows_per_chunk", lambda _: 3)
    chunked = head.log_probs(hidden, labels)
    torch.testing.assert_close(chunked, expected)
    torch.testing.assert_close(torch.autograd.grad(chunked.sum(), [hidden, head.weight]), whole)


def test_one_chunk_of_logits_is_alive_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def watched(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        assert not any(ref() is not None for ref in made)
        out = products.product(hidden, weight)
        made.append(weakref.ref(out))
        return out

    monkeypatch.setattr("harmonize.models.head.rows_per_chunk", lambda _: 2)
    monkeypatch.setattr("harmonize.models.head.product", watched)
    head = Head(torch.randn(40, 8))
    head.select(torch.randn(7, 8, requires_grad=True), torch.randint(40, (7, 3)), 2, dense=False)
    assert len(made) == 4


def test_ties_are_ordered_by_id_across_the_border() -> None:
    weight = torch.zeros(8, 2)
    weight[[1, 3, 5, 7], 0] = 1.0
    weight[6, 0] = 2.0
    ids, values = Head(weight).canonical_top(torch.tensor([[1.0, 0.0]]), 3)
    assert ids.tolist() == [[6, 1, 3]]
    assert values.tolist() == [[2.0, 1.0, 1.0]]


def test_choice_of_path_follows_size() -> None:
    small, large = Head(torch.zeros(512, 1)), Head(torch.zeros(128_256, 1))
    assert small.dense(1000, 32)
    assert not large.dense(1000, 128)
    assert not large.dense(100_000, 1000)


def test_frozen_head_shares_or_copies() -> None:
    head = make_head("bias")
    assert head.frozen().weight.data_ptr() == head.weight.data_ptr()
    copy = head.frozen(clone=True)
    assert copy.weight.data_ptr() != head.weight.data_ptr() and not copy.weight.requires_grad


def test_data_parallel_wrapping_sees_every_gradient(tmp_path) -> None:
    model = tiny("qwen2").train()
    batch = collate(some_rows(), pad_id=0)
    head = Head.of(model)
    (-head.log_probs(answer_hidden(model, batch), batch.labels)).mean().backward()
    alone = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    wrapped = None
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        for _ in range(2):  # a parameter that the wrapper missed would make the second forward raise
            model.zero_grad(set_to_none=True)
            (-head.log_probs(answer_hidden(wrapped, batch), batch.labels)).mean().backward()
    finally:
        # the last to go must not be the wrapper: its end waits for threads that may wait for the interpreter's lock
        del wrapped
        torch.distributed.destroy_process_group()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, alone[name], rtol=1e-5, atol=1e-7)
