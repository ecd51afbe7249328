"""When memory runs out: the batch is halved, with a notice, and nothing else changes, wherever there is a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harmonize.errors import ModelError
from harmonize.evaluation import likelihood
from harmonize.evaluation.attacks.gcg import GCG
from harmonize.evaluation.attacks.relearn import Relearn, RelearnCurve, descend
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.one_pass import shared_rows, token_rows
from harmonize.evaluation.parts.gradient_norm import gradient_norms
from harmonize.evaluation.questions import ask, used_facts
from harmonize.evaluation.surface import ModelSurface
from harmonize.models.batching import batched, out_of_memory
from harmonize.models.embedding import mean_hidden
from harmonize.models.generate import greedy, sampled
from tests.evaluation import worlds
from tests.evaluation.knowers import shipped

FITS = 3
GPU = torch.OutOfMemoryError("CUDA out of memory.")
Pairs = list[tuple[tuple[int, ...], tuple[int, ...]]]


@pytest.fixture(scope="module")
def data() -> Any:
    return worlds.corpus()


@pytest.fixture(scope="module")
def loaded(data: Any) -> SimpleNamespace:
    made = worlds.llama(data)
    made.model.double()
    return made


@pytest.fixture(scope="module")
def pairs(data: Any, loaded: SimpleNamespace) -> Pairs:
    r = loaded.renderer
    return [
        (r.prompt_ids(e.question), r.answer_ids(e.answer)[: 2 + i % 4])
        for i, e in enumerate(data.examples[:20])
    ]


@contextmanager
def cramped(model: torch.nn.Module, rows: int = FITS, error: BaseException = GPU) -> Iterator[list[int]]:
    """Inside, a pass of more rows fails; yields the sizes that were tried."""
    kind: Any = type(model)
    plain, sizes = kind.forward, []

    @functools.wraps(plain)
    def forward(itself: Any, *args: Any, **kwargs: Any) -> Any:
        found = kwargs.get("input_ids")
        sizes.append(len(found if found is not None else kwargs["inputs_embeds"]))
        if sizes[-1] > rows:
            raise error
        return plain(itself, *args, **kwargs)

    kind.forward = forward
    try:
        yield sizes
    finally:
        kind.forward = plain


def numbers(value: Any) -> list[float]:
    if isinstance(value, int | float):
        return [float(value)]
    if hasattr(value, "log_probs"):
        return [float(x) for x in (*value.log_probs, *value.ranks, *value.means, *value.variances)]
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [x for part in value for x in numbers(part)]


def relearned(loaded: SimpleNamespace, pairs: Pairs) -> list[float]:
    """The weights after a step of plain gradient descent."""
    parameters = list(loaded.model.parameters())
    before = [p.detach().clone() for p in parameters]
    descend(loaded.model, torch.optim.SGD(parameters, lr=0.1), pairs, loaded.renderer.pad_id)
    after = [float(p.detach().sum()) for p in parameters]
    with torch.no_grad():
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
            p.grad = None
    return after


PATHS: dict[str, Callable[[SimpleNamespace, Pairs, Any], Any]] = {
    "token_rows": lambda m, p, d: token_rows(m.model, p, m.renderer.pad_id, 16),
    "shared_rows": lambda m, p, d: shared_rows(
        m.model, [(a, [b, b[:1]]) for a, b in p], m.renderer.pad_id, 16
    ),
    "log_probs": lambda m, p, d: ModelSurface(m).log_probs(p, 16),
    "greedy": lambda m, p, d: greedy(m.model, [a for a, _ in p], (2,), m.renderer.pad_id, 4, 16),
    "sampled": lambda m, p, d: sampled(
        m.model,
        [a for a, _ in p],
        [str(i) for i in range(len(p))],
        (2,),
        m.renderer.pad_id,
        4,
        1,
        batch_size=16,
    ),
    "mean_hidden": lambda m, p, d: mean_hidden(m, [a for a, _ in p], batch_size=16),
    "gcg": lambda m, p, d: [
        list(q.prompt)
        for q in GCG(steps=2, candidates=9, length=3).search(
            ModelSurface(m), d, ask(used_facts(d, "forget"), "test", m.renderer)[:2], 64
        )
    ],
    "relearn": lambda m, p, d: relearned(m, p),
}


@pytest.mark.parametrize("path", PATHS)
def test_a_batch_that_does_not_fit_is_halved_and_nothing_else_changes(
    path: str, data: Any, loaded: SimpleNamespace, pairs: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = numbers(PATHS[path](loaded, pairs, data))
    assert "Memory ran out" not in capsys.readouterr().err
    with cramped(loaded.model) as sizes:
        found = numbers(PATHS[path](loaded, pairs, data))
    assert found == pytest.approx(expected, abs=1e-5 if path == "mean_hidden" else 1e-9)
    assert max(sizes) > FITS and 1 <= min(sizes) <= FITS
    assert "rows at once; going on with" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "error",
    [GPU, RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()],
    ids=["gpu", "cpu", "python"],
)
def test_once_halved_it_stays_halved(
    loaded: SimpleNamespace, pairs: Pairs, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    with cramped(loaded.model, 4, error) as sizes:
        token_rows(loaded.model, pairs, loaded.renderer.pad_id, 16)
    assert sizes == [16, 8, 4, 4, 4, 4, 4]
    assert "Memory ran out on 16 rows at once; going on with 8." in " ".join(capsys.readouterr().err.split())


def test_gradients_of_a_pass_that_failed_half_way_are_not_added(
    loaded: SimpleNamespace, pairs: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = relearned(loaded, pairs)
    failed = []
    plain = torch.autograd.grad

    def grad(loss: Any, *args: Any, **kwargs: Any) -> Any:
        found = plain(loss, *args, **kwargs)
        if not failed:
            failed.append(1)
            raise GPU  # when all gradients of the pass are made
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", grad)
        assert relearned(loaded, pairs) == pytest.approx(expected, abs=1e-9)
    assert failed and "Memory ran out on 16 rows" in " ".join(capsys.readouterr().err.split())


def test_a_whole_evaluation_with_attacks_is_the_same(data: Any, loaded: SimpleNamespace) -> None:
    attacks = shipped(
        "cross_format", "sampling", "gcg", "relearn",
        cross_format__max_facts=2, sampling__draws=2, sampling__ks=[1], gcg__steps=1, gcg__candidates=6,
        gcg__max_facts=1, relearn__steps=[1], relearn__facts=2,
    )  # fmt: skip
    suite = worlds.suite(
        batch_size=16, bootstrap=2, max_examples=3, max_new_tokens=4, leak_draws=2, relearn=True, relearn_facts=1,
        relearn_steps=1,
    )  # fmt: skip

    def told() -> tuple[list[str], dict[str, Any]]:
        axes = ("asr", "leak", "relearn")
        report = evaluate(loaded, data, suite, prefill=worlds.prefill(), axes=axes, attacks=attacks)
        keys = ("example_id", "attack", "variant", "draw", "asked", "output", "verdict")
        return [repr([s.get(k) for k in keys]) for s in report.samples], report.values()

    samples, values = told()
    with cramped(loaded.model, 2):
        again, others = told()
    assert again == samples and others == pytest.approx(values, abs=1e-6)


def test_what_does_not_fit_at_all_is_told(data: Any, loaded: SimpleNamespace, pairs: Pairs) -> None:
    pad = loaded.renderer.pad_id
    questions = ask(used_facts(data, "forget"), "test", loaded.renderer)[:1]
    curve = RelearnCurve(steps=(1,), facts=2)
    with cramped(loaded.model, 0):
        for run in (
            lambda: token_rows(loaded.model, pairs, pad, 4),
            lambda: gradient_norms(loaded.model, pairs, pad),
            lambda: GCG(steps=1).search(ModelSurface(loaded), data, questions, 4),
            lambda: Relearn(steps=1).changed(loaded.model, data, loaded.renderer).__enter__(),
        ):
            with pytest.raises(ModelError, match="Memory runs out on a single row"):
                run()
        before = [p.clone() for p in loaded.model.parameters()]
        with (
            pytest.raises(ModelError, match="single row"),
            curve.stages(loaded.model, data, loaded.renderer, questions) as stages,
        ):
            next(stages)
    assert all(torch.equal(p, b) for p, b in zip(loaded.model.parameters(), before, strict=True))
    assert all(p.grad is None for p in loaded.model.parameters())


def test_other_errors_are_not_taken_for_it(loaded: SimpleNamespace, pairs: Pairs) -> None:
    with (
        cramped(loaded.model, 0, RuntimeError("shapes do not match")),
        pytest.raises(RuntimeError, match="shapes"),
    ):
        token_rows(loaded.model, pairs, loaded.renderer.pad_id, 4)
    assert not out_of_memory(ValueError("out of memory"))


def test_logits_of_a_batch_have_a_limit_of_their_own(
    loaded: SimpleNamespace, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = token_rows(loaded.model, pairs, loaded.renderer.pad_id, 16)
    monkeypatch.setattr(likelihood, "_MAX_LOGITS", 2 * 5 * len(loaded.renderer.tokenizer))
    with cramped(loaded.model, 64) as sizes:
        found = token_rows(loaded.model, pairs, loaded.renderer.pad_id, 16)
    assert 1 < max(sizes) <= 5  # two rows of five columns; more of shorter ones
    assert numbers(found) == pytest.approx(numbers(expected), abs=1e-9)


def test_batches_fit() -> None:
    found = list(batched([1, 2, 3, 4, 5], 4, sum, fit=lambda part: 2 if part[0] < 3 else 0))
    assert found == [([1, 2], 3), ([3], 3), ([4], 4), ([5], 5)]
