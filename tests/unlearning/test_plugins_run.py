"""Whole runs with a combiner, a controller, a weighter and a sampler other than the default ones."""

from __future__ import annotations

from pathlib import Path

from harmonize.tracking.loggers import read_metrics
from tests.unlearning.test_run import Run, harmonize, shelf  # noqa: F401  (fixtures)


def test_everything_but_the_defaults(harmonize: Run) -> None:  # noqa: F811
    overrides = [
        "method=grad_diff",
        "gradient=blur",
        "controller=dual_ascent",
        "+controller.constraints.keep={limit: 0.1, rate: 0.5}",
        "weighter=guard",
        "sampler=cyclic",
        "trainer.cosines_every_n_steps=2",
        "trainer.accumulate_grad_batches=2",
        "trainer.val_check_interval=0",
        "teacher.report=false",
        "save_model=false",
    ]
    status, folder, said = harmonize(*overrides)
    assert status == 0, said
    logged: dict[str, list[float]] = {}
    for _, name, value in read_metrics(Path(folder) / "metrics.csv"):
        logged.setdefault(name, []).append(value)
    rising = logged["weight/keep"]
    assert len(rising) == 6 and rising[0] == 1.0 and rising == sorted(set(rising))
    assert len(logged["gradient/cosine/forget|retain"]) == 6
    assert len(logged["cosine/forget/forget|keep/retain"]) == 3
    assert len(logged["cosine/keep/neighbor|keep/retain"]) == 3


def test_modular_data_without_subjects_is_told(harmonize: Run) -> None:  # noqa: F811
    status, _, said = harmonize(
        "method=grad_diff", "sampler=modular", "trainer.val_check_interval=0", job="modular"
    )
    assert status != 0 and "sampler=balanced" in said and "Traceback" not in said
