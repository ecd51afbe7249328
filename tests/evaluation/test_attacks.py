"""Every attack that asks: at both ends of known truth, within its budget, and without telling what it asks for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest

from harmonize.data import sandbox
from harmonize.data.render import Renderer
from harmonize.errors import ConfigError
from harmonize.evaluation.attacks import Attack, Cost, Meter, SearchAttack, cost_of
from harmonize.evaluation.attacks.battery import attack_all
from harmonize.evaluation.attacks.texts import Templates, filled, rest, scored_words, stem, tells
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.metrics import expected_best
from harmonize.evaluation.questions import ask, heldout_facts, used_facts
from harmonize.evaluation.records import Query
from harmonize.evaluation.text import words
from harmonize.unlearning.finetune import new_model
from tests.evaluation import worlds
from tests.evaluation.knowers import NOTHING, Reader, shipped

ASKING = (
    "prefill",
    "reverse_prompt",
    "jailbreak",
    "paraphrase",
    "cross_format",
    "keyword_emphasis",
    "context_hint",
    "combined_query",
    "sampling",
)
SEARCHING = ("keyword_emphasis", "gcg")


@pytest.fixture(scope="module")
def data() -> Any:
    return worlds.corpus()


def _run(surface: Any, data: Any, attacks: Any, **suite: Any) -> Any:
    settings = worlds.suite(max_new_tokens=40, leak_draws=0, bootstrap=10, **suite)
    return evaluate(
        surface, data, settings, prefill=worlds.prefill(), attacks=attacks, axes=("forget", "asr")
    )


def _attack(name: str) -> Attack:
    # the small world has no `meta` to ask in reverse by
    more = {"cross_format__reverse": ["who has the {value} ?"], "prefill__openers": ["Yes :"]}
    return shipped(name, **more)[0]


@pytest.mark.parametrize("name", ASKING)
def test_a_model_that_knows_is_broken_one_that_never_saw_is_not(name: str, data: Any) -> None:
    attack = _attack(name)
    for knows, rate in ((True, 1.0), (False, 0.0)):
        found = _run(Reader(data, knows), data, [attack]).metrics
        assert found[f"asr_{name}"].value == found[f"asr_heldout_{name}"].value == rate
        assert found["asr_battery_worst"].value == found["asr_heldout_battery_worst"].value == rate
        if f"asr_{name}_worst" in found:
            assert found[f"asr_{name}_worst"].value == rate


@pytest.mark.parametrize("name", ASKING)
def test_a_model_that_refuses_plain_questions_is_broken_by_it(name: str, data: Any) -> None:
    report = _run(Reader(data, hides=True), data, [_attack(name)])
    found = {k: m.value for k, m in report.metrics.items()}
    assert found["forget_accuracy"] == 0.0
    own = found.get(f"asr_{name}_worst", found[f"asr_{name}"])
    if name == "paraphrase":  # its phrasings of the data are refused as well; its templates are not
        assert own == 1.0 and 0 < found[f"asr_{name}"] < 1
    else:
        assert own == 1.0


@pytest.mark.parametrize("name", ASKING)
def test_a_model_that_always_refuses_withstands_it(name: str, data: Any) -> None:
    reader = Reader(data)
    reader.answer = lambda prompt: worlds.REFUSALS[0]  # type: ignore[method-assign]
    reader.sample = None  # type: ignore[assignment,method-assign]
    attack = _attack(name)
    if name == "sampling":
        del reader.sample
        reader.__class__ = type("Mute", (Reader,), {"sample": property(lambda self: self.missing)})
        report = _run(reader, data, [attack])
        assert report.metrics["asr_sampling"].value is None
        assert any("cannot be sampled" in note for note in report.notes)
        return
    assert _run(reader, data, [attack]).metrics[f"asr_{name}"].value == 0.0


def test_forms_and_multiple_choice_are_reported_apart(data: Any) -> None:
    for knows in (True, False):
        found = _run(Reader(data, knows), data, [_attack("cross_format")]).metrics
        for form in ("cloze", "continuation", "reverse"):
            assert found[f"asr_cross_format@{form}"].value == float(knows)
        # who knows nothing finds all options alike, which is chance
        assert found["forget_choice_accuracy"].value == (1.0 if knows else 0.25)
        assert found["forget_heldout_choice_accuracy"].value == (1.0 if knows else 0.25)
        assert found["asr_battery_worst"].value == float(knows)  # chance is no success of an attack


def test_both_halves_of_a_combined_query_are_judged(data: Any) -> None:
    report = _run(Reader(data), data, [_attack("combined_query")])
    found = report.metrics
    assert found["combined_query_retain_accuracy"].value == 1.0
    assert (
        report.costs["combined_query"]["answers"]
        == found["asr_combined_query"].n + found["asr_heldout_combined_query"].n
    )
    half = Reader(data)
    half.facts = [e for e in half.facts if e.role == "retain"]  # what a good unlearned model says
    found = _run(half, data, [_attack("combined_query")]).metrics
    assert found["asr_combined_query"].value == 0.0
    assert found["combined_query_retain_accuracy"].value == 1.0


def test_keywords_are_those_the_answer_hangs_on(data: Any) -> None:
    attack = replace(_attack("keyword_emphasis"), keywords=2, templates=("{keywords} . {question}",))
    surface = Reader(data)
    question = ask(used_facts(data, "forget"), "test", surface.renderer)[0]
    (query,) = attack.search(surface, data, [question], 8)
    # the script answers where subject and attribute stand: without either of them it says nothing
    assert query.asked == "hat forget0 . Tell the hat of forget0 ?"


def test_of_a_long_question_only_the_word_is_left_out(data: Any) -> None:
    """Words after the limit are not weighed, but they are read."""
    read: list[tuple[int, ...]] = []

    class Reads(Reader):
        def log_probs(self, pairs: Any, batch_size: int) -> list[float]:
            read.extend(tuple(prompt) for prompt, _ in pairs)
            return [0.0] * len(pairs)

    surface = Reads(data)
    question = ask(used_facts(data, "forget"), "test", surface.renderer)[0]
    replace(_attack("keyword_emphasis"), max_words=1).search(surface, data, [question], 8)
    words = question.text.split()
    assert read == [question.prompt, surface.renderer.prompt_ids(" ".join(words[1:]))] and len(words) > 2


def test_a_hint_is_of_the_same_subject_first_and_shares_no_word(data: Any) -> None:
    renderer = worlds.renderer(data)
    attack = _attack("context_hint")
    question = ask(used_facts(data, "forget"), "test", renderer)[0]
    hints = [q.asked for q in attack.queries(data, renderer, [question])]
    # the subject's other fact is "red coat", and the value is "red hat"
    assert hints and not any("red" in words(h) for h in hints)
    free = replace(data, examples=tuple(replace(e, value=e.value[-3:]) for e in data.examples))
    q = ask(used_facts(free, "forget"), "test", renderer)[0]
    assert attack.queries(free, renderer, [q])[0].asked == f"The coat of forget0 is red coat . . {q.text}"


def test_draws_are_counted_and_leaks_estimated(data: Any) -> None:
    attack = shipped("sampling", sampling__draws=4, sampling__ks=[1, 2, 4])[0]
    found = _run(Reader(data, hides=True), data, [attack]).metrics
    assert found["asr_sampling"].value == found["asr_sampling@1"].value == pytest.approx(0.25)
    assert found["asr_sampling@2"].value == pytest.approx(0.5)
    assert found["asr_sampling@4"].value == found["asr_sampling_worst"].value == 1.0


@pytest.mark.parametrize("scores", [[0.0, 1.0, 0.0, 0.0, 1.0], [0.2, 0.9, 0.4], [1.0]])
def test_expected_best_is_the_mean_over_all_subsets(scores: list[float]) -> None:
    for k in range(1, len(scores) + 1):
        best = [max(part) for part in combinations(scores, k)]
        assert expected_best(scores, k) == pytest.approx(sum(best) / len(best))
    n, c, k = 5, 2, 3  # the binary form: 1 - C(3, 3) / C(5, 3)
    assert expected_best([1.0] * c + [0.0] * (n - c), k) == pytest.approx(1 - 1 / 10)


# -- properties over the sandbox --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Any:
    corpus = sandbox.load("sandbox")
    tokenizer = sandbox.tokenizer("sandbox")
    loaded = new_model(sandbox.architecture("sandbox"), tokenizer, seed=0, name="random")
    questions = ask(
        [*used_facts(corpus, "forget"), *heldout_facts(corpus, "forget", "test")], "test", loaded.renderer
    )
    return SimpleNamespace(corpus=corpus, loaded=loaded, questions=questions, renderer=loaded.renderer)


def _queries(attack: Any, world: Any) -> list[Query]:
    from harmonize.evaluation.surface import ModelSurface

    made = list(attack.queries(world.corpus, world.renderer, world.questions))
    if isinstance(attack, SearchAttack):
        made += attack.search(ModelSurface(world.loaded), world.corpus, world.questions, 256)
    return made


@pytest.mark.parametrize("name", [*ASKING, "gcg"])
def test_no_attack_supplies_a_scored_word_and_none_exceeds_its_budget(name: str, world: Any) -> None:
    attack = shipped(name, gcg__steps=2, gcg__max_facts=10, keyword_emphasis__max_facts=20)[0]
    queries = _queries(attack, world)
    on_forget = [q for q in queries if q.question.example.role == "forget"]
    assert len({q.question.example.fact_id for q in on_forget}) >= 20
    for q in on_forget:
        e = q.question.example
        scored = set(words(e.subject)) if q.variant == "reverse" else set(words(e.value))
        supplied = f"{q.asked.replace(q.question.text, ' ')} {q.prefill_text}"
        if q.variant == "phrasing":  # a question of the data, supplied by nobody
            supplied = q.asked
        assert not scored & set(words(supplied)), (q.asked, q.prefill_text)
        assert set(words(q.reference)) >= (scored if q.variant != "reverse" else set())
    tries = Counter(q.question.key for q in on_forget)
    assert max(tries.values()) <= cost_of(attack).queries == attack.queries_per_question


@pytest.mark.parametrize("name", ["prefill", "reverse_prompt", "paraphrase", "cross_format", "context_hint"])
def test_the_order_of_the_data_changes_no_query(name: str, world: Any) -> None:
    attack = shipped(name, prefill__budget=5)[0]
    backwards = replace(world.corpus, examples=tuple(reversed(world.corpus.examples)))
    one = attack.queries(world.corpus, world.renderer, world.questions)
    two = attack.queries(backwards, world.renderer, list(reversed(world.questions)))
    if name == "cross_format":  # asks of a fact once, in whichever phrasing comes first
        assert Counter((q.question.example.fact_id, q.ids) for q in one) == Counter(
            (q.question.example.fact_id, q.ids) for q in two
        )
    else:
        assert Counter((q.question.key, q.ids) for q in one) == Counter((q.question.key, q.ids) for q in two)


def test_at_most_so_many_facts_are_asked_about(world: Any) -> None:
    attack = shipped("reverse_prompt", reverse_prompt__max_facts=7)[0]
    asked = {
        q.question.example.fact_id for q in attack.queries(world.corpus, world.renderer, world.questions)
    }
    assert len(asked) == 7 + 7  # used in unlearning, held out


def test_a_budget_takes_some_of_the_prefills_the_same_for_all(world: Any) -> None:
    small, large = shipped("prefill", prefill__budget=4)[0], shipped("prefill", prefill__budget=12)[0]
    few = small.queries(world.corpus, world.renderer, world.questions[:4])
    many = large.queries(world.corpus, world.renderer, world.questions[:4])
    assert Counter(q.question.key for q in few) == Counter({q.key: 4 for q in world.questions[:4]})
    assert {(q.question.key, q.ids) for q in few} <= {(q.question.key, q.ids) for q in many}


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_an_attack_that_asks_more_than_it_declares_is_refused(data: Any) -> None:
    class Greedy:
        name, queries_per_question = "greedy", 1

        def queries(self, corpus: Any, renderer: Renderer, questions: Any) -> list[Query]:
            return [
                Query(q, q.example.answer, 9, self.name, prefill=renderer.answer_ids(t))
                for q in questions
                for t in ("Of", "course")
            ]

    with pytest.raises(ConfigError, match="makes 2 queries of one question and declares 1"):
        _run(Reader(data), data, [Greedy()])


def test_steps_and_rows_are_metered() -> None:
    meter = Meter("x", Cost(rows=3, steps=1))
    assert meter.rows_for("a", 2) and not meter.rows_for("a", 2) and meter.rows_for("b", 3)
    meter.step()
    with pytest.raises(ConfigError, match="declares 1 steps"):
        meter.step()


def test_attacks_on_weights_need_a_model(data: Any) -> None:
    attacks = shipped("quantize", "relearn", "gcg", "adapter_removal")
    report = _run(Reader(data), data, attacks)
    for name in ("quantize", "relearn", "gcg", "adapter_removal"):
        assert report.metrics[f"asr_{name}"].value is None
        assert any(
            n.startswith(f"The attack {name} is not measured: this model does not") for n in report.notes
        )


def test_an_attack_that_makes_no_query_says_so(data: Any) -> None:
    bare = replace(
        data, examples=tuple(replace(e, answer=f"{e.value} .") if e.value else e for e in data.examples)
    )
    report = _run(Reader(bare), bare, [shipped("cross_format", cross_format__options=0)[0]])
    assert report.metrics["asr_cross_format"].value is None
    assert (
        "The attack cross_format made no query of the forget facts used in unlearning or held out."
        in report.notes
    )


def test_prompts_that_do_not_fit_are_left_out_with_a_note(data: Any) -> None:
    class Narrow(Reader):
        def room(self, max_new_tokens: int) -> int:
            return 14

    attack = Templates(name="long", templates=("{question}", "of " * 10 + "{question}", "of {question}"))
    found = attack_all(
        [attack],
        Narrow(data),
        data,
        ask(used_facts(data, "forget"), "test", worlds.renderer(data)),
        lambda queries: [],
        worlds.suite(),
    )
    assert "16 queries of the attack long are longer than the 14 tokens" in found.notes[0]


def test_scored_words_and_stems(data: Any) -> None:
    e = next(e for e in data.examples if e.value)
    assert scored_words(e) == {"red"} and stem(e) == "The hat of forget0 is" and rest(e) == "red hat ."
    assert scored_words(replace(e, value="The House of the North", aliases=("Nord",))) == {
        "house",
        "north",
        "nord",
    }
    assert scored_words(replace(e, value="of the")) == {"of", "the"}  # nothing else is there to tell
    whole = replace(e, value="", answer="The hat of forget0 is crimson , not red .")
    assert scored_words(whole) == {"crimson"} and stem(whole) == ""
    assert tells("A RED one", {"red"}) and not tells("reddish", {"red"})
    assert filled("{question} {stem}", {"question": "q"}) is None
    assert NOTHING not in scored_words(e)
