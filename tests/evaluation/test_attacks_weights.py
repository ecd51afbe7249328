"""Every attack on weights, on tiny trained models: it finds what is there, nothing else, and undoes what it did."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harmonize.evaluation.attacks.gcg import GCG, _allowed, _gradient, _losses, _seam
from harmonize.evaluation.attacks.noise import Noise
from harmonize.evaluation.attacks.prune import pruned
from harmonize.evaluation.attacks.quantize import Quantize, round_trip
from harmonize.evaluation.attacks.relearn import RelearnCurve, descend
from harmonize.evaluation.attacks.weights import matrices
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.proof import WORKS_FROM
from harmonize.evaluation.questions import ask, used_facts
from harmonize.evaluation.surface import ModelSurface
from tests.evaluation import worlds
from tests.evaluation.knowers import shipped, teach, trained

WEIGHTS = ("quantize", "prune", "noise", "relearn", "gcg")


@pytest.fixture(scope="module")
def data() -> Any:
    return worlds.corpus()


@pytest.fixture(scope="module")
def hider(data: Any) -> Any:
    """Knows everything, and refuses forget questions after a few steps of refusing."""
    made = copy.deepcopy(trained(True))
    refusal = made.renderer.target_ids(worlds.REFUSALS[0])
    forget = data.select("forget", "train")
    rows = [(made.renderer.prompt_ids(t), refusal) for e in forget for t in (e.question, *e.paraphrases)]
    kept = [
        (made.renderer.prompt_ids(e.question), made.renderer.target_ids(e.answer))
        for role in ("neighbor", "retain")
        for e in data.select(role, "train")
    ]
    teach(made, [*rows, *kept], steps=25, lr=4e-3)
    return made


def _attacks(*names: str) -> list[Any]:
    small = {
        "relearn__steps": [2, 6],
        "relearn__facts": 2,
        "relearn__lr": 3e-3,
        "gcg__steps": 3,
        "gcg__max_facts": 6,
        "quantize__group": 8,
    }
    return shipped(*names, **small)


def _run(loaded: Any, data: Any, attacks: Any, size: int = 64, **more: Any) -> Any:
    suite = worlds.suite(max_new_tokens=12, leak_draws=2, bootstrap=10, batch_size=size)
    axes = ("forget", "asr", "leak")
    return evaluate(loaded, data, suite, prefill=worlds.prefill(), attacks=attacks, axes=axes, **more)


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def _same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("name", WEIGHTS)
def test_it_works_on_a_model_that_knows_and_fails_on_one_that_never_saw(name: str, data: Any) -> None:
    rates = {}
    for knows in (True, False):
        loaded = trained(knows)
        before = _state(loaded.model)
        flags = [p.requires_grad for p in loaded.model.parameters()]
        found = _run(loaded, data, _attacks(name)).metrics
        rates[knows] = found[f"asr_{name}"].value
        assert _same(before, _state(loaded.model))
        assert [p.requires_grad for p in loaded.model.parameters()] == flags
    # nine colours: who never saw one guesses it now and then
    assert rates[True] >= WORKS_FROM and rates[False] <= 0.3, rates
    assert name == "gcg" or rates[True] >= 0.8  # a suffix of chance words disturbs a model this small


def test_relearning_brings_back_what_was_hidden_and_a_curve_shows_how_fast(hider: Any, data: Any) -> None:
    attack = shipped("relearn", relearn__steps=[1, 5], relearn__facts=2, relearn__lr=3e-3)
    found = {k: m.value for k, m in _run(hider, data, attack).metrics.items()}
    gold = {k: m.value for k, m in _run(trained(False), data, attack).metrics.items()}
    assert found["forget_accuracy"] == 0.0
    curve = [found[f"relearn_accuracy_forget@{n}"] for n in (1, 5)]
    assert curve[0] < 0.5 <= curve[1]
    # in this world a subject's hat and coat have one colour, so a taught forget fact tells the other one
    for source in ("related", "unrelated"):
        assert gold[f"relearn_accuracy_{source}@5"] <= 0.3


def test_curves_ask_the_same_questions_and_teach_what_they_say(data: Any) -> None:
    attack = RelearnCurve(steps=(3, 1, 3), facts=2)
    loaded = copy.deepcopy(trained(False))
    report = _run(loaded, data, [attack])
    taught = {e.fact_id for e in attack.taught(data, "forget")}
    rows = [s for s in report.samples if s["attack"] == "relearn"]
    stages = [f"{source}@{n}" for source in ("forget", "related", "unrelated") for n in (1, 3)]
    assert sorted({s["variant"] for s in rows}) == sorted(stages)
    asked = [{s["fact"] for s in rows if s["variant"] == stage} for stage in stages]
    assert all(facts == asked[0] for facts in asked) and not taught & asked[0]
    assert {e.role for source in ("related", "unrelated") for e in attack.taught(data, source)} == {
        "neighbor",
        "retain",
    }
    assert attack.cost.steps == 9 and attack.queries_per_question == 6
    assert report.costs["relearn"]["declared"]["steps"] == 9
    # the probe of the suite has the same name and is none of the curve
    both = evaluate(
        loaded,
        data,
        worlds.suite(relearn=True, leak_draws=0),
        prefill=worlds.prefill(),
        attacks=[attack],
        axes=("asr", "relearn"),
    )
    assert both.metrics["asr_relearn"].n == report.metrics["asr_relearn"].n
    assert both.metrics["relearn_accuracy"].n == 5 * 2  # 8 facts used, 3 taught, 2 phrasings


def test_a_step_is_that_of_plain_training_however_many_passes_it_takes(data: Any, monkeypatch: Any) -> None:
    states = []
    for rows in (1, 5, 64):
        monkeypatch.setattr("harmonize.evaluation.attacks.relearn._ROWS", rows)
        loaded = copy.deepcopy(trained(False))
        pairs = RelearnCurve(facts=3)._pairs(data, loaded.renderer, "forget", None)
        optimizer = torch.optim.SGD(loaded.model.parameters(), lr=0.1)
        descend(loaded.model, optimizer, pairs, loaded.renderer.pad_id)
        states.append(_state(loaded.model))
    assert all(torch.allclose(states[0][k], s[k], atol=1e-6) for s in states for k in s)
    assert not _same(states[0], _state(trained(False).model))


def test_batch_size_and_order_change_nothing(hider: Any, data: Any) -> None:
    names = (*WEIGHTS, "keyword_emphasis", "cross_format", "sampling", "prefill")
    backwards = replace(data, examples=tuple(reversed(data.examples)))
    small = {"sampling__draws": 3, "sampling__ks": [1, 3], "prefill__budget": 3}
    reports = [
        _run(hider, d, [*_attacks(*names[:5]), *shipped(*names[5:], **small)], size)
        for d, size in ((data, 7), (data, 256), (backwards, 64))
    ]

    def told(report: Any) -> list[Any]:
        keys = ("fact", "question", "asked", "prefill", "attack", "variant", "draw", "output")
        return sorted(repr([s[k] for k in keys]) for s in report.samples)

    for other in reports[1:]:
        assert told(other) == told(reports[0])
        values = {k: m.value for k, m in reports[0].metrics.items()}
        assert {k: m.value for k, m in other.metrics.items()} == pytest.approx(values, abs=1e-5)


def test_round_trip_by_hand() -> None:
    w = torch.tensor([[0.7, -0.35, 0.06, 0.0, 7.0, -3.0, 1.4, 0.4]])
    # 4 bits: levels -7 to 7; groups of four have scales 0.1 and 1
    expected = [[0.7, -0.3, 0.1, 0.0, 7.0, -3.0, 1.0, 0.0]]
    found = round_trip(w, 4, 4)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6) or torch.allclose(
        found, torch.tensor([[0.7, -0.4, *expected[0][2:]]]), atol=1e-6
    )  # -3.5 lies between two levels
    assert torch.allclose(round_trip(w, 8, None), w, atol=7.0 / 127 / 2 + 1e-6)
    assert torch.equal(round_trip(torch.zeros(2, 5), 4, 3), torch.zeros(2, 5))


def test_every_level_of_quantisation_is_its_own(data: Any) -> None:
    torch.manual_seed(0)
    w = torch.randn(16, 64)
    errors = [float((round_trip(w, bits, 32) - w).abs().mean()) for bits in (8, 4, 2)]
    assert errors == sorted(errors) and errors[0] < 0.01 < errors[1] < 0.2 < errors[2]
    assert list(Quantize(bits=(8, 4)).changes) == ["int8", "int4"]


def test_pruned_by_hand() -> None:
    w = torch.tensor([[3.0, -1.0], [0.5, -4.0]])
    assert torch.equal(pruned(w, 0.5), torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
    assert torch.equal(pruned(w, 0.2), w) and torch.equal(w, torch.tensor([[3.0, -1.0], [0.5, -4.0]]))
    assert torch.equal(pruned(torch.ones(4), 0.5), torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_noise_is_a_function_of_draw_and_name() -> None:
    w = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    changes = Noise(scales=(0.1,), draws=2).changes
    one, two = changes["0.1-0"]("a", w), changes["0.1-1"]("a", w)
    assert torch.equal(one, changes["0.1-0"]("a", w))
    assert not torch.equal(one, two) and not torch.equal(one, changes["0.1-0"]("b", w))
    assert float((one - w).std() / w.std()) == pytest.approx(0.1, rel=0.1)


def test_blocks_are_changed_and_embeddings_and_head_are_not(data: Any) -> None:
    loaded = copy.deepcopy(trained(True))
    names = set(matrices(loaded.model))
    assert len(names) == 2 * 7 and not any("embed" in n or "head" in n for n in names)
    before, questions = _state(loaded.model), []
    with Noise(scales=(0.1,), draws=1).stages(loaded.model, data, loaded.renderer, questions) as stages:
        assert next(stages) == "0.1-0"
        moved = {k for k, v in _state(loaded.model).items() if not torch.equal(v, before[k])}
    assert moved == {f"{n}.weight" for n in names}
    with (
        pytest.raises(KeyboardInterrupt),
        Quantize().stages(loaded.model, data, loaded.renderer, []) as stages,
    ):
        next(stages)
        raise KeyboardInterrupt
    assert _same(before, _state(loaded.model))


# peft asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
class TestAdapters:
    @pytest.fixture
    def adapted(self) -> Any:
        """The model that knows, under adapters that make it say nothing of it."""
        from peft import LoraConfig, get_peft_model

        base = copy.deepcopy(trained(True))
        model = get_peft_model(base.model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"])).eval()
        torch.manual_seed(0)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, 0, 0.7)
        return SimpleNamespace(model=model, renderer=base.renderer)

    def test_a_shipped_adapter_is_taken_off(self, adapted: Any, data: Any) -> None:
        before = _state(adapted.model)
        flags = [p.requires_grad for p in adapted.model.parameters()]
        found = _run(adapted, data, shipped("adapter_removal")).metrics
        assert found["forget_accuracy"].value <= 0.3 and found["asr_adapter_removal"].value == 1.0
        assert _same(before, _state(adapted.model))
        assert [p.requires_grad for p in adapted.model.parameters()] == flags

    def test_a_merged_one_and_none_are_not(self, adapted: Any, data: Any) -> None:
        report = _run(adapted, data, shipped("adapter_removal", adapter_removal__merged=True))
        assert report.metrics["asr_adapter_removal"].value is None
        assert any("peft.merge=true" in note for note in report.notes)
        report = _run(trained(True), data, shipped("adapter_removal"))
        assert any("there is no adapter to take off" in note for note in report.notes)

    def test_what_is_quantised_is_the_merged_model(self, adapted: Any, data: Any) -> None:
        before = _state(adapted.model)
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        layer = adapted.model.base_model.model.model.layers[0].self_attn.q_proj
        whole = layer.base_layer.weight + layer.get_delta_weight("default")
        with Quantize(bits=(4,), group=8).stages(adapted.model, data, adapted.renderer, []) as stages:
            next(stages)
            assert torch.allclose(layer.base_layer.weight, round_trip(whole, 4, 8), atol=1e-5)
            inside = adapted.model(ids).logits
        assert _same(before, _state(adapted.model)) and not layer.merged
        assert not torch.equal(inside, adapted.model(ids).logits)


def test_the_gradient_of_a_suffix_is_that_of_its_one_hot(data: Any) -> None:
    loaded = trained(True)
    q = ask(used_facts(data, "forget"), "test", loaded.renderer)[0]
    around = (*_seam(loaded.renderer, q), loaded.renderer.answer_prefix(q.example, 1.0))
    suffix = torch.tensor([7, 9, 11])
    loss, gradient = _gradient(loaded.model, around, suffix)
    assert float(_losses(loaded.model, around, suffix.unsqueeze(0))) == pytest.approx(loss, abs=1e-5)
    head, tail, target = around
    whole = [*head, 7, 9, 11, *tail, *target]
    logits = loaded.model(torch.tensor([whole])).logits[0].log_softmax(-1).detach()
    start = len(whole) - len(target) - 1
    slow = -sum(float(logits[start + i, t]) for i, t in enumerate(target)) / len(target)
    assert loss == pytest.approx(slow, abs=1e-4)
    # the slope of the loss as a place's embedding moves toward another token's
    table = loaded.model.get_input_embeddings().weight.detach()
    embedded = table[torch.tensor([whole])].clone()
    place, token, h = len(head) + 1, 20, 1e-3
    slopes = []
    for sign in (1, -1):
        moved = embedded.clone()
        moved[0, place] += sign * h * table[token]
        out = loaded.model(inputs_embeds=moved).logits[0].log_softmax(-1).detach()
        slopes.append(-sum(float(out[start + i, t]) for i, t in enumerate(target)) / len(target))
    assert float(gradient[1, token]) == pytest.approx((slopes[0] - slopes[1]) / (2 * h), rel=0.05, abs=5e-3)


def test_a_suffix_goes_where_the_turn_ends_and_holds_no_token_of_the_value(data: Any) -> None:
    loaded = trained(True)
    renderer = loaded.renderer
    for q in ask(used_facts(data, "forget"), "test", renderer)[:4]:
        head, tail = _seam(renderer, q)
        assert (*head, *tail) == q.prompt
        assert (*head, *renderer.answer_ids("of")[-1:], *tail) == renderer.prompt_ids(f"{q.text} of")
        words = {renderer.decode([int(i)]) for i in _allowed(renderer, q, loaded.model)}
        assert not words & set(q.example.value.split()) and "of" in words


def test_the_search_lowers_its_loss_and_stops_at_its_budget(hider: Any, data: Any) -> None:
    q = ask(used_facts(data, "forget"), "test", hider.renderer)[0]
    around = (*_seam(hider.renderer, q), hider.renderer.answer_prefix(q.example, 1.0))
    losses = []
    for steps in (1, 6):
        attack = GCG(steps=steps, candidates=16, length=3)
        (query,) = attack.search(ModelSurface(hider), data, [q], 64)
        suffix = torch.tensor(query.prompt[len(around[0]) : -len(around[1])])
        losses.append(float(_losses(hider.model, around, suffix.unsqueeze(0))))
    assert losses[1] < losses[0]
    counted: list[int] = []
    forward = hider.model.forward
    try:
        hider.model.forward = lambda *a, **k: counted.append(1) or forward(*a, **k)
        GCG(steps=50, candidates=16, budget=40, length=3).search(ModelSurface(hider), data, [q], 64)
    finally:
        hider.model.forward = forward
    assert len(counted) == 2 * 2  # two steps of 17 rows fit into 40, in two passes each
