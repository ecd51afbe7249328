"""Every metric of the axes and every attack at every known end; what is added without one fails here."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harmonize.config.paths import conf_dir
from harmonize.config.suite_checks import AXES
from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.five_axes_metrics import specs
from tests.evaluation import worlds
from tests.evaluation.knowers import shipped, trained
from tests.evaluation.test_attacks import ASKING
from tests.evaluation.test_attacks_weights import WEIGHTS
from tests.evaluation.worlds import Asked, Scripted, truthful

NEVER = "nothing of the kind"
FAR = -100.0


class Known(Scripted):
    """A scripted model whose log-probabilities follow its script: sure of what it says, far from anything else."""

    def log_probs(self, pairs: Any, batch_size: int) -> list[float]:
        found = []
        for prompt, option in pairs:
            example, text, told = self._prompts[tuple(prompt)]
            said = self.script(Asked(example, text, "", told))
            if example.choices:
                best = self.renderer.answer_ids(example.choices[example.answer_index or 0])
                # a model that refuses finds no option likelier than another
                knows = said == example.answer
                found.append(0.0 if knows and tuple(option) == best else FAR)
            else:
                found.append(0.0 if tuple(option) == self.renderer.answer_ids(said) else FAR)
        return found


def gold(asked: Asked) -> str:
    """Never saw the forget set."""
    return NEVER if asked.example.role == "forget" else truthful(asked)


# Metric to its value for a model that memorised everything, one that never saw the forget set, and one that always
# refuses. Ties of four options share the point.
TRUTH: dict[str, tuple[float, float, float]] = {
    **{f"forget{h}_accuracy": (1, 0, 0) for h in ("", "_heldout")},
    **{f"forget{h}_refusal_rate": (0, 0, 1) for h in ("", "_heldout")},
    **{f"forget{h}_leak@2": (1, 0, 0) for h in ("", "_heldout")},
    **{f"forget{h}_answer_probability": (1, 0, 0) for h in ("", "_heldout")},
    **{f"{r}_accuracy{t}": (1, 1, 0) for r in ("retain", "neighbor") for t in ("", "_trained")},
    **{f"{r}_refusal_rate{t}": (0, 0, 1) for r in ("retain", "neighbor") for t in ("", "_trained")},
    **{f"asr_{a}": (1, 0, 0) for a in ("opener", "opener_heldout", "worst", "heldout_worst")},
    **{f"asr_{h}answer_prefix{d}": (1, 0, 0) for h in ("", "heldout_") for d in ("", "@0.3", "@1")},
    "utility_accuracy": (1, 1, 0.25),
    "utility_accuracy_norm": (1, 1, 0.25),
}
# of trained models: tests/evaluation/test_models.py, test_attacks_weights.py
ELSEWHERE = {"relearn_accuracy"}


def test_the_table_has_every_metric_of_the_axes() -> None:
    names = {s.name for s in specs(AXES, depths=(0.3, 1.0), leak_draws=2)}
    assert names == {*TRUTH, *ELSEWHERE}


@pytest.mark.parametrize("end", range(3), ids=["memorised", "never saw", "refuses"])
def test_every_metric_at_every_end(end: int) -> None:
    data = worlds.corpus()
    script = (truthful, gold, lambda asked: worlds.REFUSALS[0])[end]
    report = evaluate(Known(data, script), data, worlds.suite(), prefill=worlds.prefill())
    found = {name: m.value for name, m in report.metrics.items()}
    assert found == pytest.approx({name: ends[end] for name, ends in TRUTH.items()}, abs=1e-5)


def test_every_attack_is_tested_at_both_ends() -> None:
    shipped_ones = {p.stem for p in (conf_dir() / "attack").glob("*.yaml")} - {"battery", "suite"}
    assert shipped_ones == {*ASKING, *WEIGHTS, "adapter_removal"}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("knows", [True, False])
def test_a_shipped_adapter_hides_what_the_base_knows_and_nothing_else(knows: bool) -> None:
    """With the adapter both say nothing; without it one tells everything, and one that never saw it still nothing."""
    from peft import LoraConfig, get_peft_model

    data, base = worlds.corpus(), copy.deepcopy(trained(knows))
    model = get_peft_model(base.model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"])).eval()
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, 0, 0.7)
    suite = worlds.suite(bootstrap=2)
    report = evaluate(
        SimpleNamespace(model=model, renderer=base.renderer),
        data,
        suite,
        prefill=worlds.prefill(),
        axes=("forget", "asr"),
        attacks=shipped("adapter_removal"),
    )
    # nine colours: who never saw one guesses it now and then
    rate = report.metrics["asr_adapter_removal"].value
    assert rate == 1.0 if knows else rate is not None and rate <= 0.3
