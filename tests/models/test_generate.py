import pytest
import torch

from harmonize.models.generate import greedy, sampled
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


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_draws_do_not_depend_on_batch_order_or_their_number(name: str) -> None:
    model = tiny(name)
    asked = prompts()
    keys = [f"key {i}" for i in range(len(asked))]
    expected = sampled(model, asked, keys, [V + 1], 0, 8, draws=3)
    assert all(len(draws) == 3 for draws in expected)
    assert len({tuple(d) for draws in expected for d in draws}) > len(asked)  # they differ
    for size in (1, 4, 64):
        assert sampled(model, asked, keys, [V + 1], 0, 8, draws=3, batch_size=size) == expected
    back = sampled(model, asked[::-1], keys[::-1], [V + 1], 0, 8, draws=3, batch_size=6)
    assert back[::-1] == expected
    more = sampled(model, asked, keys, [V + 1], 0, 8, draws=5)
    assert [draws[:3] for draws in more] == expected
    other = sampled(model, asked, [f"{k}'" for k in keys], [V + 1], 0, 8, draws=3)
    assert other != expected


def test_a_draw_follows_the_models_probabilities() -> None:
    model = tiny(sorted(ARCHITECTURES)[0])
    prompt = prompts(1)[0]
    with torch.no_grad():
        p = (model(torch.tensor([prompt])).logits[0, -1].double() / 0.7).softmax(-1)
    draws = sampled(model, [prompt], ["k"], [V + 1], 0, 1, draws=4000, temperature=0.7)[0]
    counts = torch.bincount(torch.tensor([d[0] for d in draws]), minlength=len(p)) / len(draws)
    assert float((counts - p).abs().max()) < 4 * float((p * (1 - p) / len(draws)).sqrt().max())
    # a temperature near zero is greedy
    cold = sampled(model, [prompt], ["k"], [V + 1], 0, 6, draws=2, temperature=1e-4)[0]
    assert cold == [greedy(model, [prompt], [V + 1], 0, 6)[0]] * 2


def test_stop_ids_end_a_draw_and_an_empty_prompt_is_refused() -> None:
    model = tiny(sorted(ARCHITECTURES)[0])
    asked = prompts(3)
    free = sampled(model, asked, list("abc"), [V + 1], 0, 8, draws=2)
    stop = free[0][0][2]
    for before, after in zip(
        (d for draws in free for d in draws),
        (d for draws in sampled(model, asked, list("abc"), [stop], 0, 8, draws=2) for d in draws),
        strict=True,
    ):
        assert after == (before[: before.index(stop)] if stop in before else before)
    with pytest.raises(ValueError, match="at least one token"):
        sampled(model, [[]], ["a"], [1], 0, 2, draws=2)
