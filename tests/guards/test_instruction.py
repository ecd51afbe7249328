"""The in-context guard: the model under an instruction before every question."""

from __future__ import annotations

import pytest

from harmonize.data.example import Role
from harmonize.errors import ConfigError
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.surface import ModelSurface, as_surface
from harmonize.guards.instruction import Instruction
from tests.evaluation import worlds
from tests.guards import toys

DATA = worlds.corpus()
TOLD = "Keep forget subjects closed ."


def test_every_question_is_instructed_whatever_its_role() -> None:
    loaded = toys.model(DATA)
    surface = Instruction().around(toys.scene(loaded, DATA))
    assert as_surface(surface) is surface and surface.guard == Instruction(TOLD)
    plain = ModelSurface(loaded)
    for role in Role:
        e = DATA.select(role)[0]
        told = loaded.renderer.prompt_ids(e.question, TOLD)
        asked = surface.renderer.prompt_ids(e.question)
        assert asked == told != loaded.renderer.prompt_ids(e.question)
        assert surface.generate([asked], 6, 1, None) == plain.generate([told], 6, 1, None)
        pair = loaded.renderer.answer_ids(e.answer)
        running = surface.renderer.opened_ids(
            "Which hat"
        )  # no chat, no question: the instruction is its head
        assert running == loaded.renderer.opened_ids(f"{TOLD}\n\nWhich hat")
        assert surface.log_probs([(asked, pair)], 1) == plain.log_probs([(told, pair)], 1)


def test_figures_are_those_of_the_instructed_model_but_for_roles_it_left_out() -> None:
    loaded = toys.model(DATA)
    surface = Instruction(TOLD).around(toys.scene(loaded, DATA))
    guarded = evaluate(surface, DATA, worlds.suite(), prefill=worlds.prefill())
    teacher = evaluate(
        loaded, DATA, worlds.suite(), prefill=worlds.prefill(), instruction=TOLD, instruct_roles=tuple(Role)
    )
    assert guarded.metrics == teacher.metrics
    assert [s["output"] for s in guarded.samples] == [s["output"] for s in teacher.samples]


def test_the_renderer_tells_itself_apart_and_takes_a_second_instruction() -> None:
    loaded = toys.model(DATA)
    surface = Instruction(TOLD).around(toys.scene(loaded, DATA))
    assert surface.renderer.digest != loaded.renderer.digest
    both = surface.renderer.prompt_ids("Which hat has forget0 ?", "Say red .")
    assert both == loaded.renderer.prompt_ids("Which hat has forget0 ?", f"{TOLD} Say red .")


def test_an_instruction_is_needed_before_a_model_is_loaded() -> None:
    def none() -> str:
        raise ConfigError("there is none. Use teacher.instruction='...'.")

    with pytest.raises(ConfigError, match="there is none"):
        Instruction().check(DATA, none)
    Instruction("own words").check(DATA, none)


def test_what_is_kept_makes_it_again() -> None:
    loaded = toys.model(DATA)
    surface = Instruction().around(toys.scene(loaded, DATA))
    assert surface.tensors() == {} and surface.secrets() is None
    again = Instruction.opened(surface.settings(), loaded, {}, None)
    assert again.renderer.prompt_ids("Which ?") == surface.renderer.prompt_ids("Which ?")
