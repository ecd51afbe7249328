"""Beginnings that are read once: which prompts share one, and that sharing changes nothing that is computed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from harmonize.models.prefix import SharedPrefix, alike
from harmonize.models.teacher import TeacherRequest
from tests.models.test_teacher import build
from tests.models.tiny import V, tiny


def told(prefix: int, count: int = 5, rest: int = 6) -> list[TeacherRequest]:
    draw = torch.Generator().manual_seed(prefix)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, V, (n,), generator=draw).tolist())

    first = ids(prefix)
    return [TeacherRequest(f"e{i}", "forget", (*first, *ids(rest - i % 3)), ids(3 + i)) for i in range(count)]


def test_groups_by_hand() -> None:
    a, b = tuple(range(10)), tuple(range(50, 60))
    prompts = [(*a, 1), (*b, 1), (*a, 2, 3), (7, 7), (*b, 4)]
    assert alike(prompts, least=8) == [(10, [0, 2]), (10, [1, 4]), (0, [3])]
    assert alike(prompts, least=11) == [(0, [0, 1, 2, 3, 4])]


def test_a_token_of_each_prompt_stays_to_predict_from() -> None:
    prompt = tuple(range(40))
    assert alike([prompt, prompt]) == [(39, [0, 1])]
    assert alike([prompt, prompt[:36]]) == [(35, [0, 1])]


def test_no_prompts() -> None:
    assert alike([]) == []


def test_every_prompt_once_and_every_group_shares_what_it_says() -> None:
    draw = random.Random(0)
    for _ in range(50):
        prompts = [tuple(draw.choices((1, 2), k=draw.randint(1, 9))) for _ in range(draw.randint(1, 12))]
        groups = alike(prompts, least=2)
        assert sorted(i for _, members in groups for i in members) == list(range(len(prompts)))
        for shared, members in groups:
            assert len({prompts[i][:shared] for i in members}) <= 1
            assert all(shared < len(prompts[i]) for i in members)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "phi", "gemma2", "mistral"])
def test_the_same_states_with_and_without_sharing(name: str, tmp_path: Path) -> None:
    model, asked = tiny(name), told(40)
    shared = build(model, tmp_path / "a", asked=asked)
    plain = build(model, tmp_path / "b", asked=asked, share_prefix=False)
    index = torch.arange(plain.positions)
    torch.testing.assert_close(shared.logits(index), plain.logits(index), rtol=0, atol=2e-2)
    assert [shared.target(r.example_id) for r in asked] == [plain.target(r.example_id) for r in asked]


def test_a_sliding_window_is_not_shared() -> None:
    assert SharedPrefix().keys_of(tiny("mistral"), range(3, 43), 2) is None


def test_keys_are_fresh_at_every_call() -> None:
    model, prefix = tiny("llama").eval(), SharedPrefix()
    ids = tuple(range(3, 43))
    first = prefix.keys_of(model, ids, 2)
    model(input_ids=torch.tensor([[5], [6]]), past_key_values=first, use_cache=True)
    assert first.get_seq_length() == 41
    assert prefix.keys_of(model, ids, 3).get_seq_length() == 40
