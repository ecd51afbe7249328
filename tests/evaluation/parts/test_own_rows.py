"""Memorisation, membership, gradient norm and fluency on the data set's own rows: known ends, and what they cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harmonize.data.example import Example
from harmonize.errors import DataError
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.parts.fluency import Fluency
from harmonize.evaluation.parts.gradient_norm import GradientNorm, gradient_norms
from harmonize.evaluation.parts.membership import Membership, read_texts
from harmonize.evaluation.parts.memorization import Memorization
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import measure_parts
from tests.evaluation import oracle, worlds
from tests.evaluation.parts.scenes import measure, values, write_rows

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")


def facts(n: int, role: str = "forget", split: str = "train") -> list[Example]:
    return [
        Example(
            id=f"{role}-{i}",
            role=role,
            question=f"Which hat has {role}{i} ?",
            answer=f"The hat of {role}{i} is {worlds.COLOURS[i % 9]} .",
            subject=f"{role}{i}",
            split=split,
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def data():
    members, kept = facts(32), facts(12, "retain", "test")
    return replace(worlds.corpus(), examples=(*members, *kept, *facts(32, "other", "test")))


@pytest.fixture
def holdout(tmp_path: Path) -> str:
    read_texts.cache_clear()
    rows = [{"question": e.question, "answer": e.answer, "subject": e.subject} for e in facts(32, "other")]
    return str(write_rows(tmp_path / "holdout.jsonl", rows))


def knowing(data, *roles: str, **settings) -> SimpleNamespace:
    made = worlds.renderer(data)
    told = [(made.prompt_ids(e.question), e.answer) for e in data.examples if e.role in roles]
    return oracle.loaded(made, told, **settings)


def test_one_pass_for_everything(data, holdout: str) -> None:
    """32 + 32 rows at batch 8: 8 forwards, where the main peer makes 52."""
    loaded = knowing(data, "forget")
    parts = {"memorization": Memorization(roles=["forget"]), "membership": Membership(holdout=holdout)}
    report = measure_parts(parts, loaded, data, worlds.suite(batch_size=8), Report({}))
    assert not report.failures and loaded.model.calls == 8
    measured = {n for n, m in report.metrics.items() if m.value is not None}
    assert measured == {
        "forget_answer_probability", "forget_exact_memorization", "forget_extraction_strength", "forget_tokens_at_5",
        "forget_tokens_at_20", *(f"mia_{a}_auc" for a in ATTACKS),
    }  # fmt: skip
    assert report.metrics["mia_loss_auc"].n == 64 and report.metrics["forget_answer_probability"].n == 32


def test_a_memorised_set_scores_one_and_what_was_never_seen_scores_chance(data) -> None:
    found = values(measure(Memorization(roles=["forget", "retain"]), knowing(data, "forget"), data))
    for name in ("answer_probability", "exact_memorization", "extraction_strength", "tokens_at_5"):
        assert found[f"forget_{name}"] == pytest.approx(1.0)
    chance = 1 / len(worlds.renderer(data).tokenizer)
    assert found["retain_answer_probability"] == pytest.approx(chance)
    assert found["retain_extraction_strength"] == found["retain_exact_memorization"] == 0.0


def test_the_words_that_all_answers_share_are_no_knowledge(data) -> None:
    """A model that knows the form of every answer, and no value: high over all tokens, chance on the value."""
    valued = replace(
        data,
        examples=tuple(replace(e, value=e.answer.split()[-2]) for e in data.examples if e.role == "forget"),
    )
    made = worlds.renderer(data)
    known = []
    for e in valued.examples:
        prompt, ids = made.prompt_ids(e.question), made.answer_ids(e.answer)
        start, stop = made.value_span(e)
        assert (start, stop) == (5, 6) and made.decode(ids[start:stop]) == e.value
        known.append((*prompt, *ids[:start]))
    loaded = oracle.loaded(made)
    for ids in known:
        for i in range(1, len(ids)):
            loaded.model.next.setdefault(tuple(ids[:i]), ids[i])
    found = values(measure(Memorization(roles=["forget"]), loaded, valued))
    assert found["forget_exact_memorization"] == pytest.approx(5 / 7)
    assert found["forget_value_exact_memorization"] == 0.0
    assert found["forget_value_probability"] == pytest.approx(1 / len(made.tokenizer))
    sure = values(measure(Memorization(roles=["forget"]), knowing(data, "forget"), valued))
    assert sure["forget_value_probability"] == pytest.approx(1.0)


def test_the_peers_floor_is_a_variant(data) -> None:
    found = values(measure(Memorization(roles=["retain"], floor=True), knowing(data, "forget"), data))
    assert found["retain_extraction_strength"] == pytest.approx(1 / 7)  # seven tokens, none of them known


def test_figures_depend_neither_on_batch_nor_on_order(data, holdout: str) -> None:
    loaded = worlds.llama(data)
    loaded.model.double()
    parts = {"a": Memorization(roles=["forget", "retain"]), "b": Membership(holdout=holdout)}

    def figures(corpus, size, order):
        some = {n: parts[n] for n in order}
        report = measure_parts(some, loaded, corpus, worlds.suite(batch_size=size), Report({}))
        assert not report.failures
        return {
            k: (m.value, m.n, m.ci_low, m.ci_high) for k, m in report.metrics.items() if m.value is not None
        }

    expected = figures(data, 64, "ab")
    turned = replace(data, examples=tuple(reversed(data.examples)))
    for corpus, size, order in ((data, 1, "ab"), (data, 7, "ba"), (turned, 64, "ab")):
        found = figures(corpus, size, order)
        assert found.keys() == expected.keys()
        for name, numbers in found.items():
            assert numbers[:2] == pytest.approx(expected[name][:2], abs=1e-9)
            if corpus is data:
                assert numbers == pytest.approx(expected[name], abs=1e-9)


def test_membership_tells_members_and_nothing_where_there_is_nothing(data, holdout: str) -> None:
    part = Membership(holdout=holdout)
    sure, blank = measure(part, knowing(data, "forget"), data), measure(part, knowing(data), data)
    both = measure(part, knowing(data, "forget", "other"), data)
    for attack in ATTACKS:
        assert sure.metrics[f"mia_{attack}_auc"].value == 1.0
        if attack != "zlib":  # its score depends on the text's length, whatever the model
            assert blank.metrics[f"mia_{attack}_auc"].value == pytest.approx(0.5)
            assert both.metrics[f"mia_{attack}_auc"].value == pytest.approx(0.5)
    assert sure.metrics["mia_reference_auc"].value is None and sure.metrics["privleak"].value is None
    assert any("mia_reference_auc" in n and "suite.reference" in n for n in sure.notes)


def test_privleak_and_the_reference_attack_read_the_retain_models_record(data, holdout: str) -> None:
    part = Membership(holdout=holdout)
    gold = measure(part, knowing(data), data).rows["part"]
    target = measure(part, knowing(data, "forget"), data, reference=gold)
    assert target.metrics["mia_reference_auc"].value == 1.0
    assert target.metrics["privleak"].value == pytest.approx(-100.0)
    same = measure(part, knowing(data), data, reference=gold)
    assert same.metrics["privleak"].value == pytest.approx(0.0)
    assert same.metrics["mia_reference_auc"].value == 0.5
    # a reference that remembers the forget set itself leaves nothing to compare with
    bad = measure(part, knowing(data, "forget"), data).rows["part"]
    report = measure(part, knowing(data), data, reference=bad)
    assert report.metrics["privleak"].value is None
    assert any("perfectly" in n for n in report.notes)


def test_gradient_norm(data, holdout: str) -> None:
    loaded = worlds.llama(data)
    model, made = loaded.model, loaded.renderer
    e = data.examples[0]
    pair = (made.prompt_ids(e.question), made.answer_ids(e.answer))
    ids = torch.tensor([[*pair[0], *pair[1]]])
    labels = ids.clone()
    labels[:, : len(pair[0])] = -100
    model(input_ids=ids, labels=labels).loss.backward()
    slow = sum(float((p.grad.double() ** 2).sum()) for p in model.parameters()) ** 0.5
    kept = [p.grad.clone() for p in model.parameters()]
    first = next(model.parameters()).requires_grad_(False)
    found = gradient_norms(model, [pair], made.pad_id)
    assert found == pytest.approx([slow], rel=1e-5)
    assert not first.requires_grad
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), kept, strict=True))
    report = measure(GradientNorm(holdout=holdout), loaded, data)
    assert 0 <= report.metrics["mia_gradient_norm_auc"].value <= 1


def test_gradient_norm_tells_a_model_that_learned_its_members(data, holdout: str) -> None:
    loaded = worlds.llama(data)
    made = loaded.renderer
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    pairs = [(made.prompt_ids(e.question), made.answer_ids(e.answer)) for e in data.facts("forget", "train")]
    from harmonize.evaluation.likelihood import target_log_probs

    for _ in range(60):
        optimizer.zero_grad()
        (-target_log_probs(loaded.model, pairs, made.pad_id).sum() / len(pairs)).backward()
        optimizer.step()
    part = measure(GradientNorm(holdout=holdout), loaded, data)
    assert part.metrics["mia_gradient_norm_auc"].value > 0.95
    untrained = measure(GradientNorm(holdout=holdout), worlds.llama(data), data)
    low, high = (getattr(untrained.metrics["mia_gradient_norm_auc"], f"ci_{e}") for e in ("low", "high"))
    assert low < 0.65 and high > 0.35


def test_gradient_norm_needs_weights(data, holdout: str) -> None:
    report = measure_parts(
        {"g": GradientNorm(holdout=holdout)},
        worlds.Scripted(data, worlds.truthful),
        data,
        worlds.suite(),
        Report({}),
    )
    assert report.metrics["mia_gradient_norm_auc"].value is None and not report.failures
    assert "does not lend them" in report.notes[0]


def test_holdout_files(tmp_path: Path) -> None:
    read_texts.cache_clear()
    both = write_rows(tmp_path / "x.jsonl", [{"text": "one two"}, {"question": "q", "answer": "a"}])
    assert [(t.text, t.question) for t in read_texts(str(both))] == [("one two", None), ("a", "q")]
    array = tmp_path / "array.json"
    array.write_text(json.dumps([{"question": "q", "answer": "a"}]))
    assert len(read_texts(str(array))) == 1
    with pytest.raises(DataError, match=r"empty.jsonl, line 1, field 'answer': is empty"):
        read_texts(str(write_rows(tmp_path / "empty.jsonl", [{"question": "q", "answer": ""}])))
    found = Membership(holdout=str(tmp_path / "no"), k=0, privleak_k=2).problems("suite.parts.m")
    assert len(found) == 3 and "no such file" in found[2]
    assert "~suite.parts.m" in Membership().problems("suite.parts.m")[0]
    assert GradientNorm(holdout=str(both), p=0.5).problems("x") == [
        "x.p=0.5: the order of a norm is at least 1. For example x.p=2."
    ]


def test_an_empty_answer_is_told(data) -> None:
    broken = replace(data, examples=(replace(data.examples[0], answer=" "), *data.examples[1:]))
    with pytest.raises(DataError, match="example 'forget-0': the answer is empty"):
        measure(Memorization(roles=["forget"]), knowing(data, "forget"), broken)


def test_a_role_without_facts_is_reported_as_such(data) -> None:
    report = measure(Memorization(roles=["neighbor"]), knowing(data), data)
    metric = report.metrics["neighbor_answer_probability"]
    assert (metric.value, metric.n) == (None, 0) and "no neighbor fact" in report.notes[0]


def test_settings_of_memorization() -> None:
    found = Memorization(roles=["forgot"], top=[0]).problems("suite.parts.m")
    assert "unknown role 'forgot'. Did you mean 'forget'?" in found[0] and "0 is no number" in found[1]


def test_fluency_reads_the_answers_that_were_given() -> None:
    corpus = worlds.corpus()
    good = worlds.Scripted(corpus, worlds.truthful)
    bad = worlds.Scripted(corpus, lambda asked: "red red red red red red red red")

    def shares(surface):
        axes = evaluate(surface, corpus, worlds.suite(), prefill=worlds.prefill())
        calls = len(surface.seen)
        report = measure_parts({"fluency": Fluency()}, surface, corpus, worlds.suite(), axes)
        assert len(surface.seen) == calls, "nothing more is generated"
        return values(report)

    fluent, stuck = shares(good), shares(bad)
    for role in ("forget", "neighbor", "retain"):
        assert fluent[f"{role}_gibberish_share"] == 0.0 and stuck[f"{role}_gibberish_share"] == 1.0
        assert stuck[f"{role}_ngram_entropy"] == 0.0 < fluent[f"{role}_ngram_entropy"]
        assert stuck[f"{role}_repetition"] == pytest.approx(5 / 6) and fluent[f"{role}_repetition"] == 0.0
    alone = measure_parts({"fluency": Fluency()}, good, corpus, worlds.suite(), Report({}))
    assert alone.metrics["forget_gibberish_share"].value is None and "suite.axes" in alone.notes[0]
