"""Every method: a committed loss trajectory, forward passes counted, LoRA and full training.

After an intended change of a loss: `python -m tests.unlearning.test_methods` writes the trajectories anew.
"""

from __future__ import annotations

import json
import math
import tempfile
from functools import cache
from pathlib import Path

import pytest

from harmonize.reporting.catalogue import option
from tests.unlearning.toy_methods import METHODS, TRAINED, UNTRAINED, Trained, method_config, train

TRAJECTORIES = Path(__file__).resolve().parents[1] / "references" / "trajectories.json"
STEPS = 20
EACH = pytest.mark.parametrize("name", TRAINED)


@cache
def full(name: str) -> Trained:
    """All weights trained, or adapters where a term reads them."""
    with tempfile.TemporaryDirectory() as folder:
        return train(name, Path(folder), STEPS)


@EACH
def test_the_loss_follows_the_committed_trajectory(name: str) -> None:
    committed = json.loads(TRAJECTORIES.read_text())[name]
    found = full(name).terms
    assert found.keys() == committed.keys()
    for term, values in committed.items():
        # by the scale of the term itself: some begin at 0, some are tiny throughout
        assert found[term] == pytest.approx(values, rel=1e-3, abs=1e-3 * max(map(abs, values))), term


def test_every_trajectory_belongs_to_a_method() -> None:
    assert sorted(json.loads(TRAJECTORIES.read_text())) == TRAINED


def test_methods_without_a_trajectory_train_nothing() -> None:
    assert set(UNTRAINED) < set(METHODS)
    for name in METHODS:
        config = method_config(name)
        assert (config["objectives"] == config["response"] == {}) == (name in UNTRAINED), name


@EACH
def test_one_student_forward_a_step_and_no_frozen_one(name: str) -> None:
    found, said = full(name), option("method", name).costs
    assert (found.student, found.frozen) == (STEPS * said.student, 0)
    assert (found.before > 0) == (said.frozen > 0)


@EACH
def test_full_training_moves_the_weights(name: str) -> None:
    assert full(name).moved and all(map(math.isfinite, full(name).losses))


@EACH
def test_adapters_train_and_the_frozen_model_is_the_base(name: str, tmp_path: Path) -> None:
    found = train(name, tmp_path, 2, lora=True)
    assert found.moved and (found.student, found.frozen) == (2, 0)
    # adapters start as the identity, so the first loss is that of full training
    assert found.losses[0] == pytest.approx(full(name).losses[0], rel=1e-4, abs=1e-5)


@EACH
def test_without_a_cache_as_many_frozen_forwards_as_the_documentation_says(name: str, tmp_path: Path) -> None:
    found, said = train(name, tmp_path, 3, mode="none"), option("method", name).costs
    assert (found.student, found.frozen) == (3 * said.student, 3 * said.frozen)
    assert found.losses == pytest.approx(full(name).losses[:3], rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["npo", "bidirectional"])
def test_a_second_run_finds_its_caches(name: str, tmp_path: Path) -> None:
    first, second = train(name, tmp_path, 1), train(name, tmp_path, 1)
    assert first.before > 0 and second.before == 0 and first.losses == second.losses


if __name__ == "__main__":
    found: dict[str, dict[str, list[float]]] = {}
    for method in TRAINED:
        found[method] = {t: [float(f"{v:.6g}") for v in values] for t, values in full(method).terms.items()}
        blocks = []
        for name, terms in found.items():
            lines = [f"  {json.dumps(t)}: {json.dumps(values)}" for t, values in terms.items()]
            blocks.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
        TRAJECTORIES.write_text("{\n" + ",\n".join(blocks) + "\n}\n")
