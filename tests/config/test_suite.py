"""What is wrong with a suite is told before a model loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmonize.config.compose import compose_config
from harmonize.config.suite_checks import AXES, VAL_AXES
from harmonize.errors import ConfigError


def problems(*overrides: str) -> str:
    with pytest.raises(ConfigError) as told:
        compose_config("evaluate", list(overrides))
    return str(told.value)


@pytest.mark.parametrize("name", ["tofu", "muse", "wmdp", "rwku", "xstest"])
def test_a_suite_without_its_data_is_refused(name: str) -> None:
    assert f"Type suite.parts.{name}.root=<folder>" in problems(f"suite={name}")
    text = problems(f"suite={name}", f"suite.parts.{name}.root=/no/where")
    assert f"suite.parts.{name}.root=/no/where: there is no such folder" in text


def test_lm_eval_is_told_its_tasks_and_files() -> None:
    assert "For example suite.parts.lm_eval.tasks=[mmlu,arc_easy]" in problems("suite=lm_eval")
    chosen = ["suite=lm_eval", "suite.parts.lm_eval.tasks=[arc_easy]"]
    text = problems(
        *chosen, "suite.parts.lm_eval.local.arc=/no/where", "suite.parts.lm_eval.backend=surfaces"
    )
    assert (
        "local.arc=/no/where: there is no such file or folder" in text and "Did you mean 'surface'?" in text
    )
    cfg = compose_config(
        "evaluate", [*chosen, "+suite.parts.lm_eval.local.piqa=.", "suite.parts.lm_eval.limit=5"]
    )
    assert dict(cfg.suite.parts.lm_eval.local)["piqa"] == "."


def test_tofu_reads_the_data_sets_own_folder(tmp_path: Path) -> None:
    data = ["dataset=tofu", f"dataset.root={tmp_path}", "dataset.forget_set=forget05"]
    model = ["model=hf", "model.name_or_path=.", "model.gold=null"]
    cfg = compose_config("evaluate", [*data, *model, "suite=tofu"])
    assert cfg.suite.parts.tofu.root == str(tmp_path) and cfg.suite.parts.tofu.forget_set == "forget05"


def test_every_axis_that_is_measured_may_be_named() -> None:
    cfg = compose_config("evaluate", [f"suite.axes=[{','.join(AXES)}]"])
    assert "leak" in cfg.suite.axes and set(VAL_AXES) < set(AXES)


def test_one_mistake_that_two_parts_share_is_told_once() -> None:
    assert problems("suite=membership").count("holdout is missing") == 1


def test_what_is_misspelt_is_told() -> None:
    text = problems("suite.axes=[forgot]", "suite.reference=/no/where")
    assert "unknown axis 'forgot'. Did you mean 'forget'?" in text
    assert "suite=five_axes has no parts that are compared with another model" in text
    text = problems(
        "suite=memorization", "suite.parts.memorization.roles=[forgot]", "suite.reference=/no/where"
    )
    assert "suite.parts.memorization.roles: unknown role 'forgot'" in text
    assert "suite.reference=/no/where: there is no such run folder" in text
    text = problems("suite=memorization", "+suite.parts.memorization.flor=true")
    assert "suite.parts.memorization.flor is no parameter" in text and "Did you mean 'floor'?" in text
    text = problems("+suite.parts.x._target_=harmonize.evaluation.scores.membership.VARIANCE_FLOOR")
    assert "suite.parts.x._target_" in text
    text = problems("+suite.parts.x._target_=collections.OrderedDict")
    assert "outside the packages that configs may call" in text
    text = problems("+suite.parts.x._target_=harmonize.data.records.Passage")
    assert "suite.parts.x.id is missing" in text
    text = problems("+suite.parts.x._target_=harmonize.data.corpus.content_hash")
    assert "is no part of a suite" in text
    assert "must be a mapping with _target_" in problems("+suite.parts.x=3")


def test_an_attack_needs_its_axis() -> None:
    text = problems("attack=paraphrase", "suite.axes=[forget]")
    assert "leaves out asr, the axis of attack.paraphrase" in text
    compose_config("evaluate", ["attack=paraphrase", "suite.axes=[forget,asr]"])


def test_a_sequence_needs_all_axes() -> None:
    with pytest.raises(ConfigError, match=r"suite.axes=\['forget'\].*Use suite.axes=null"):
        compose_config("sequence", ["dataset.requests=2", "suite.axes=[forget]"])


def test_a_part_can_be_left_out_and_added() -> None:
    cfg = compose_config("evaluate", ["suite=memorization", "~suite.parts.fluency"])
    assert list(cfg.suite.parts) == ["memorization"]
    cfg = compose_config(
        "unlearn", ["+suite.parts.fluency._target_=harmonize.evaluation.parts.fluency.Fluency"]
    )
    assert list(cfg.suite.parts) == ["fluency"]


def test_the_default_suite_has_no_parts() -> None:
    for name in ("five_axes", "quick"):
        suite = compose_config("evaluate", [f"suite={name}"]).suite
        assert not suite.parts and suite.axes is None and suite.reference is None
