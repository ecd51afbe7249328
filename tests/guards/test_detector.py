"""The detector of forget questions: against plain formulas, thresholds by hand, found again by content."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from harmonize.guards import detector as room
from harmonize.guards.detector import STATES, best_threshold, detector_of, fit_detector, prompt_states
from tests.evaluation import worlds
from tests.guards import toys

DATA = worlds.corpus()
RENDERER = worlds.renderer(DATA)
FORGET = [RENDERER.prompt_ids(e.question) for e in DATA.select("forget", "train")]
OTHERS = [RENDERER.prompt_ids(e.question) for e in DATA.select("retain", "train")]


def test_probabilities_are_those_of_the_standardised_line() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(40, 5)) * [1, 2, 3, 0, 1] + 1
    labels = [int(v > 1) for v in x[:, 0]]
    found = fit_detector(x, labels, 1.0)
    for row, chance in zip(x[:5], found(x[:5]), strict=True):
        z = found.bias[0]
        for j in range(5):
            column = [float(v) for v in x[:, j]]
            mean = sum(column) / 40
            spread = math.sqrt(sum((v - mean) ** 2 for v in column) / 40)
            z += found.weight[j] * (row[j] - mean) / (spread or 1.0)
        assert chance == pytest.approx(1 / (1 + math.exp(-z)))
    assert np.mean((found(x) >= 0.5) == np.array(labels)) > 0.9


def test_thresholds_by_hand() -> None:
    # apart: the middle of the gap
    assert best_threshold(np.array([0.9, 0.7]), np.array([0.1, 0.3])) == pytest.approx(0.5)
    # one of the others lies among the forget questions: 0.65 costs half of a recall, 0.35 a third
    assert best_threshold(np.array([0.8, 0.5]), np.array([0.1, 0.2, 0.6])) == pytest.approx(0.35)
    # everything is flagged where nothing can be told
    assert 0.0 < best_threshold(np.array([0.4]), np.array([0.4])) < 1.0


@pytest.mark.parametrize("states", STATES)
def test_states_are_means_over_the_prompt_without_its_beginning(states: str) -> None:
    loaded = toys.model(DATA)
    bos = int(loaded.tokenizer.bos_token_id)
    prompts = [*FORGET[:3], (bos, *FORGET[3]), (bos,)]
    found = prompt_states(loaded, prompts, states)
    for prompt, state in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            hidden = loaded.model.model(input_ids=ids).last_hidden_state[0]
            embedded = loaded.model.get_input_embeddings()(ids)[0]
        own = {"final": hidden, "embeddings": embedded}[states]
        first = int(len(prompt) > 1 and prompt[0] == bos)
        assert np.allclose(state, own[first:].mean(0).numpy(), atol=1e-5)


def test_a_fit_is_found_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = toys.model(DATA)
    first = detector_of(loaded, FORGET, OTHERS, "final", 1.0, tmp_path)
    assert next(tmp_path.rglob("weight.npy")).stat().st_mode & 0o077 == 0
    calls: list[int] = []
    slow = room.prompt_states
    monkeypatch.setattr(room, "prompt_states", lambda *a: calls.append(1) or slow(*a))
    again = detector_of(loaded, FORGET, OTHERS, "final", 1.0, tmp_path)
    assert not calls and all(np.array_equal(vars(first)[k], vars(again)[k]) for k in vars(first))
    detector_of(loaded, FORGET, OTHERS, "final", 2.0, tmp_path)
    detector_of(loaded, FORGET[1:], OTHERS, "final", 1.0, tmp_path)
    detector_of(loaded, FORGET, OTHERS, "embeddings", 1.0, tmp_path)
    detector_of(loaded, FORGET, OTHERS, "final", 1.0, None)
    assert len(calls) == 4
    with torch.no_grad():  # trained since: another model, though `loaded.digest` was taken before
        next(loaded.model.parameters()).add_(0.01)
    other = detector_of(loaded, FORGET, OTHERS, "final", 1.0, tmp_path)
    assert len(calls) == 5 and not np.array_equal(other.weight, first.weight)


def test_a_damaged_fit_is_made_again(tmp_path: Path) -> None:
    loaded = toys.model(DATA)
    first = detector_of(loaded, FORGET, OTHERS, "final", 1.0, tmp_path)
    next(tmp_path.rglob("weight.npy")).write_bytes(b"nothing")
    again = detector_of(loaded, FORGET, OTHERS, "final", 1.0, tmp_path)
    assert np.array_equal(first.weight, again.weight)
