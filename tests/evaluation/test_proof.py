"""What counts as proof."""

from __future__ import annotations

import pytest

from harmonize.evaluation.proof import ineffective, proof_notes
from harmonize.tracking.metric import Metric


def rates(**values: float | None) -> dict[str, Metric]:
    return {name: Metric(value, 10, None, None, False) for name, value in values.items()}


def test_what_the_untouched_model_withstands_is_named() -> None:
    found = rates(asr_prune=0.49, asr_opener=0.5, asr_noise=None, forget_accuracy=0.0)
    assert ineffective(found) == ["asr_prune"]
    assert ineffective(found, ["forget_accuracy", "asr_unknown"]) == ["forget_accuracy"]
    assert ineffective(None) == []


@pytest.mark.parametrize(("rate", "told"), [(0.4, True), (0.5, False)])
def test_a_low_figure_proves_nothing_where_the_target_has_one(rate: float, told: bool) -> None:
    notes = proof_notes(rates(asr_prune=0.0), rates(asr_prune=rate))
    assert any("prove nothing: asr_prune." in n for n in notes) == told


def test_a_low_figure_proves_nothing_where_the_target_was_not_measured() -> None:
    (note,) = proof_notes(rates(asr_prune=0.0, asr_noise=0.9), None)
    assert "nothing yet (asr_prune)" in note and "target=<folder" in note
    assert proof_notes(rates(asr_noise=0.9), None) == []  # it works on this very model
