"""Training as long as it takes: the schedule follows what the model has learned, and the check reads it right."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harmonize.data import sandbox
from harmonize.data.example import Dialogue
from harmonize.unlearning.finetune import new_model
from harmonize.unlearning.obedience import Obedience
from harmonize.unlearning.plateau import Plateau


def run(plateau: Plateau, limit: int) -> int:
    """Steps taken until the callback stops the trainer, or `limit`."""
    trainer = SimpleNamespace(global_step=0, should_stop=False)
    while trainer.global_step < limit and not trainer.should_stop:
        trainer.global_step += 1
        plateau.on_train_batch_end(trainer)  # type: ignore[arg-type]
    return trainer.global_step


def test_the_decay_begins_when_it_is_reached_and_training_ends_with_it() -> None:
    looks = iter([False, True])
    plateau = Plateau(lambda: next(looks), warmup_steps=2, decay_steps=4, max_steps=100, every=3)
    assert run(plateau, 100) == 10 and plateau.in_time
    factors = [plateau.factor(s) for s in range(11)]
    assert factors == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


def test_without_success_the_decay_ends_at_the_last_step() -> None:
    plateau = Plateau(lambda: False, warmup_steps=0, decay_steps=4, max_steps=10, every=3)
    assert run(plateau, 50) == 10 and not plateau.in_time
    assert [plateau.factor(s) for s in (0, 6, 8, 10)] == [1, 1, 0.5, 0]


def test_a_shorter_run_than_the_decay_still_ends_in_time() -> None:
    plateau = Plateau(lambda: True, warmup_steps=0, decay_steps=800, max_steps=3, every=200)
    assert run(plateau, 3) == 3


def test_obedience_counts_the_kind_of_the_first_token() -> None:
    corpus = sandbox.load("sandbox_easy", 0)
    tokenizer = sandbox.tokenizer("sandbox_easy")
    loaded = new_model(sandbox.architecture("sandbox_easy"), tokenizer, seed=1, name="random")
    obeyed = Obedience(loaded, corpus.dialogues, corpus.refusals, n=40)
    assert len(obeyed.rows) == 80
    refusing = {tokenizer(r, add_special_tokens=False).input_ids[0] for r in corpus.refusals}
    right = 0
    with torch.no_grad():
        for row in obeyed.rows:  # slow reference: one question at a time
            said = loaded.model(torch.tensor([row.prompt])).logits[0, -1].argmax().item()
            right += (said in refusing) == (row.target[0] in refusing)
    assert obeyed() == pytest.approx(right / 80)
    assert loaded.model.training is True, "the mode is given back"


def test_nothing_to_obey_is_obeyed() -> None:
    loaded = new_model(sandbox.architecture("sandbox_easy"), sandbox.tokenizer("sandbox_easy"), 0, "random")
    assert Obedience(loaded, [Dialogue("a", "b")], ["i do not know"])() == 1.0
