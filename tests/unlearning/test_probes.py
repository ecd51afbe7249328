"""Probes on the way: when they ask, what they report, and that training does not notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harmonize.errors import ConfigError
from harmonize.tracking.loggers import read_metrics
from harmonize.tracking.results import read_run
from harmonize.unlearning.probes import AxisProbes
from tests.unlearning.test_run import harmonize, losses, shelf

__all__ = ["harmonize", "shelf"]  # fixtures

Run = Callable[..., tuple[int, Path, str]]


def _walk(probes: AxisProbes, steps: range) -> None:
    trainer: Any = SimpleNamespace(global_step=steps.start)
    module: Any = None
    probes.on_train_start(trainer, module)
    for step in range(steps.start + 1, steps.stop + 1):
        trainer.global_step = step
        probes.on_train_batch_end(trainer, module)
    probes.on_train_end(trainer, module)


def test_a_dip_between_two_looks_is_seen() -> None:
    curve = {0: 1.0, 4: 0.9, 8: 0.3, 12: 0.8, 14: 0.85}
    asked: list[tuple[int, Sequence[str]]] = []
    logged: list[tuple[dict[str, float], int]] = []
    values = iter(curve.values())

    def probe(questions: int, axes: Sequence[str]) -> dict[str, float]:
        asked.append((questions, axes))
        return {"utility_accuracy": next(values)}

    probes = AxisProbes(
        probe, lambda m, s: logged.append((m, s)), every_n_steps=4, questions=3, axes=["utility"], window=4
    )
    _walk(probes, range(0, 14))
    assert asked == [(3, ("utility",))] * 5
    assert [(m["probe/utility_accuracy"], s) for m, s in logged] == [(v, s) for s, v in curve.items()]
    found = probes.report()["metrics"]["utility_accuracy"]
    assert (found["minimum"], found["minimum_step"], found["final"]) == (0.3, 8, 0.85)
    assert found["drop"] == pytest.approx(0.6) and found["recovery"] == pytest.approx(0.55)


def test_a_resumed_run_goes_on_with_its_points() -> None:
    probes = AxisProbes(lambda n, a: {"utility_accuracy": 1.0}, every_n_steps=2)
    _walk(probes, range(0, 4))
    again = AxisProbes(lambda n, a: {"utility_accuracy": 0.5}, every_n_steps=2)
    again.load_state_dict(probes.state_dict())
    _walk(again, range(4, 6))
    assert [(p["step"], p["utility_accuracy"]) for p in again.history] == [(0, 1), (2, 1), (4, 1), (6, 0.5)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"axes": ["utilty"]}, "Did you mean 'utility'?"),
        ({"window": True}, "window"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        AxisProbes(lambda n, a: {}, **settings)


def test_probes_report_and_training_does_not_notice(harmonize: Run) -> None:
    status, plain, output = harmonize(job="plain")
    assert status == 0, output
    status, folder, output = harmonize(
        "callbacks=probes", "callbacks.probes.every_n_steps=2", "callbacks.probes.questions=1", job="probed"
    )
    assert status == 0, output
    assert losses(folder) == losses(plain)
    extra = read_run(folder).results.extra
    report = extra["callbacks"]["probes"]
    assert [p["step"] for p in report["points"]] == [0, 2, 4, 6]
    assert {"forget_accuracy", "retain_accuracy", "utility_accuracy"} <= set(report["metrics"])
    assert "On the way (probes)" in output and "recovery" in output
    assert "probe/utility_accuracy" in {name for _, name, _ in read_metrics(folder / "metrics.csv")}
    assert extra["selection"]["stability"]["forget_accuracy"]["points"] == 3, "the target and two looks"
    strata = extra["prior_strength"]["forget_accuracy"]
    assert (
        len(strata) == 4
        and sum(s["n"] for s in strata) == read_run(folder).results.metrics["forget_accuracy"].n
    )
    assert all("prior" in s for s in read_run(folder).samples() if s["role"] == "forget")
    assert "By prior strength" in output
