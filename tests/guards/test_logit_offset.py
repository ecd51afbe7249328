"""ULD's offset: by hand, against slow loops, and as a surface."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from harmonize.errors import ModelError
from harmonize.evaluation.attacks.relearn import Relearn
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.one_pass import shared_rows, token_rows
from harmonize.evaluation.surface import ModelSurface
from harmonize.guards.guard import FORBIDDEN
from harmonize.guards.logit_offset import LogitOffset, OffsetSurface, load_adapters, offset_logits
from harmonize.models.load import LoadedModel
from tests.evaluation import worlds
from tests.guards import toys

DATA = worlds.corpus()


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return toys.model(DATA)


def guarded(loaded: LoadedModel, **settings: Any) -> OffsetSurface:
    made = LogitOffset(**settings).around(toys.scene(loaded, DATA, assistant=toys.assistant(loaded)))
    assert isinstance(made, OffsetSurface)
    return made


def test_by_hand() -> None:
    base = torch.tensor([[math.log(8.0), math.log(4.0), math.log(1.0), math.log(1.0), math.log(2.0)]])
    theirs = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    # p = 8/16, 4/16, 1/16, 1/16, 2/16. Filter 0.4: rank int(0.4 * 5) = 2 asks for 4/16, the share 0.4 * 8/16 for
    # 3.2/16: the lower bound, 3.2/16, lets tokens 0 and 1 pass
    logits, passes = offset_logits(base, theirs, -0.5, 0.4)
    assert passes.tolist() == [[True, True, False, False, False]]
    expected = [math.log(8) - 0.5, math.log(4) - 1.0, 0.0, 0.0, math.log(2)]
    assert logits[0].tolist() == pytest.approx(expected)
    # filter 0.1: rank at least 1 asks for 8/16, the share for 0.8/16: all pass
    assert offset_logits(base, theirs, -0.5, 0.1)[1].all()
    # 0.6: rank 3 asks for 2/16, the share for 4.8/16
    assert offset_logits(base, theirs, -0.5, 0.6)[1].tolist() == [[True, True, False, False, True]]
    everything, passes = offset_logits(base, theirs, 2.0, 0.0)
    assert passes.all() and torch.allclose(everything, base + 2 * theirs)


def slow(base: list[float], theirs: list[float], weight: float, top: float) -> tuple[list[float], list[bool]]:
    peak = max(base)
    norm = peak + math.log(sum(math.exp(z - peak) for z in base))
    log_p = [z - norm for z in base]
    ranked = sorted(log_p, reverse=True)
    bound = min(ranked[max(1, int(top * len(base))) - 1], max(log_p) + math.log(top))
    passes = [p >= bound for p in log_p]
    return [b + weight * a if ok else b for b, a, ok in zip(base, theirs, passes, strict=True)], passes


@pytest.mark.parametrize("top", [0.01, 0.1, 0.5, 1.0])
def test_equals_a_slow_reference(top: float) -> None:
    draw = torch.Generator().manual_seed(1)
    base, theirs = (3 * torch.randn(2, 6, 50, generator=draw) for _ in range(2))
    logits, passes = offset_logits(base, theirs, -0.8, top)
    for i in range(2):
        for j in range(6):
            z, ok = slow(base[i, j].tolist(), theirs[i, j].tolist(), -0.8, top)
            # which of two equal log-probabilities is a hair larger is rounding's choice
            assert sum(a != b for a, b in zip(passes[i, j].tolist(), ok, strict=True)) == 0
            assert logits[i, j].tolist() == pytest.approx(z, abs=1e-5)


def next_logits(surface: OffsetSurface, choosing: bool) -> toys.NextLogits:
    def run(prompt: Any, said: Any) -> list[float]:
        ids = [*prompt, *said]
        logits, passes = slow(
            toys.raw_logits(surface.model, ids).tolist(),
            toys.raw_logits(surface.assistant, ids).tolist(),
            surface.guard.weight,
            surface.guard.top_filter,
        )
        return [z if ok or not choosing else FORBIDDEN for z, ok in zip(logits, passes, strict=True)]

    return run


@pytest.mark.parametrize("weight", [-0.8, -3.0])
def test_generation_is_that_of_single_steps_in_any_batch(loaded: LoadedModel, weight: float) -> None:
    surface = guarded(loaded, weight=weight, top_filter=0.05)
    asked = toys.prompts(loaded, DATA)
    stops = surface.renderer.stop_ids
    expected = [toys.naive_greedy(next_logits(surface, True), p, stops, 8) for p in asked]
    for size in (1, 5, 64):
        assert surface.generate(asked, 8, size, None) == expected
        drawn = surface.sample(asked, [str(i) for i in range(len(asked))], 2, 1e-4, 8, size, None)
        assert drawn == [[said, said] for said in expected]  # a temperature near zero is greedy
    plain = guarded(loaded, weight=0.0).generate(asked, 8, 64, None)
    assert plain != expected  # the offset does something


def test_log_probs_are_those_of_single_steps_in_any_batch(loaded: LoadedModel) -> None:
    surface = guarded(loaded, top_filter=0.05)
    asked = toys.pairs(loaded, DATA)
    expected = [toys.naive_log_prob(next_logits(surface, False), *pair) for pair in asked]
    for size in (1, 5, 64):
        assert surface.log_probs(asked, size) == pytest.approx(expected, abs=1e-4)
    model, adjust = surface.speaking([p for p, _ in asked], scored=True)
    pad = loaded.renderer.pad_id
    one = token_rows(model, asked, pad, 5, adjust)
    two = shared_rows(model, [(p, [t]) for p, t in asked], pad, 5, adjust)
    assert [r.log_probs.sum() for r in one] == pytest.approx(expected, abs=1e-4)
    assert [r.log_probs.sum() for (r,) in two] == pytest.approx(expected, abs=1e-4)


def test_what_is_generated_is_what_is_likeliest_of_what_passes(loaded: LoadedModel) -> None:
    surface = guarded(loaded, top_filter=0.05)
    for prompt in toys.prompts(loaded, DATA)[:6]:
        (first, *_), *_ = surface.generate([prompt], 1, 1, None)
        values = surface.log_probs([(prompt, (t,)) for t in range(len(loaded.tokenizer))], 64)
        _, passes = slow(
            toys.raw_logits(surface.model, prompt).tolist(),
            toys.raw_logits(surface.assistant, prompt).tolist(),
            surface.guard.weight,
            surface.guard.top_filter,
        )
        assert first == max((t for t, ok in enumerate(passes) if ok), key=values.__getitem__)


def test_the_assistant_shares_the_models_tensors_and_leaves_it_alone() -> None:
    loaded = toys.model(DATA)
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    made = toys.assistant(loaded)
    own = {id(p) for p in loaded.model.parameters()}
    extra = [n for n, p in made.loaded.model.named_parameters() if id(p) not in own]
    assert extra and all("lora_" in n for n in extra)
    assert {n for n, p in made.loaded.model.named_parameters() if p.requires_grad} == set(extra)
    assert not any(p.requires_grad for p in loaded.model.parameters())
    after = loaded.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


def test_relearning_moves_the_model_under_the_guard_and_nothing_else() -> None:
    loaded = toys.model(DATA)
    surface = guarded(loaded)
    ids = [5, 6, 7]
    base, theirs = toys.raw_logits(surface.model, ids), toys.raw_logits(surface.assistant, ids)
    answers = surface.generate(toys.prompts(loaded, DATA), 6, 16, None)
    probe = Relearn(steps=2, facts=3, lr=1e-2)
    with surface.attacked(), probe.changed(surface.model, DATA, surface.renderer):
        assert not torch.equal(toys.raw_logits(surface.model, ids), base)
        assert torch.equal(toys.raw_logits(surface.assistant, ids), theirs)
        assert surface.generate(toys.prompts(loaded, DATA), 6, 16, None) != answers
    assert torch.equal(toys.raw_logits(surface.model, ids), base)
    assert torch.equal(toys.raw_logits(surface.assistant, ids), theirs)
    assert surface.generate(toys.prompts(loaded, DATA), 6, 16, None) == answers


def test_the_evaluator_takes_it_as_a_model(loaded: LoadedModel) -> None:
    seen = []

    class Spied(OffsetSurface):
        def attacked(self):  # type: ignore[no-untyped-def]
            seen.append(True)
            return super().attacked()

    surface = Spied(LogitOffset(), loaded, toys.assistant(loaded))
    reports = []
    for size in (7, 256):
        suite = worlds.suite(relearn=True, relearn_steps=1, batch_size=size)
        reports.append(evaluate(surface, DATA, suite, prefill=worlds.prefill()))
    assert len(seen) == 2  # the relearning probe of each
    assert reports[0].metrics == reports[1].metrics
    assert reports[0].metrics["relearn_accuracy"].value is not None
    assert reports[0].metrics["utility_accuracy"].n == 4


def test_weight_zero_is_the_model(loaded: LoadedModel) -> None:
    surface = guarded(loaded, weight=0.0)
    asked = toys.prompts(loaded, DATA)
    assert surface.generate(asked, 6, 32, None) == ModelSurface(loaded).generate(asked, 6, 32, None)


def test_what_is_kept_makes_it_again(loaded: LoadedModel) -> None:
    surface = guarded(loaded)
    again = LogitOffset.opened(surface.settings(), toys.model(DATA), surface.tensors(), surface.secrets())
    asked = toys.prompts(loaded, DATA)
    assert again.generate(asked, 8, 32, None) == surface.generate(asked, 8, 32, None)
    assert again.guard == surface.guard and surface.secrets() is None
    with pytest.raises(ModelError, match="guard=removed"):
        load_adapters(toys.assistant(toys.model(DATA), r=3).loaded.model, surface.tensors())


def test_an_assistant_is_needed(loaded: LoadedModel) -> None:
    with pytest.raises(ModelError, match="method=uld"):
        LogitOffset().around(toys.scene(loaded, DATA))
