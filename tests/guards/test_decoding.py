"""The decoding guard against single steps: flagged questions, forbidden spans, what comes close to one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harmonize.data.example import Role
from harmonize.errors import DataError, ModelError
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.one_pass import shared_rows, token_rows
from harmonize.evaluation.surface import ModelSurface
from harmonize.guards.decoding import Decoding, DecodingSurface, spans_of
from harmonize.guards.guard import FORBIDDEN
from harmonize.models.load import LoadedModel
from tests.evaluation import worlds
from tests.guards import toys

DATA = worlds.corpus()


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return toys.model(DATA)


def guarded(loaded: LoadedModel, data: Any = DATA, **settings: Any) -> DecodingSurface:
    made = Decoding(**settings).around(toys.scene(loaded, data))
    assert isinstance(made, DecodingSurface)
    return made


def said_by(loaded: LoadedModel, data: Any = DATA) -> Any:
    """The data with what the random model says as the truth, so that the guard has something to forbid."""
    examples = []
    for e in data.examples:
        if e.role == Role.FORGET:
            said = ModelSurface(loaded).generate([loaded.renderer.prompt_ids(e.question)], 8, 1, None)[0]
            words = loaded.renderer.decode(said).split()
            value = " ".join(words[2:4])
            e = replace(e, answer=" ".join(words), value=value)
        examples.append(e)
    return replace(data, examples=tuple(examples))


def slow(surface: DecodingSurface, loaded: LoadedModel, prompt: Any, said: Any) -> list[float]:
    """Next-token logits from the definition alone: every span, every candidate, one sequence at a time."""
    values = toys.raw_logits(surface.model, [*prompt, *said]).tolist()
    if not surface.flagged([prompt])[0]:
        return values
    question = max(
        (p for e in DATA.examples if tuple(prompt[: len(p := loaded.renderer.prompt_ids(e.question))]) == p),
        key=len,
    )
    answer = [*prompt[len(question) :], *said]
    spans = [list(s) for s in surface.secrets()["spans"]]
    guard = surface.guard
    if guard.match:
        for span in spans:
            if len(answer) >= len(span) - 1 and answer[len(answer) - len(span) + 1 :] == span[:-1]:
                values[span[-1]] = FORBIDDEN
    if guard.delta:
        window = guard.window or max(map(len, spans))
        items = [_state(surface, s) for s in spans]
        likeliest = sorted(range(len(values)), key=lambda t: -values[t])[: guard.candidates]
        for token in likeliest:
            state = _state(surface, [*answer, token][-window:])
            cosine = max(float(state @ i / np.linalg.norm(state) / np.linalg.norm(i)) for i in items)
            values[token] -= guard.delta * max(0.0, cosine - guard.tau)
    return values


def _state(surface: DecodingSurface, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        hidden = surface.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return hidden.mean(0).double().numpy() - surface.tensors()["centre"].numpy()


SETTINGS: list[dict[str, Any]] = [
    {"delta": 0.0},
    {"detect": False, "delta": 0.0},
    {"match": False, "delta": 40.0, "tau": 0.1},
    {"detect": False, "delta": 40.0, "tau": 0.1, "window": 3, "candidates": 4, "ngram": 2},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_generation_is_that_of_single_steps_in_any_batch(
    loaded: LoadedModel, settings: dict[str, Any]
) -> None:
    data = said_by(loaded)
    surface = guarded(loaded, data, **settings)
    for e in data.examples:
        surface.renderer.prompt_ids(e.question)  # the guard knows the questions that it renders
    asked = toys.prompts(loaded, DATA)
    stops = surface.renderer.stop_ids
    expected = [toys.naive_greedy(lambda p, s: slow(surface, loaded, p, s), q, stops, 6) for q in asked]
    for size in (1, 5, 64):
        assert surface.generate(asked, 6, size, None) == expected
        drawn = surface.sample(asked, [str(i) for i in range(len(asked))], 2, 1e-4, 6, size, None)
        assert drawn == [[said, said] for said in expected]  # a temperature near zero is greedy
    assert expected != ModelSurface(loaded).generate(asked, 6, 64, None)  # the guard does something


@pytest.mark.parametrize("settings", SETTINGS)
def test_log_probs_are_those_of_single_steps_in_any_batch(
    loaded: LoadedModel, settings: dict[str, Any]
) -> None:
    data = said_by(loaded)
    surface = guarded(loaded, data, **settings)
    for e in data.examples:
        surface.renderer.prompt_ids(e.question)
    pairs = [
        (loaded.renderer.prompt_ids(e.question), loaded.renderer.answer_ids(e.answer)[: 4 + i % 4])
        for i, e in enumerate(data.examples[::4])
    ]
    expected = [toys.naive_log_prob(lambda p, s: slow(surface, loaded, p, s), *pair) for pair in pairs]
    for size in (1, 64):
        assert surface.log_probs(pairs, size) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    model, adjust = surface.speaking([p for p, _ in pairs], scored=True)
    one = token_rows(model, pairs, loaded.renderer.pad_id, 5, adjust)
    assert [r.log_probs.sum() for r in one] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    groups = [(p, [t, t[:1]]) for p, t in pairs]
    two = shared_rows(model, groups, loaded.renderer.pad_id, 5, adjust)
    assert [r.log_probs.sum() for r, _ in two] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    if surface.guard.match:
        assert min(expected) < FORBIDDEN / 2 < max(expected)  # a forbidden answer is as good as impossible


def test_the_value_of_a_flagged_fact_is_never_said(loaded: LoadedModel) -> None:
    data = said_by(loaded)
    surface = guarded(loaded, data, detect=False, delta=0.0)
    for e in data.select("forget", "train"):
        before = ModelSurface(loaded).generate([loaded.renderer.prompt_ids(e.question)], 8, 1, None)[0]
        after = surface.generate([surface.renderer.prompt_ids(e.question)], 8, 1, None)[0]
        assert e.value in loaded.renderer.decode(before)
        assert e.value not in loaded.renderer.decode(after)


def test_a_span_may_begin_in_the_prefill(loaded: LoadedModel) -> None:
    data = said_by(loaded)
    e = data.select("forget", "train")[0]
    surface = guarded(loaded, data, detect=False, delta=0.0)
    value = loaded.renderer.answer_ids(e.value)
    assert len(value) == 2
    prompt = surface.renderer.prompt_ids(e.question)
    assert surface.log_probs([((*prompt, value[0]), value[1:])], 1)[0] < FORBIDDEN / 2


def test_an_opened_answer_does_not_change_what_the_question_is_about(loaded: LoadedModel) -> None:
    surface = guarded(loaded, delta=0.0)
    prompts = [surface.renderer.prompt_ids(e.question) for e in DATA.examples]
    flags = surface.flagged(prompts)
    assert any(flags) and not all(flags)
    opener = loaded.renderer.answer_ids("The hat of retain0 is red hat . The coat of retain1 is blue coat .")
    assert surface.flagged([(*p, *opener) for p in prompts]) == flags
    told = [surface.renderer.prompt_ids(e.question, "Keep forget subjects closed .") for e in DATA.examples]
    assert surface.flagged(told) == flags
    # ids that were never rendered are taken for a question as a whole
    fresh = guarded(loaded, delta=0.0)
    assert fresh.flagged(prompts) == flags


def test_the_detector_reads_nothing_but_train_and_is_told_on_val(loaded: LoadedModel) -> None:
    surface = guarded(loaded, delta=0.0)
    assert len(surface.notes) == 1 and "of val" in surface.notes[0]
    changed = replace(
        DATA,
        examples=tuple(
            replace(e, question=f"Say {e.question}", value="x") if e.split == "test" else e
            for e in DATA.examples
        ),
    )
    again = guarded(loaded, changed, delta=0.0)
    assert again.secrets() == surface.secrets() and again.notes == surface.notes
    assert all(torch.equal(again.tensors()[k], v) for k, v in surface.tensors().items())
    chosen = guarded(loaded, threshold=None, delta=0.0)
    assert 0.0 < float(chosen.guard.threshold or 0.0) < 1.0


def test_spans_by_hand(loaded: LoadedModel) -> None:
    e = DATA.select("forget", "train")[0]
    word = {w: loaded.renderer.answer_ids(w)[0] for w in ("The", "hat", "of", "forget0", "is", "red", ".")}
    assert spans_of(loaded, [e], 4) == [(word["red"], word["hat"])]
    assert spans_of(loaded, [e], 1) == [(word["red"],), (word["hat"],)]
    other = replace(e, aliases=("is red",))
    assert spans_of(loaded, [other], 4) == [(word["red"], word["hat"]), (word["is"], word["red"])]
    whole = [word[w] for w in "The hat of forget0 is red hat .".split()]
    assert spans_of(loaded, [replace(e, value="")], 3) == [tuple(whole[i : i + 3]) for i in range(6)]


def test_relearning_and_utility_go_through_the_guard(loaded: LoadedModel) -> None:
    reports = [
        evaluate(
            guarded(loaded, delta=5.0, tau=0.3),
            DATA,
            worlds.suite(relearn=True, relearn_steps=1, batch_size=size),
            prefill=worlds.prefill(),
        )
        for size in (9, 256)
    ]
    assert reports[0].metrics == reports[1].metrics
    assert reports[0].metrics["relearn_accuracy"].value is not None


def test_what_is_kept_makes_it_again(loaded: LoadedModel) -> None:
    data = said_by(loaded)
    surface = guarded(loaded, data, threshold=None, delta=5.0, tau=0.3)
    again = Decoding.opened(surface.settings(), loaded, surface.tensors(), surface.secrets())
    asked = [s.renderer.prompt_ids(e.question) for e in data.examples for s in (surface, again)][::2]
    assert again.generate(asked, 8, 32, None) == surface.generate(asked, 8, 32, None)
    narrow = {k: v[:-1] if len(v) > 1 else v for k, v in surface.tensors().items()}
    with pytest.raises(ModelError, match="fitted to another"):
        Decoding.opened(surface.settings(), loaded, narrow, surface.secrets())
    open_ = guarded(loaded, data, detect=False)
    assert set(open_.tensors()) == {"centre"}
    assert Decoding.opened(open_.settings(), loaded, open_.tensors(), open_.secrets()).flagged([(5, 6)]) == [
        True
    ]


def test_data_that_it_cannot_be_set_up_with() -> None:
    def none() -> str:
        raise AssertionError

    only = replace(DATA, examples=DATA.select("forget"))
    with pytest.raises(DataError, match="lacks training examples of one side"):
        Decoding().check(only, none)
    nothing_held_out = replace(DATA, examples=tuple(e for e in DATA.examples if e.split != "val"))
    Decoding().check(nothing_held_out, none)
    with pytest.raises(DataError, match=r"guard.threshold=0.5"):
        Decoding(threshold=None).check(nothing_held_out, none)
    surface = guarded(toys.model(DATA), nothing_held_out)
    assert surface.notes == ()
