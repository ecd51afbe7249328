import pytest
import torch

from harmonize.models.generate import greedy
from tests.models.tiny import ARCHITECTURES, V, tiny


def prompts(count: int = 7) -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 14, (count,), generator=draw).tolist()
    return [torch.randint(3, V, (n,), generator=draw).tolist() for n in lengths]


def by_transformers(model, prompt: list[int], stops: list[int], limit: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=stops,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    cut = next((i for i, t in enumerate(out) if t in stops), len(out))
    return out[:cut]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_equals_transformers_in_any_batch(name: str) -> None:
    model = tiny(name)
    asked = prompts()
    free = [by_transformers(model, p, [V + 1], 12) for p in asked]
    stops = [free[0][3], free[1][5]]  # so that some rows stop early and others do not
    expected = [by_transformers(model, p, stops, 12) for p in asked]
    assert len({len(e) for e in expected}) > 1
    for size in (1, 3, 64):
        assert greedy(model, asked, stops, 0, 12, batch_size=size) == expected
    back = greedy(model, asked[::-1], stops, 0, 12, batch_size=4)
    assert back[::-1] == expected


def test_equal_prompts_run_once_and_training_mode_survives() -> None:
    model = tiny("llama").train()
    seen = []
    out = greedy(
        model,
        [[5, 6], [7], [5, 6]],
        [2],
        0,
        3,
        batch_size=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert out[0] == out[2] and seen == [(1, 2), (2, 2)]
    assert model.training
    out[0].append(0)
    assert out[0] != out[2]


def test_no_prompts_and_empty_prompts() -> None:
    model = tiny("llama")
    assert greedy(model, [], [2], 0, 3) == []
    with pytest.raises(ValueError, match="at least one token"):
        greedy(model, [[1], []], [2], 0, 3)
