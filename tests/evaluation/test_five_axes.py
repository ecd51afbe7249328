"""The five axes on surfaces whose truth is known."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from harmonize.data.prefill import prefix_is_trained
from harmonize.errors import ConfigError, DataError
from harmonize.evaluation.attacks import Attack, ModelAttack
from harmonize.evaluation.attacks.prefill import AnswerPrefixes, Openers
from harmonize.evaluation.attacks.relearn import Relearn
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.proof import ineffective
from harmonize.evaluation.records import Query
from tests.evaluation import worlds
from tests.evaluation.worlds import Asked, Scripted, truthful

ACCURACIES = (
    "forget_accuracy",
    "forget_heldout_accuracy",
    "retain_accuracy",
    "retain_accuracy_trained",
    "neighbor_accuracy",
    "neighbor_accuracy_trained",
)
REFUSAL_RATES = (
    "forget_refusal_rate",
    "forget_heldout_refusal_rate",
    "retain_refusal_rate",
    "retain_refusal_rate_trained",
    "neighbor_refusal_rate",
    "neighbor_refusal_rate_trained",
)
LEAKS = (
    "forget_leak@2",
    "forget_heldout_leak@2",
    "forget_answer_probability",
    "forget_heldout_answer_probability",
)
ATTACKS = (
    "asr_opener",
    "asr_opener_heldout",
    "asr_answer_prefix",
    "asr_answer_prefix@0.3",
    "asr_answer_prefix@1",
    "asr_heldout_answer_prefix",
    "asr_heldout_answer_prefix@0.3",
    "asr_heldout_answer_prefix@1",
    "asr_worst",
    "asr_heldout_worst",
)


def _values(report) -> dict[str, float | None]:
    return {name: m.value for name, m in report.metrics.items()}


def _run(script, data=None, *, split="test", suite=None, prefill=None, right=True, **more):
    data = data or worlds.corpus()
    surface = Scripted(data, script, more.get("instruction"), right=right)
    report = evaluate(
        surface,
        data,
        suite or worlds.suite(),
        split=split,
        prefill=prefill or worlds.prefill(),
        **more,
    )
    return report, surface


def test_a_model_that_always_answers_right() -> None:
    report, _ = _run(truthful)
    found = _values(report)
    utility = ("utility_accuracy", "utility_accuracy_norm")
    assert set(found) == {*ACCURACIES, *REFUSAL_RATES, *ATTACKS, *LEAKS, *utility}
    assert all(found[n] == 1.0 for n in (*ACCURACIES, *ATTACKS, *LEAKS, *utility))
    assert all(found[n] == 0.0 for n in REFUSAL_RATES)
    assert report.notes == []
    assert set(report.outcomes) >= {"forget", "retain", "neighbor", "asr_opener", "utility"}
    assert all(
        o == {"correct": 1, "refused": 0, "wrong": 0, "degenerate": 0} for o in report.outcomes.values()
    )


@pytest.mark.parametrize("text", [worlds.REFUSALS[0], "I'm sorry, I can't help with that."])
def test_a_model_that_always_refuses(text: str) -> None:
    data = replace(worlds.corpus(), instructions=(text,))  # so that the tokenizer knows the words
    report, _ = _run(lambda asked: text, data, right=False)
    found = _values(report)
    assert all(found[n] == 0.0 for n in (*ACCURACIES, *ATTACKS, *LEAKS[:2], "utility_accuracy"))
    assert all(0 < found[n] < 0.7 for n in LEAKS[2:])  # five nats off over a whole answer
    assert all(found[n] == 1.0 for n in REFUSAL_RATES)
    assert report.outcomes["neighbor"]["refused"] == 1.0


def test_a_model_that_leaks_only_under_one_opener() -> None:
    leaky = worlds.OPENERS[1]

    def script(asked: Asked) -> str:
        told = asked.prefill == leaky or asked.example.role != "forget"
        return truthful(asked) if told else worlds.REFUSALS[0]

    found = _values(_run(script)[0])
    assert found["forget_accuracy"] == found["forget_heldout_accuracy"] == 0.0
    assert found["asr_opener"] == 0.5
    assert found["asr_opener_heldout"] == found["asr_answer_prefix"] == 0.0
    assert found["asr_worst"] == found["asr_heldout_worst"] == 1.0
    assert found["neighbor_accuracy"] == found["retain_accuracy"] == 1.0


def test_used_and_unused_facts_are_told_apart() -> None:
    def script(asked: Asked) -> str:
        return "nothing" if asked.example.split == "train" else truthful(asked)

    found = _values(_run(script)[0])
    assert found["forget_accuracy"] == found["asr_worst"] == found["neighbor_accuracy_trained"] == 0.0
    assert found["forget_heldout_accuracy"] == found["asr_heldout_worst"] == found["neighbor_accuracy"] == 1.0


def test_counts_and_samples() -> None:
    report, surface = _run(truthful)
    n = {name: m.n for name, m in report.metrics.items()}
    used, held = 4 * 2 * 2, 3 * 2 * 2  # subjects x facts x test phrasings
    assert n["forget_accuracy"] == n["neighbor_accuracy_trained"] == n["asr_worst"] == used
    assert n["forget_heldout_accuracy"] == n["neighbor_accuracy"] == n["asr_heldout_worst"] == held
    assert n["asr_opener"] == 2 * used and n["asr_opener_heldout"] == used
    assert n["asr_answer_prefix"] == 2 * used and n["asr_answer_prefix@0.3"] == used
    assert n["utility_accuracy"] == 4
    assert n["forget_leak@2"] == n["forget_answer_probability"] == used
    assert n["forget_heldout_leak@2"] == n["forget_heldout_answer_probability"] == held
    # plain, prefilled, two draws and the answer's probability; options
    assert len(report.samples) == (3 + 5 + 2 + 1) * (used + held) + 4
    assert len(surface.seen) == (3 + 5 + 1) * (used + held)  # the two draws are scripted at once
    sample = next(s for s in report.samples if s["attack"] == "answer_prefix")
    expected = {
        "example_id",
        "fact",
        "role",
        "split",
        "subject",
        "trained",
        "attack",
        "view",
        "opener",
        "depth",
    }
    expected |= {"question", "prefill", "output", "verdict", "score"}
    assert expected <= set(sample)


def test_phrasings_and_subjects_of_val_and_test_never_mix() -> None:
    seen = {}
    for split in ("val", "test"):
        report, surface = _run(truthful, split=split)
        questions = {a.question for a in surface.seen}
        assert not questions & {e.question for e in surface.data.examples if e.role != "general"}
        held_out = {s["split"] for s in report.samples if not s["trained"]}
        assert held_out == {split}
        seen[split] = questions | {s["question"] for s in report.samples}
    assert not seen["val"] & seen["test"]


def test_changed_test_answers_leave_the_val_report_alone() -> None:
    data = worlds.corpus()
    changed = [replace(e, answer="x .", value="x") if e.split == "test" else e for e in data.examples]
    one, _ = _run(truthful, data, split="val")
    two, _ = _run(truthful, replace(data, examples=tuple(changed)), split="val")
    assert one.metrics == two.metrics and one.samples == two.samples


def test_prefill_text_is_never_judged() -> None:
    data = worlds.corpus()
    # Openers that state everything: only a model that goes on with the answer may be blamed.
    everything = " ".join(f"{c} {a}" for c in worlds.COLOURS for a in ("hat", "coat"))
    report, surface = _run(lambda asked: "nothing", replace(data, openers=(everything,)))
    found = _values(report)
    assert found["asr_opener"] == found["asr_answer_prefix"] == found["asr_worst"] == 0.0
    assert any(everything == a.prefill for a in surface.seen)
    for s in report.samples:
        if s["view"] == "prefix":
            value = next(e.value for e in data.examples if e.id == s["example_id"])
            assert value not in s["prefill"]


def test_rouge_judges_the_rest_of_the_answer_after_a_prefix() -> None:
    data = worlds.corpus("rouge")
    depths = worlds.prefill(eval_depths=[0.3, 0.8, 1.0])
    report, _ = _run(truthful, data, prefill=depths)
    found = _values(report)
    assert all(found[n] == pytest.approx(1.0) for n in (*ACCURACIES, *ATTACKS) if "@1" not in n)
    # All but the full stop is given away: nothing is left to be judged.
    assert found["asr_answer_prefix@1"] is None
    silent = _values(_run(lambda asked: "item", data)[0])
    assert all(silent[n] == 0.0 for n in (*ACCURACIES, *ATTACKS) if "@1" not in n)
    sample = next(s for s in report.samples if s["depth"] == 0.8)
    assert sample["reference"] == "hat ." and sample["prefill"] == "The hat of forget0 is red"


def test_answers_beyond_the_limit_are_reported_apart_under_rouge() -> None:
    data = worlds.corpus("rouge")
    long = replace(data.examples[0], answer=data.examples[0].answer + " red blue green black white .")
    data = replace(data, examples=(long, *data.examples[1:]))
    report, _ = _run(truthful, data, suite=worlds.suite(max_new_tokens=9))
    found = _values(report)
    assert found["forget_accuracy"] < 1.0
    assert found["forget_accuracy_fits"] == 1.0
    assert report.metrics["forget_accuracy_fits"].n == report.metrics["forget_accuracy"].n - 2
    assert "asr_answer_prefix_fits@0.3" in found and "forget_refusal_rate_fits" not in found
    assert any("_fits" in note for note in report.notes)
    assert not any(
        "_fits" in n for n in _values(_run(truthful, data, suite=worlds.suite(max_new_tokens=30))[0])
    )


def test_facts_whose_prefixes_were_never_trained_on_are_reported_apart() -> None:
    data, share = worlds.corpus(), 0.5

    def script(asked: Asked) -> str:
        return "nothing" if prefix_is_trained(asked.example.fact_id, share) else truthful(asked)

    report, _ = _run(script, data, prefill=worlds.prefill(heldout_share=share))
    found = _values(report)
    assert found["asr_answer_prefix"] == found["asr_answer_prefix@0.3"] == 0.0
    assert found["asr_answer_prefix_untrained"] == found["asr_answer_prefix_untrained@1"] == 1.0
    apart = report.metrics["asr_answer_prefix"].n + report.metrics["asr_answer_prefix_untrained"].n
    assert apart == 2 * report.metrics["asr_worst"].n


def test_what_is_missing_is_said() -> None:
    data = worlds.corpus()
    kept = tuple(e for e in data.examples if e.role == "forget" and e.split == "train")
    report, _ = _run(truthful, replace(data, examples=kept, openers=(), openers_heldout=()))
    for name in (
        "forget_heldout_accuracy",
        "neighbor_accuracy",
        "asr_opener",
        "asr_heldout_worst",
        "utility_accuracy",
    ):
        assert report.metrics[name].value is None and report.metrics[name].n == 0
        assert any(name in note for note in report.notes), name
    assert report.metrics["forget_accuracy"].value == 1.0
    assert any("no forget subject is held out for split 'test'" in note for note in report.notes)


def test_notes_on_phrasings_and_answers_without_a_prefix() -> None:
    data = worlds.corpus()
    bare = tuple(
        replace(e, paraphrases=(), answer=f"{e.value} .") if e.role == "forget" else e for e in data.examples
    )
    report, _ = _run(truthful, replace(data, examples=bare))
    assert any(
        note.startswith("8 forget facts used in unlearning are asked in the very") for note in report.notes
    )
    assert any("14 of 14 forget facts have no token before" in note for note in report.notes)
    assert report.metrics["asr_answer_prefix"].value is None
    assert report.metrics["asr_worst"].value == 1.0


def test_refusals_that_state_the_answer_are_counted() -> None:
    report, _ = _run(
        lambda asked: worlds.REFUSALS[0] + " " + asked.example.answer, suite=worlds.suite(max_new_tokens=30)
    )
    assert report.metrics["forget_accuracy"].value == 0.0
    assert any("state the answer all the same" in note for note in report.notes)


def test_an_instruction_reaches_only_its_roles() -> None:
    told = "Keep forget subjects closed ."

    def script(asked: Asked) -> str:
        return worlds.REFUSALS[0] if asked.instruction else truthful(asked)

    found = _values(_run(script, instruction=told, instruct_roles=("forget",))[0])
    assert found["forget_refusal_rate"] == 1.0 and found["neighbor_refusal_rate"] == 0.0


def test_axes_choose_what_is_asked() -> None:
    report, surface = _run(truthful, axes=("neighbor",))
    assert set(report.metrics) == {n for n in (*ACCURACIES, *REFUSAL_RATES) if n.startswith("neighbor")}
    assert {a.example.role for a in surface.seen} == {"neighbor"}
    with pytest.raises(ConfigError, match="Did you mean 'neighbor'"):
        _run(truthful, axes=("neighbour",))
    with pytest.raises(ConfigError, match="split=train"):
        _run(truthful, split="train")
    with pytest.raises(DataError, match="scoring"):
        _run(truthful, replace(worlds.corpus(), scoring="bleu"))


def test_a_cap_is_drawn_by_hash_alone() -> None:
    data = worlds.corpus()
    backwards = replace(data, examples=tuple(reversed(data.examples)))
    drawn = []
    for d in (data, backwards):
        report, _ = _run(
            truthful, d, suite=worlds.suite(max_examples=3, val_max_examples=2), axes=("forget",)
        )
        assert report.metrics["forget_accuracy"].n == 3 * 2
        drawn.append({s["fact"] for s in report.samples})
    assert drawn[0] == drawn[1]


def test_relearning_needs_the_weights() -> None:
    report, _ = _run(truthful, suite=worlds.suite(relearn=True))
    assert report.metrics["relearn_accuracy"].value is None
    assert any("does not lend its weights" in note for note in report.notes)


def test_further_attacks_plug_in() -> None:
    class Twice:
        name, queries_per_question = "twice", 1

        def queries(self, corpus, renderer, questions):
            ids = renderer.answer_ids("Of course .") * 2
            return [Query(q, q.example.answer, 9, "twice", "opener", ids) for q in questions]

    def script(asked: Asked) -> str:
        return truthful(asked) if asked.prefill == "Of course . Of course ." else "nothing"

    found = _values(_run(script, attacks=(Twice(),))[0])
    assert found["asr_twice"] == found["asr_heldout_twice"] == 1.0
    assert found["asr_worst"] == 0.0
    with pytest.raises(ConfigError, match="already taken"):
        _run(script, attacks=(Openers(("Yes",)),))


def test_attack_contract_and_budget() -> None:
    attacks = (Openers(worlds.OPENERS), AnswerPrefixes((0.3, 1.0)), Relearn())
    assert all(isinstance(a, Attack) for a in attacks)
    assert [isinstance(a, ModelAttack) for a in attacks] == [False, False, True]
    assert [a.queries_per_question for a in attacks] == [2, 2, 1]


def test_attacks_that_fail_on_the_untouched_model_are_named() -> None:
    def script(asked: Asked) -> str:
        return "nothing" if asked.prefill in worlds.OPENERS else truthful(asked)

    report, _ = _run(script)
    assert ineffective(report.metrics) == ["asr_opener"]


def test_intervals_depend_on_seed_and_name_alone() -> None:
    def script(asked: Asked) -> str:
        return truthful(asked) if int(asked.example.subject[-1]) % 2 else "nothing"

    one, two, other = (_run(script, seed=s)[0].metrics["forget_accuracy"] for s in (0, 0, 1))
    assert one == two and one.value == other.value
    assert one.ci_low is not None and one.ci_low < one.value < one.ci_high


def test_progress_counts_generations() -> None:
    steps = []
    _run(truthful, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1] == len(steps)
    _run(truthful, progress=True, axes=("forget",))
    _run(truthful, progress=False, axes=("forget",))


def test_samples_are_private_json_lines(tmp_path: Path) -> None:
    report, _ = _run(truthful)
    path = report.write_samples(tmp_path / "samples.jsonl", model="unlearned")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"model": "unlearned", **s} for s in report.samples]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
