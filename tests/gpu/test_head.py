"""The head seam on a GPU: its sparse and chunked paths against dense autograd, in both precisions."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harmonize.models import products
from harmonize.models.cache import HiddenCache
from harmonize.models.head import Head
from harmonize.objectives.inputs import call
from harmonize.objectives.outputs import Outputs
from harmonize.testing.fakes import GivenReference, GivenTeacher, batch_of, moments_of
from tests.objectives.table import TABLE

V, H, A, K = 6007, 64, 40, 7
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["fp32", "bf16"])


def near(a: Tensor, b: Tensor, limit: float) -> None:
    """Relative difference of whole tensors."""
    a, b = a.detach().float(), b.detach().float()
    gap = (a - b).norm() / b.norm().clamp_min(1e-12)
    assert float(gap) <= limit, float(gap)


def head_of(device, dtype, **more) -> tuple[Tensor, Head]:
    torch.manual_seed(0)
    weight = (torch.randn(V, H, device=device) * 0.3).to(dtype)
    if more.pop("bias", False):
        more["bias"] = torch.randn(V, device=device).to(dtype)
    hidden = torch.randn(A, H, device=device).to(dtype).requires_grad_()
    return hidden, Head(weight, **more)


@DTYPES
@pytest.mark.parametrize(
    "more",
    [{}, {"softcap": 5.0}, {"scale": 0.25}, {"bias": True}, {"n_vocab": 6000}],
    ids=["plain", "soft-cap", "scale", "bias", "padded"],
)
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_selection_equals_dense_autograd(gpu, monkeypatch, dtype, more, trained) -> None:
    monkeypatch.setattr(products, "CHUNK_BYTES", 4 * V * 16)
    hidden, head = head_of(gpu, dtype, **more)
    head.weight.requires_grad_(trained)
    ids = torch.randint(0, 6000, (A, K), device=gpu).sort(1).values
    wanted = [hidden, *([head.weight] if trained else [])]
    found = []
    for dense in (False, True):
        top, values, at = head.select(hidden, ids, K, dense=dense)
        assert values.dtype == at.dtype == torch.float32
        found.append((values, at, *torch.autograd.grad(values.square().mean() + at.sin().mean(), wanted)))
        assert int(top.max()) < head.n_vocab
    for sparse, dense in zip(*found, strict=True):
        near(sparse, dense, TOLERANCE[dtype])


def test_both_ways_of_the_weights_gradient_agree(gpu, monkeypatch) -> None:
    torch.manual_seed(4)
    weight = torch.randn(900, 16, device=gpu, dtype=torch.bfloat16)
    hidden = torch.randn(30, 16, device=gpu, dtype=torch.bfloat16)
    ids = torch.randint(0, 900, (30, 8), device=gpu)
    ids[:, 1] = ids[:, 0]  # met twice: both count
    grad = torch.randn(30, 8, device=gpu)
    dense = torch.zeros(30, 900, device=gpu).scatter_add_(1, ids, grad)
    expected = dense.t() @ hidden.float()
    monkeypatch.setattr(products, "_by_product", lambda *_: False)
    found = [products._weight_gradient(grad, hidden, weight, ids)]
    for size in (products.CHUNK_BYTES, 7 * 900) if gpu.type == "cuda" else (products.CHUNK_BYTES,):
        monkeypatch.setattr(products, "CHUNK_BYTES", size)
        found.append(products._weight_gradient_by_product(grad, hidden, weight, ids))
    for gradient in found:
        assert gradient.dtype == torch.bfloat16
        assert (gradient.float() - expected).norm() < 6e-3 * expected.norm()


@DTYPES
def test_values_are_not_rounded_to_bf16(gpu, dtype) -> None:
    hidden, head = head_of(gpu, dtype)
    exact = hidden.detach().double() @ head.weight.detach().double().t()
    with torch.autocast(gpu.type, dtype=torch.bfloat16):
        logits = head.logits(hidden)
        top, values, _ = head.select(hidden, None, K, dense=False)
    limit = 2e-6 * float(exact.detach().abs().max()) * H**0.5
    assert float((logits - exact).detach().abs().max()) <= limit
    assert float((values - exact.gather(1, top)).detach().abs().max()) <= limit


@DTYPES
def test_log_probabilities_in_chunks(gpu, monkeypatch, dtype) -> None:
    hidden, head = head_of(gpu, dtype)
    head.weight.requires_grad_()
    labels = torch.randint(0, V, (A,), device=gpu)
    whole = head.log_probs(hidden, labels)
    expected = torch.autograd.grad(whole.mean(), [hidden, head.weight])
    monkeypatch.setattr(products, "CHUNK_BYTES", 4 * V * 16)
    monkeypatch.setattr("harmonize.models.head.rows_per_chunk", lambda v: 16)
    parts = head.log_probs(hidden, labels)
    near(parts, whole, 1e-6)
    for a, b in zip(torch.autograd.grad(parts.mean(), [hidden, head.weight]), expected, strict=True):
        near(a, b, TOLERANCE[dtype])


def test_deterministic_gradient_of_a_trained_head(gpu) -> None:
    hidden, head = head_of(gpu, torch.float32)
    head.weight.requires_grad_()
    ids = torch.randint(0, 50, (A, K), device=gpu)  # many positions share an id
    gradients = []
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for _ in range(3):
            loss = head.select(hidden, ids, K, dense=False)[2].square().sum()
            gradients.append(torch.autograd.grad(loss, head.weight)[0])
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[1], gradients[2])
    loss = head.select(hidden, ids, K, dense=False)[2].square().sum()
    near(torch.autograd.grad(loss, head.weight)[0], gradients[0], 1e-5)


def test_a_stored_list_has_the_same_order_as_on_the_processor(gpu) -> None:
    hidden, head = head_of(gpu, torch.float32)
    coarse = head.weight.round()  # many ties
    ids, values = Head(coarse).canonical_top(hidden.detach().round(), K)
    on_cpu = Head(coarse.cpu()).canonical_top(hidden.detach().round().cpu(), K)
    assert torch.equal(ids.cpu(), on_cpu[0]) and torch.equal(values.cpu(), on_cpu[1])


class _Reference(GivenReference):
    """Hidden states apart from logits."""

    def __init__(self, logits: Tensor, labels: Tensor, hidden: Tensor) -> None:
        super().__init__(logits, labels)
        self.states = hidden

    def hidden(self, index: Tensor) -> Tensor:
        return self.states[index]

    def at_layer(self, index: Tensor, layer: int | None) -> Tensor:
        return 2 * self.states[index].float()

    def moments(self) -> tuple[Tensor, Tensor]:
        return tuple(m.to(self.states.device) for m in moments_of(self.states.shape[1]))


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_objective_in_bf16(gpu, name) -> None:
    """Value and gradients from bf16 states and a bf16 head, against the same numbers in fp32 and dense."""
    entry = TABLE[name]
    batch = batch_of((5, 3, 4, 6)).to(gpu)
    count = int(batch.labels.numel())
    torch.manual_seed(1)
    weight = (torch.randn(V, H, device=gpu) * 0.2).bfloat16()
    states, teacher, untouched = (torch.randn(count, H, device=gpu).bfloat16() for _ in range(3))

    def run(dtype: torch.dtype, dense: bool) -> list[Tensor]:
        head = Head(weight.clone().to(dtype).requires_grad_())
        hidden = states.clone().to(dtype).requires_grad_()
        labels = torch.zeros(count, dtype=torch.long, device=gpu)
        labels[batch.cache_index] = batch.labels
        outputs = Outputs(
            batch,
            hidden,
            head,
            GivenTeacher(Head(weight).logits(teacher)),
            _Reference(Head(weight).logits(untouched), labels, untouched),
            layers={None: hidden},
            dense=dense,
        )
        sums, counts = call(entry.function, outputs, entry.settings)
        loss = sums.sum() / counts.sum().clamp_min(1)
        gradients = torch.autograd.grad(loss, [hidden, head.weight], allow_unused=True)
        return [loss.reshape(1), *(g for g in gradients if g is not None)]

    exact = run(torch.float32, dense=True)
    with torch.autocast(gpu.type, dtype=torch.bfloat16):
        coarse = run(torch.bfloat16, dense=False)
    assert len(exact) == len(coarse)
    for a, b in zip(coarse, exact, strict=True):
        assert bool(a.isfinite().all())
        if float(b.detach().norm()) > 1e-12:
            near(a, b, 3e-2)


def test_cached_values_are_those_of_the_teacher(gpu) -> None:
    hidden, head = head_of(gpu, torch.bfloat16)
    frozen = replace(head, weight=head.weight.detach())
    states = hidden.detach().half()
    ids, values = frozen.canonical_top(states, 64)
    cache = HiddenCache(frozen, {"e": tuple(range(A))}, states, ids.int(), values)
    index = torch.arange(A, device=gpu)
    exact = hidden.detach().double() @ head.weight.double().t()
    wanted = torch.randint(0, V, (A, K), device=gpu)
    near(cache.at(index, wanted), exact.gather(1, wanted).float(), 1e-5)
    top, top_values = cache.top(index, K)
    near(top_values, exact.gather(1, top).float(), 1e-5)
