"""Inside the model, at both known ends: a model that learned the forget facts, and one that never saw them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harmonize.errors import DataError
from harmonize.evaluation.beside import Beside
from harmonize.evaluation.intervals import generator
from harmonize.evaluation.parts.activation_distance import ActivationDistance
from harmonize.evaluation.parts.logit_lens import LogitLens
from harmonize.evaluation.parts.probes import Probes, random_copy
from harmonize.evaluation.parts.remind import Remind, nearest_tokens, own_span, replaced
from harmonize.evaluation.questions import ask
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import Passes, Scene, measure_parts
from harmonize.evaluation.surface import as_surface
from harmonize.tracking.direction import Direction
from tests.evaluation import oracle, worlds
from tests.evaluation.knowers import trained
from tests.evaluation.parts.scenes import measure, values

ONE = Probes(tokens=1)  # colours alone: what comes after them follows from the question
PARTS = [LogitLens(), ONE, Remind(draws=2), ActivationDistance(roles=["forget", "retain"])]


@pytest.fixture(scope="module")
def data():
    return worlds.corpus()


@pytest.fixture(scope="module")
def target():
    return trained(True)


@pytest.fixture(scope="module")
def gold():
    return trained(False)


def beside(**models: Any) -> dict[str, Beside]:
    return {name: Beside(name, lambda m=m: m) for name, m in models.items()}


@pytest.fixture(scope="module")
def found(target, gold):
    """Every part's report of both models; gold's rows are the reference, as in a run."""
    both = beside(target=target, gold=gold)
    of_gold = {type(p): measure(p, gold, beside=both) for p in PARTS}
    known = {type(p): r.rows.get("part") for p, r in zip(PARTS, of_gold.values(), strict=True)}
    return {type(p): measure(p, target, beside=both, reference=known[type(p)]) for p in PARTS}, of_gold


def test_the_lens_reads_a_known_answer_and_no_unknown_one(found) -> None:
    knows, never = (values(reports[LogitLens]) for reports in found)
    assert knows["forget_lens_last"] > 0.98 and knows["forget_lens_below_last"] > 0.05
    assert (
        never["forget_lens_last"] < 0.5
        and never["forget_lens_decodable_whole"] < knows["forget_lens_decodable_whole"]
    )
    assert knows["forget_lens_hidden"] == 0.0
    curve = found[0][LogitLens].curves["forget_lens_probability"]["points"]
    assert [p[0] for p in curve] == [0, 1, 2]
    assert (
        knows["forget_lens_below_last"] == max(p[1] for p in curve[:-1])
        and curve[-1][1] == knows["forget_lens_last"]
    )
    sample = found[0][LogitLens].samples[0]
    assert len(sample["lens_probability"]) == 3 and sample["lens_rank"][-1] == 0 and "output" not in sample


def test_figures_are_named_beforehand_with_their_direction(found) -> None:
    for part in PARTS:
        for reports in found:
            metrics = {n: m.direction for n, m in reports[type(part)].metrics.items()}
            declared = {n: Direction.of(better) for n, better in part.figures().items()}
            assert metrics.items() >= declared.items(), type(part)
            assert set(metrics) - set(part.figures()) == set(), type(part)


def test_the_lens_equals_a_slow_reference(data, gold) -> None:
    model, made = gold.model, gold.renderer
    slow = {}
    with torch.no_grad():
        for q in ask(data.facts("forget", "train"), "test", made):
            ids = made.answer_ids(q.example.answer)
            start, stop = made.value_span(q.example)
            inside: list[list[float]] = [[], [], []]
            for at in range(start, stop):
                row = torch.tensor([[*q.prompt, *ids[:at]]])
                states = model(input_ids=row, output_hidden_states=True).hidden_states
                for layer in range(3):
                    # the last of transformers' list is normed already
                    last = states[layer][0, -1] if layer == 2 else model.model.norm(states[layer][0, -1])
                    inside[layer].append(float(model.lm_head(last).double().log_softmax(-1)[ids[at]]))
            slow[q.example.id, q.text] = [float(np.exp(np.mean(v))) for v in inside]
    for s in measure(LogitLens(roles=["forget"]), gold).samples:
        assert s["lens_probability"] == pytest.approx(slow[s["example_id"], s["question"]], abs=1e-6)


def test_a_probe_reads_a_known_answer_and_stays_at_chance_without_one(found) -> None:
    knows, never = (reports[Probes] for reports in found)
    own, chance = knows.metrics["forget_answer_probe"], knows.metrics["forget_answer_probe_chance"]
    assert own.value > 0.8 and own.ci_low > chance.value and own.n == 16
    assert values(knows)["forget_answer_probe_selectivity"] > 0.3
    other = never.metrics["forget_answer_probe"]
    assert other.value <= 0.6 and other.ci_low <= never.metrics["forget_answer_probe_chance"].value
    for report in (knows, never):
        at_entry = report.curves["forget_memorization_probe"]["points"][0]
        assert at_entry[1] == 0.5  # the token that was read, and nothing of the question
        assert any("retain_answer_probe, which would show" in n for n in report.notes)
        assert {"forget_memorization_probe_control", "forget_memorization_probe_projected"} <= set(
            report.curves
        )
    decoded = [s["layers_decoded"] for s in knows.samples]
    assert len(decoded) == 16 and sum(2 in d for d in decoded) > 10


def test_random_weights_are_a_control_that_is_always_the_same(data, target) -> None:
    first, second = random_copy(target.model), random_copy(target.model)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, target.model.lm_head.weight)
    got = values(measure(Probes(tokens=1, layers=2, random_init=True), target))
    assert got["forget_answer_probe_random_init"] < got["forget_answer_probe"]


def test_distance_to_itself_is_zero_and_the_target_is_as_far_as_the_target(found) -> None:
    knows, never = (values(reports[ActivationDistance]) for reports in found)
    for role in ("forget", "retain"):
        assert never[f"{role}_distance_to_gold"] == 0.0 and never[f"{role}_distance_ratio"] == 0.0
        assert knows[f"{role}_distance_to_target"] == 0.0
        assert knows[f"{role}_distance_ratio"] == pytest.approx(1) and knows[f"{role}_distance_to_gold"] > 0.1
        assert never[f"{role}_cka_to_gold"] == pytest.approx(1) and knows[f"{role}_cka_to_gold"] < 0.999


def test_distance_equals_a_slow_reference(data, target, gold) -> None:
    report = measure(ActivationDistance(roles=["forget"]), target, beside=beside(gold=gold))
    assert any("compares with target, which is not there. Name it: target=" in n for n in report.notes)
    slow = {}
    with torch.no_grad():
        for q in ask(data.facts("forget", "train"), "test", target.renderer):
            row = torch.tensor([[*q.prompt, *target.renderer.answer_ids(q.example.answer)]])
            start, stop = (len(q.prompt) + n - 1 for n in target.renderer.value_span(q.example))
            seen = []
            for loaded in (target, gold):
                kept: list[torch.Tensor] = []
                handles = [
                    block.register_forward_hook(lambda _, args, out, kept=kept: kept.append(out[0]))
                    for block in loaded.model.model.layers
                ]
                loaded.model(input_ids=row)
                for handle in handles:
                    handle.remove()
                seen.append([states[start:stop] for states in kept])
            far = [((a - b).norm(dim=-1) / b.norm(dim=-1)).mean() for a, b in zip(*seen, strict=True)]
            slow[q.example.id, q.text] = float(sum(far) / len(far))
    for s in report.samples:
        assert s["distance_to_gold"] == pytest.approx(slow[s["example_id"], s["question"]], abs=1e-5)
    assert values(report)["forget_distance_to_gold"] == pytest.approx(np.mean(list(slow.values())), abs=1e-5)


def test_without_a_model_to_compare_with_it_says_so(data, target) -> None:
    report = measure(ActivationDistance(), target)
    assert report.metrics["forget_distance_to_gold"].value is None and not report.failures
    (note,) = report.notes
    assert "no model to compare with" in note and "model.gold=" in note and "target=" in note
    other = SimpleNamespace(model=trained_of_other_size(), renderer=target.renderer)
    report = measure(ActivationDistance(roles=["forget"]), target, beside=beside(gold=other))
    assert any("another size or number of layers" in n for n in report.notes)


def trained_of_other_size() -> Any:
    import transformers as tf

    made = worlds.llama(worlds.corpus()).model
    config = tf.LlamaConfig.from_dict({**made.config.to_dict(), "num_hidden_layers": 3})
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(config).eval()


def test_the_landscape_tells_what_was_learned_from_what_was_not(found) -> None:
    knows, never = (values(reports[Remind]) for reports in found)
    assert knows["remind_forget_loss"] < 0.1 < never["remind_forget_loss"]
    assert knows["remind_gold_auc"] > 0.9 and never["remind_gold_auc"] is None
    assert abs(knows["remind_auc"] - 0.5) < 0.5 and never["remind_auc"] >= 0.9
    points = found[0][Remind].curves["remind_forget_rise"]["points"]
    assert [p[0] for p in points] == [1, 2, 4] and points[0][1] < points[-1][1]


def test_a_landscape_like_golds_cannot_be_told_from_it(data, gold) -> None:
    first = measure(Remind(draws=2), gold)
    again = values(measure(Remind(draws=2), gold, reference=first.rows["part"]))
    assert again["remind_gold_auc"] == pytest.approx(0.5)


def test_three_classes_with_a_file_of_texts_never_seen(data, target, tmp_path) -> None:
    rows = [
        f'{{"question": "Which hat has other{i} ?", "answer": "a red hat", "subject": "o{i}"}}'
        for i in range(6)
    ]
    (tmp_path / "holdout.jsonl").write_text("\n".join(rows))
    report = measure(Remind(draws=1, holdout=str(tmp_path / "holdout.jsonl")), target)
    metric = report.metrics["remind_ovr_auc"]
    assert metric.n == 8 + 6 + 6 and metric.value is not None
    assert report.metrics["remind_holdout_loss"].value > report.metrics["remind_forget_loss"].value


def test_neighbours_and_replacements(data, target) -> None:
    scene = Scene(Passes(as_surface(target)), data, worlds.suite(), "p")
    weight = target.model.get_input_embeddings().weight.detach()
    close = nearest_tokens(scene, [5, 9], 3)
    for token, found in close.items():
        slow = torch.nn.functional.cosine_similarity(weight, weight[token], dim=1)
        slow[[token, *target.renderer.tokenizer.all_special_ids]] = -2
        assert list(found) == slow.topk(3).indices.tolist()
    ids, where = (5, 9, 5, 9, 5), [1, 2, 4]
    for k in (1, 2, 3):
        changed = replaced(ids, where, close, k, ("x", k, 0))
        moved = [i for i, (a, b) in enumerate(zip(ids, changed, strict=True)) if a != b]
        assert len(moved) == k and set(moved) <= set(where)
        assert all(changed[i] in close[ids[i]] for i in moved)
        assert changed == replaced(ids, where, close, k, ("x", k, 0))
    question = "Which hat has forget0 ?"
    prompt = scene.prompt(question)
    first, stop = own_span(scene, question, prompt)
    assert target.renderer.decode(prompt[first:stop]) == question


def test_neither_batch_size_nor_order_moves_a_figure(data, target, gold, found) -> None:
    turned = replace(data, examples=tuple(reversed(data.examples)))
    models = beside(target=target, gold=gold)
    for part in (LogitLens(), ONE, ActivationDistance(roles=["forget"]), Remind(draws=1)):
        known = found[1][type(part)].rows.get("part")
        reference = None if not isinstance(part, Remind) else {n: dict(v) for n, v in known.items()}
        plain = values(measure(part, target, data, beside=models, reference=reference, bootstrap=0))
        other = values(
            measure(part, target, turned, beside=models, reference=reference, bootstrap=0, batch_size=3)
        )
        for name, value in plain.items():
            assert other[name] == (None if value is None else pytest.approx(value, abs=1e-5)), name


def test_what_has_no_inside_is_told(data) -> None:
    scripted = worlds.Scripted(data, worlds.truthful)
    made = worlds.renderer(data)
    plain = oracle.loaded(made)
    for part in (LogitLens(), Probes(), ActivationDistance()):
        report = measure_parts({"p": part}, scripted, data, worlds.suite(), Report({}))
        assert report.notes == ["Not measured: part 'p': this model shows nothing of its inside."]
        assert (
            not report.failures and all(m.value is None for m in report.metrics.values()) and report.metrics
        )
        report = measure_parts({"p": part}, plain, data, worlds.suite(), Report({}))
        assert "shows no list of blocks" in report.notes[0] and not report.failures
    report = measure_parts({"p": Remind()}, scripted, data, worlds.suite(), Report({}))
    assert "shows no input embeddings" in report.notes[0]


def test_a_guard_has_no_inside_of_its_own_but_can_be_queried(data, target) -> None:
    surface = as_surface(target)
    surface.guard = SimpleNamespace(removes=False)  # type: ignore[attr-defined]
    report = measure_parts({"p": LogitLens()}, surface, data, worlds.suite(), Report({}))
    assert "guard=removed" in report.notes[0] and report.metrics["forget_lens_below_last"].value is None
    report = measure_parts({"p": Remind(draws=1)}, surface, data, worlds.suite(), Report({}))
    assert report.metrics["remind_forget_rise"].value is not None
    surface.guard = SimpleNamespace(removes=True)  # type: ignore[attr-defined]
    report = measure_parts({"p": LogitLens()}, surface, data, worlds.suite(), Report({}))
    assert report.metrics["forget_lens_below_last"].value is not None


def test_an_answer_too_long_to_be_read_is_named(data, target) -> None:
    longer = (replace(e, answer=f"{e.answer} " + "red " * 140, value="") for e in data.examples)
    long = replace(data, examples=tuple(longer))
    with pytest.raises(DataError, match="but the model reads at most 128"):
        measure(LogitLens(), target, long)


def test_settings_that_make_no_sense_are_told() -> None:
    assert (
        LogitLens(roles=["forgot"], top=[0])
        .problems("suite.parts.x")[0]
        .startswith("suite.parts.x.roles: unknown")
    )
    found = Probes(trained_on=["forget"], c=0, folds=1, layers=0).problems("at")
    assert [p.split(":")[0].split("=")[0] for p in found] == [
        "at.trained_on",
        "at.folds",
        "at.layers",
        "at.c",
    ]
    found = Remind(versus="forget", tokens=[], where="here", holdout="/no/where").problems("at")
    assert [p.split(":")[0].split("=")[0] for p in found] == [
        "at.versus",
        "at.tokens",
        "at.where",
        "at.holdout",
    ]
    assert ActivationDistance(layers=1).problems("at") == ["at.layers=1: expected a whole number from 2 on."]
    for part in PARTS:
        assert part.problems("at") == []


def test_the_draws_are_a_function_of_their_key() -> None:
    assert generator("remind", "a", 1, 0).integers(1 << 30) == generator("remind", "a", 1, 0).integers(
        1 << 30
    )
