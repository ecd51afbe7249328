"""Against tiny random models: likelihoods, batch sizes, the relearning probe."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from harmonize.errors import DataError
from harmonize.evaluation.attacks.relearn import Relearn, weights_restored
from harmonize.evaluation.choices import choice_items, credit, judge_choices
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.likelihood import continuation_log_probs, target_log_probs
from harmonize.evaluation.surface import ModelSurface
from tests.evaluation import worlds


@pytest.fixture(scope="module")
def data():
    return worlds.corpus()


@pytest.fixture
def loaded(data) -> SimpleNamespace:
    return worlds.llama(data)


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def _same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def _pairs(data, renderer):
    return [
        (renderer.prompt_ids(e.question), renderer.answer_ids(e.answer[: 8 + i]))
        for i, e in enumerate(data.examples)
    ]


def test_log_probs_agree_with_one_row_at_a_time(data, loaded) -> None:
    pairs = _pairs(data, loaded.renderer)[:20]
    expected = []
    for prompt, target in pairs:
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[*prompt, *target]])).logits[0].log_softmax(-1)
        expected.append(sum(float(logits[len(prompt) - 1 + i, t]) for i, t in enumerate(target)))
    for size in (1, 3, 64):
        found = continuation_log_probs(loaded.model, pairs, loaded.renderer.pad_id, size)
        assert found == pytest.approx(expected, abs=1e-4)


def test_target_log_probs_are_zero_beyond_the_target(loaded) -> None:
    found = target_log_probs(loaded.model, [((5, 6), (7,)), ((5,), (7, 8, 9))], loaded.renderer.pad_id)
    assert found.shape == (2, 3) and found[0, :2].eq(0).all() and (found[1] < 0).all()
    with pytest.raises(ValueError, match="at least one token"):
        target_log_probs(loaded.model, [((), (1,))], 0)


def test_utility_is_four_option_accuracy(data, loaded) -> None:
    items = choice_items(data.facts("general", "test"))
    assert len(items) == 4
    records = judge_choices(ModelSurface(loaded), items, batch_size=3)
    for item, record in zip(items, records, strict=True):
        pairs = [
            (loaded.renderer.prompt_ids(item.question), loaded.renderer.answer_ids(c)) for c in item.choices
        ]
        sums = continuation_log_probs(loaded.model, pairs, loaded.renderer.pad_id)
        best = max(range(4), key=sums.__getitem__)
        assert record.output == item.choices[best]
        assert record.score == float(best == item.answer_index)
        assert record.verdict == ("correct" if record.score else "wrong")


def test_items_without_a_right_option_are_left_out(data) -> None:
    assert choice_items(data.facts("forget", "test")) == ()


@pytest.mark.parametrize(
    ("values", "right", "expected"),
    [
        ((-1.0, -2.0), 0, 1.0),
        ((-1.0, -2.0), 1, 0.0),
        ((-3.0, -3.0, -3.0, -3.0), 2, 0.25),
        ((-3.0, -3.0, -1.0), 0, 0.0),
    ],
)
def test_ties_share_the_point(values, right, expected) -> None:
    assert credit(values, right) == expected


def test_reports_do_not_depend_on_batch_size(data, loaded) -> None:
    reports = [
        evaluate(loaded, data, worlds.suite(batch_size=size), prefill=worlds.prefill(), split="test")
        for size in (1, 61, 256)
    ]
    for other in reports[1:]:
        assert other.metrics == reports[0].metrics
        assert [s["output"] for s in other.samples] == [s["output"] for s in reports[0].samples]
    assert len({s["output"] for s in reports[0].samples}) > 20


def test_evaluation_leaves_model_mode_and_random_state_alone(data, loaded) -> None:
    loaded.model.train()
    before, state = _state(loaded.model), torch.get_rng_state()
    evaluate(loaded, data, worlds.suite(relearn=True), prefill=worlds.prefill(), split="val")
    assert loaded.model.training and _same(before, _state(loaded.model))
    assert torch.equal(state, torch.get_rng_state())


def test_relearning_teaches_inside_and_restores_bit_for_bit(data, loaded) -> None:
    probe = Relearn(steps=60, facts=3, lr=1e-2)
    taught = probe.taught(data)
    pairs = [(loaded.renderer.prompt_ids(e.question), loaded.renderer.target_ids(e.answer)) for e in taught]
    before = _state(loaded.model)
    flags = [p.requires_grad for p in loaded.model.parameters()]
    weight = next(loaded.model.parameters())
    weight.grad = torch.ones_like(weight)
    losses = []
    for _ in range(2):
        with probe.changed(loaded.model, data, loaded.renderer):
            assert not _same(before, _state(loaded.model))
            losses.append(continuation_log_probs(loaded.model, pairs, 0))
        assert _same(before, _state(loaded.model))
    assert losses[0] == losses[1]
    assert min(losses[0]) > -0.5 > max(continuation_log_probs(loaded.model, pairs, 0))
    assert [p.requires_grad for p in loaded.model.parameters()] == flags
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(p.grad is None for p in list(loaded.model.parameters())[1:])


def test_relearning_asks_only_facts_it_does_not_teach(data, loaded) -> None:
    report = evaluate(loaded, data, worlds.suite(relearn=True), prefill=worlds.prefill(), axes=("relearn",))
    taught = {e.fact_id for e in Relearn(facts=3).taught(data)}
    asked = {s["fact"] for s in report.samples}
    used = {e.fact_id for e in data.facts("forget", "train")}
    assert len(taught) == 3 and asked == used - taught
    assert {s["attack"] for s in report.samples} == {"relearn"}
    trained_on = {e.question for e in data.examples}
    assert not trained_on & {s["question"] for s in report.samples}
    assert report.metrics["relearn_accuracy"].n == len(asked) * 2


def test_relearning_reports_when_nothing_is_left_to_ask(data, loaded) -> None:
    suite = worlds.suite(relearn=True, relearn_facts=50)
    report = evaluate(loaded, data, suite, prefill=worlds.prefill(), axes=("relearn",))
    assert report.metrics["relearn_accuracy"].value is None
    assert "lower suite.relearn_facts" in report.notes[0]


def test_relearning_restores_after_a_failure_and_under_inference_mode(data, loaded) -> None:
    before = _state(loaded.model)
    probe = Relearn(steps=2, lr=1e-2)
    with (
        pytest.raises(KeyboardInterrupt),
        torch.inference_mode(),
        probe.changed(loaded.model, data, loaded.renderer),
    ):
        assert not _same(before, _state(loaded.model))
        raise KeyboardInterrupt
    assert _same(before, _state(loaded.model))


def test_every_phrasing_of_unlearning_is_taught(data, loaded, monkeypatch) -> None:
    again = [
        replace(e, id=f"{e.id}-again", question=f"Say now , which {e.question}", fact=e.fact_id)
        for e in data.select("forget", "train")
    ]
    more = replace(data, examples=(*data.examples, *again))
    taught = []
    monkeypatch.setattr(
        Relearn, "_train", lambda self, model, parameters, pairs, pad_id: taught.extend(pairs)
    )
    with Relearn(facts=3).changed(loaded.model, more, loaded.renderer):
        pass
    assert len(taught) == 6 and len({prompt for prompt, _ in taught}) == 6
    assert len({target for _, target in taught}) == 3


def test_prompts_beyond_the_context_are_refused_with_a_way_out(data, loaded) -> None:
    suite = worlds.suite(max_new_tokens=125)
    with pytest.raises(DataError, match=r"reads at most 128. Use suite.max_new_tokens=\d+ or less"):
        evaluate(loaded, data, suite, prefill=worlds.prefill())


def test_only_trainable_parameters_relearn_unless_none_is(loaded) -> None:
    parameters = list(loaded.model.parameters())
    with weights_restored(loaded.model) as trained:
        assert len(trained) == len(parameters)
    for p in parameters[1:]:
        p.requires_grad_(False)
    with weights_restored(loaded.model) as trained:
        assert len(trained) == 1 and trained[0] is parameters[0]
    parameters[0].requires_grad_(False)
    with weights_restored(loaded.model) as trained:
        assert len(trained) == len(parameters) and all(p.requires_grad for p in trained)
    assert not any(p.requires_grad for p in parameters)


# peft asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_adapters_relearn_and_the_base_stays(data, loaded) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        loaded.model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    )
    before = _state(model)
    with Relearn(steps=3, lr=1e-2).changed(model, data, loaded.renderer):
        moved = {k for k, v in _state(model).items() if not torch.equal(v, before[k])}
    assert moved and all("lora_" in k for k in moved)
    assert _same(before, _state(model))
    surface = ModelSurface(SimpleNamespace(model=model, renderer=loaded.renderer))
    assert len(surface.log_probs(_pairs(data, loaded.renderer)[:3], 2)) == 3
