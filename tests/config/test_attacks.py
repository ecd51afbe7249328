"""The group `attack`: chosen one by one, several at once, all at once; mistakes are told before a model loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmonize.commands.ls import options
from harmonize.config.attack_checks import chosen
from harmonize.config.compose import compose_config
from harmonize.config.instantiate import call
from harmonize.config.paths import conf_dir
from harmonize.errors import ConfigError
from harmonize.evaluation.attacks import Attack, Cost, cost_of
from harmonize.evaluation.attacks.battery import attack_specs

OF_THE_ISSUE = (
    "prefill reverse_prompt jailbreak paraphrase cross_format keyword_emphasis context_hint combined_query relearn "
    "quantize prune noise adapter_removal sampling gcg"
).split()


def test_the_battery_is_every_attack() -> None:
    files = {p.stem for p in (conf_dir() / "attack").glob("*.yaml")} - {"suite", "battery"}
    assert files == set(OF_THE_ISSUE) == set(chosen(compose_config("evaluate", ["attack=battery"])))
    assert chosen(compose_config("evaluate")) == {}


@pytest.mark.parametrize("name", OF_THE_ISSUE)
def test_every_attack_declares_what_it_costs_and_shows(name: str) -> None:
    cfg = compose_config("unlearn", [f"attack={name}"])
    attack = call(cfg.attack[name])
    assert isinstance(attack, Attack) and attack.name == name
    cost = cost_of(attack)
    assert isinstance(cost, Cost) and cost.queries == attack.queries_per_question >= 1
    assert cost.access in ("queries", "log_probs", "weights")
    metrics = {spec.name for spec in attack_specs([attack], ())}
    assert {f"asr_{name}", f"asr_heldout_{name}", "asr_battery_worst", "asr_heldout_battery_worst"} <= metrics
    assert (f"asr_{name}_worst" in metrics) == (cost.queries > 1)


def test_they_are_listed_with_what_they_do() -> None:
    listed = dict(options("attacks"))
    assert {*OF_THE_ISSUE, "suite", "battery"} == set(listed) and all(listed.values())


def test_several_attacks_at_once_and_one_left_out() -> None:
    cfg = compose_config("unlearn", ["attack=[prefill,relearn]", "attack.relearn.steps=[3]"])
    assert list(cfg.attack) == ["prefill", "relearn"] and list(cfg.attack.relearn.steps) == [3]
    assert cfg.attack.relearn.lr == cfg.suite.relearn_lr
    cfg = compose_config("evaluate", ["attack=battery", "~attack.gcg", "suite.relearn_lr=1e-5"])
    assert "gcg" not in cfg.attack and cfg.attack.relearn.lr == 1e-5


def test_an_adapter_that_is_merged_cannot_be_taken_off() -> None:
    for overrides, merged in (([], True), (["peft.merge=false"], False)):
        cfg = compose_config("unlearn", ["attack=adapter_removal", *overrides])
        assert call(cfg.attack.adapter_removal).merged is merged
    assert call(compose_config("evaluate", ["attack=adapter_removal"]).attack.adapter_removal).merged is False


def test_an_attack_of_ones_own_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "polite.yaml").write_text(
        "# @package attack.polite\n"
        "# Says please.\n"
        "_target_: harmonize.evaluation.attacks.texts.Templates\n"
        "name: polite\n"
        "templates: ['please , {question}']\n"
    )
    cfg = compose_config("evaluate", ["attack=[polite,prune]"], config_dirs=[tmp_path])
    assert call(cfg.attack.polite).name == "polite" and "prune" in cfg.attack


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["attack=prefil"], "Did you mean attack=prefill?"),
        (["attack=prefill", "attack.prefill.depths=[2]"], "2 is outside (0, 1]"),
        (["attack=prefill", "attack.prefill.lengths=[0]"], "0 is no number of tokens"),
        (["attack=prefill", "attack.prefill.budget=0"], "attack.prefill.budget=0: expected a whole number"),
        (
            ["attack=prefill", "attack.prefill.depths=0.5"],
            "expected a list. For example attack.prefill.depths=[0.5]",
        ),
        (["attack=jailbreak", "attack.jailbreak.templates=['hello']"], "lacks {question}"),
        (
            ["attack=jailbreak", "attack.jailbreak.templates=['{question} {sbject}']"],
            "Did you mean 'subject'?",
        ),
        (
            ["attack=jailbreak", "attack.jailbreak.templates=['{question']"],
            "Write {question} for the question",
        ),
        (
            ["attack=jailbreak", "attack.jailbreak.templates=['{} {question}']"],
            "a field without a plain name",
        ),
        (["attack=jailbreak", "+attack.jailbreak.temperature=1"], "temperature is no parameter"),
        (["attack=cross_format", "attack.cross_format.reverse=['who is it ?']"], "lacks {value}"),
        (["attack=context_hint", "attack.context_hint.roles=[general]"], "unknown role 'general'"),
        (["attack=quantize", "attack.quantize.bits=[16]"], "16 is not between 2 and 8"),
        (["attack=prune", "attack.prune.shares=[1.5]"], "expected a share from 0 to 1"),
        (["attack=noise", "attack.noise.scales=[0]"], "expected a number above 0"),
        (["attack=sampling", "attack.sampling.ks=[99]"], "99 is not between 1 and draws=16"),
        (["attack=relearn", "attack.relearn.sources=[retain]"], "attack.relearn.sources"),
        (["attack=relearn", "attack.relearn.steps=[]"], "expected whole numbers of at least 1"),
        (["attack=relearn", "attack.relearn.lr=-1"], "attack.relearn.lr=-1: expected a number above 0"),
        (["attack=gcg", "attack.gcg.steps=many"], "attack.gcg.steps=many: expected a whole number"),
        (["attack=adapter_removal", "attack.adapter_removal.merged=maybe"], "expected true or false"),
        (
            ["attack=[jailbreak,reverse_prompt]", "attack.jailbreak.name=reverse_prompt"],
            "Two attacks are called",
        ),
        (["suite.leak_draws=-1"], "suite.leak_draws=-1"),
        (["suite.leak_temperature=0"], "suite.leak_temperature=0.0: expected a number above 0"),
        (["target=no/such"], "target=no/such: there is no such folder"),
        (["target=sandbox:tarket"], "Did you mean 'sandbox:target'?"),
    ],
)
def test_mistakes_are_told_with_what_mends_them(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config("evaluate", overrides)
    assert any(words in problem for problem in caught.value.problems), caught.value.problems
    assert len(caught.value.problems) == 1
