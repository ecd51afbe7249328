"""Beginnings that rows of a batch share: which ones, that reading them once changes no token, and what cannot share."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
import transformers as tf

from harmonize.evaluation.likelihood import continuation_log_probs
from harmonize.evaluation.one_pass import pair_log_probs
from harmonize.models import stems
from harmonize.models.generate import greedy, sampled
from harmonize.models.stems import ordered, read_rows
from tests.models.tiny import COMMON, V, tiny


def asked(questions: int = 4, length: int = 24, prefills: int = 5) -> list[tuple[int, ...]]:
    """Questions of several lengths, each with prefills of 1 to 4 ids, one without, and one question alone."""
    draw = random.Random(1)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(3, V), k=n))

    found = [ids(9)]
    for n in range(questions):
        question = ids(length + 2 * n)
        found += [question, *(question + ids(1 + i % 4) for i in range(prefills))]
    return found


def whole(model, rows) -> torch.Tensor:
    return torch.stack([model(torch.tensor([r])).logits[0, -1] for r in rows])


def read(model) -> list[tuple[int, int]]:
    """Shapes of what a model reads from now on."""
    seen: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda _, a, k: seen.append(tuple(k["input_ids"].shape)), with_kwargs=True
    )
    return seen


def test_beginnings_by_hand() -> None:
    a, b = (1, 2, 3, 4, 5, 6), (1, 9, 9, 9)
    rows = [(*a, 7), (*b, 1), (*a, 8, 8), (*b, 2), a, (5, 5)]
    found = stems.stems(rows, [len(r) - 1 for r in rows])
    # the question without a prefill keeps its last id, so its group shares one id less
    assert found == [(5, (0, 2, 4)), (4, (1, 3)), (0, (5,))]
    assert stems.stems(rows, [len(r) for r in rows])[0] == (6, (0, 2, 4))
    # joined, all five would share the first id alone
    assert stems.stems([(1, 2), (1, 3), (1, 4)], [1, 1, 1]) == [(1, (0, 1, 2))]
    assert stems.stems([], []) == []


def test_every_row_once_and_no_group_shares_what_it_does_not_have() -> None:
    draw = random.Random(0)
    for _ in range(100):
        rows = [tuple(draw.choices((1, 2), k=draw.randint(1, 9))) for _ in range(draw.randint(1, 12))]
        most = [draw.randint(0, len(r)) for r in rows]
        found = stems.stems(rows, most)
        assert sorted(i for s in found for i in s.rows) == list(range(len(rows)))
        for s in found:
            assert len({rows[i][: s.length] for i in s.rows}) == 1 and all(
                s.length <= most[i] for i in s.rows
            )
        # never less than what neighbours alone would save
        assert sum(s.length * (len(s.rows) - 1) for s in found) >= max(
            (
                stems._common(rows[i][: most[i]], rows[j][: most[j]])
                for i in range(len(rows))
                for j in range(i)
            ),
            default=0,
        )


def test_rows_that_begin_alike_stand_together() -> None:
    rows = asked()
    random.Random(0).shuffle(rows)
    placed = [rows[i] for i in ordered(rows)]
    assert sorted(placed) == sorted(rows)
    heads = [r[:9] for r in placed]
    assert len(set(heads)) == 1 + sum(a != b for a, b in pairwise(heads))
    assert [rows[i] for i in ordered(rows, share=False)] == sorted(rows, key=lambda r: (-len(r), r))
    apart = [r[::-1] for r in rows]  # nothing in common, so length alone decides
    assert ordered(apart) == ordered(apart, share=False)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi", "gemma2", "mistral"])
def test_reading_beginnings_once_gives_the_same_logits_and_tokens(name: str) -> None:
    model, rows = tiny(name).eval(), asked()
    with torch.no_grad():
        expected = whole(model, rows)
        free = [greedy(model, [r], [V + 1], 0, 6)[0] for r in rows]
        seen = read(model)
        found = read_rows(model, rows, 0)
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-5)
    assert found.mask.sum(1).tolist() == list(map(len, rows))
    # a window of 8 counts columns, padding between them included: such models read every row
    if name in ("gemma2", "mistral"):
        assert seen == [(len(rows), max(map(len, rows)))]
    else:
        assert seen == [(5, 29), (len(rows), 5)]
    stops = [free[1][2], free[7][0]]  # some rows stop early
    ended = [r[: next((i for i, t in enumerate(r) if t in stops), 6)] for r in free]
    for size in (4, 64):
        assert greedy(model, rows, [V + 1], 0, 6, batch_size=size) == free
        assert greedy(model, rows, stops, 0, 6, batch_size=size) == ended
    keys = list(map(str, range(len(rows))))
    draws = [sampled(model, [r], [k], [V + 1], 0, 4, draws=2)[0] for r, k in zip(rows, keys, strict=True)]
    assert sampled(model, rows, keys, [V + 1], 0, 4, draws=2) == draws


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_scores_of_options_and_of_openings_are_those_of_whole_rows(name: str, monkeypatch) -> None:
    model, rows = tiny(name).eval(), asked()
    pairs = [(r, (5 + i % 7, 6)[: 1 + i % 2]) for i, r in enumerate(rows)]
    pairs += [(rows[1], (9, 9, n)) for n in range(3, 7)]  # options of one question
    expected = continuation_log_probs(model, pairs, 0)
    seen = read(model)
    found = pair_log_probs(model, pairs, 0)
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(seen) == 2 and sum(a * b for a, b in seen) < 0.6 * sum(len(p) + len(t) for p, t in pairs)
    told: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def adjust(logits, prompts, said):
        told.extend((tuple(p), tuple(s)) for p, s in zip(prompts, said, strict=True))
        return logits + torch.arange(V) / V

    changed = pair_log_probs(model, pairs, 0, adjust=adjust)
    one, told[:] = sorted(told), []
    assert changed == pytest.approx(continuation_log_probs(model, pairs, 0, adjust=adjust), abs=1e-5)
    assert one == sorted(told)
    with pytest.raises(ValueError, match="at least one token"):
        pair_log_probs(model, [((1,), ())], 0)


def test_finished_rows_are_not_read_again() -> None:
    model, rows = tiny("llama").eval(), [(3 + i, 4) for i in range(16)]
    ends = {r: 1 + i % 8 for i, r in enumerate(rows)}

    def adjust(logits, prompts, said):
        for n, (prompt, told) in enumerate(zip(prompts, said, strict=True)):
            logits[n, 2] = 1e9 if len(told) == ends[tuple(prompt)] else -1e9
        return logits

    seen = read(model)
    said = greedy(model, rows, [2], 0, 12, adjust=adjust)
    assert [len(s) for s in said] == list(ends.values())
    # two rows, an eighth of the batch, end with every token from the second step on
    assert [n for n, _ in seen] == [16, 16, 14, 12, 10, 8, 6, 4, 2]


def test_a_running_state_is_neither_shared_nor_cut() -> None:
    """Linear attention keeps a state instead of rows of keys: every row stays, and draws read the prompt each."""
    torch.manual_seed(0)
    config = tf.Lfm2Config(
        **{k: v for k, v in COMMON.items() if k != "max_position_embeddings"},
        layer_types=["conv", "full_attention"],
    )
    model = tf.Lfm2ForCausalLM(config).eval()
    rows = asked(2)
    expected = [greedy(model, [r], [V + 1], 0, 5)[0] for r in rows]
    stops = [expected[0][0], expected[3][2]]
    seen = read(model)
    ended = [r[: next((i for i, t in enumerate(r) if t in stops), 5)] for r in expected]
    assert greedy(model, rows, stops, 0, 5) == ended
    assert {n for n, _ in seen} == {len(rows)}
    pairs = [(r, t) for r in rows for t in ((5, 6), (7,))]
    assert pair_log_probs(model, pairs, 0) == pytest.approx(continuation_log_probs(model, pairs, 0), abs=1e-5)
    draws = [sampled(model, [r], ["k"], [V + 1], 0, 3, draws=2)[0] for r in rows]
    assert sampled(model, rows, ["k"] * len(rows), [V + 1], 0, 3, draws=2) == draws
