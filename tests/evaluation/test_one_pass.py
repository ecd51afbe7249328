"""The one pass: against a slow reference, whatever the batches, and counted."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch

from harmonize.errors import ModelError
from harmonize.evaluation.likelihood import continuation_log_probs
from harmonize.evaluation.one_pass import shared_rows, token_rows, token_statistics
from harmonize.models.generate import greedy, sampled
from tests.evaluation import worlds


@pytest.fixture(scope="module")
def data():
    return worlds.corpus()


@pytest.fixture
def loaded(data) -> SimpleNamespace:
    made = worlds.llama(data)
    made.model.double()
    return made


def _pairs(data, renderer):
    return [
        (renderer.prompt_ids(e.question), renderer.answer_ids(e.answer[: 8 + i]))
        for i, e in enumerate(data.examples)
    ][:20]


def slow(model, prompt, target):
    """One row, one token at a time, in plain Python."""
    found = []
    for j, token in enumerate(target):
        with torch.no_grad():
            row = model(torch.tensor([[*prompt, *target[:j]]])).logits[0, -1].double()
        total = math.log(sum(math.exp(v) for v in row.tolist()))
        logs = [v - total for v in row.tolist()]
        mean = sum(math.exp(v) * v for v in logs)
        variance = sum(math.exp(v) * v * v for v in logs) - mean * mean
        found.append((logs[token], sum(v > logs[token] for v in logs), mean, variance))
    return [list(column) for column in zip(*found, strict=True)]


def values(row):
    return [row.log_probs.tolist(), row.ranks.tolist(), row.means.tolist(), row.variances.tolist()]


def test_statistics_equal_the_slow_reference(data, loaded) -> None:
    pairs = _pairs(data, loaded.renderer)
    found = token_rows(loaded.model, pairs, loaded.renderer.pad_id, 7)
    for row, (prompt, target) in zip(found, pairs, strict=True):
        for own, expected in zip(values(row), slow(loaded.model, prompt, target), strict=True):
            assert own == pytest.approx(expected, abs=1e-6)


def test_neither_batch_size_nor_order_nor_the_other_path_moves_a_figure(data, loaded) -> None:
    pairs = _pairs(data, loaded.renderer)
    pad = loaded.renderer.pad_id
    expected = [values(r) for r in token_rows(loaded.model, pairs, pad, 64)]
    shuffled = list(range(len(pairs)))
    random.Random(0).shuffle(shuffled)
    for size in (1, 3, 20):
        for order in (range(len(pairs)), shuffled):
            some = [pairs[i] for i in order]
            groups = [(p, [t, t[:1], t[: max(1, len(t) - 1)]]) for p, t in some]
            alone = token_rows(loaded.model, some, pad, size)
            together = shared_rows(loaded.model, groups, pad, size)
            for i, one, three in zip(order, alone, together, strict=True):
                for own, other, wanted in zip(values(one), values(three[0]), expected[i], strict=True):
                    assert own == pytest.approx(wanted, abs=1e-9)
                    assert other == pytest.approx(wanted, abs=1e-9)
                    assert len(three[1].ranks) == 1


def test_hand_worked_statistics() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))
    log_probs, ranks, means, variances = token_statistics(logits, torch.tensor([2, 1])).tolist()
    assert log_probs == pytest.approx([math.log(0.25), math.log(0.5)])
    # of the two equally likely tokens the lower id comes first
    assert ranks == [2, 0]
    mean = -1.5 * math.log(2)
    assert means == pytest.approx([mean, mean])
    assert variances == pytest.approx([0.25 * math.log(2) ** 2] * 2)


def test_what_is_no_number_is_told(data, loaded) -> None:
    """Nothing is greater than NaN, so a broken model would have every token as its first choice."""
    pairs = [((1, 2), (3, 4))]
    broken = lambda logits, prompts, told: logits * float("nan")  # noqa: E731
    for run in (
        lambda: token_rows(loaded.model, pairs, 0, adjust=broken),
        lambda: shared_rows(loaded.model, [((1, 2), [(3, 4), (5,)])], 0, adjust=broken),
        lambda: continuation_log_probs(loaded.model, pairs, 0, adjust=broken),
        lambda: greedy(loaded.model, [(1, 2)], [], 0, 2, adjust=broken),
        lambda: sampled(loaded.model, [(1, 2)], ["key"], [], 0, 2, 2, 1.0, adjust=broken),
    ):
        with pytest.raises(ModelError, match="are not numbers"):
            run()


def test_an_impossible_token_counts_for_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, float("-inf")]])
    log_prob, rank, mean, variance = token_statistics(logits, torch.tensor([2]))[:, 0].tolist()
    assert log_prob == float("-inf") and rank == 2
    assert (mean, variance) == pytest.approx((-math.log(2), 0.0))


def test_a_prompt_is_read_once_for_all_its_answers(data, loaded) -> None:
    renderer = loaded.renderer
    facts = data.facts("forget", "train")
    groups = [
        (renderer.prompt_ids(e.question), [renderer.answer_ids(f"{c} hat .") for c in worlds.COLOURS[:5]])
        for e in facts
    ]
    seen = []
    handle = loaded.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(
            int(kwargs["attention_mask"][:, -kwargs["input_ids"].shape[1] :].sum())
        ),
        with_kwargs=True,
    )
    shared_rows(loaded.model, groups, renderer.pad_id, 40)
    handle.remove()
    # every prompt once, and of every answer all but the last token
    prompts = sum(len(p) for p, _ in groups)
    answers = sum(len(t) - 1 for _, some in groups for t in some)
    assert len(facts) == 8 and len(seen) == 2
    assert seen == [prompts, answers]


def test_the_head_reads_scored_positions_alone(data, loaded) -> None:
    read: list[int] = []
    layer = loaded.model.get_output_embeddings()
    hook = layer.register_forward_hook(lambda _m, _args, out: read.append(out.shape[:-1].numel()))
    groups = [((1, 2, 3), [(4, 5, 6), (7,)]), ((2, 3), [(8, 9)])]
    shared_rows(loaded.model, groups, 0, 40)
    hook.remove()
    assert read == [2, 3]  # the prompts' last tokens; of the answers all but their first, and no padding


def test_what_all_prompts_begin_with_is_read_once(data, loaded) -> None:
    head = tuple(5 + i % 7 for i in range(70))
    groups = [(head + p, [t, t[:2], t[:1]]) for p, t in _pairs(data, loaded.renderer)[:6]]
    alone = groups[0][0][:40], groups[0][1]  # another beginning
    seen = []

    def look(_, args, kwargs) -> None:
        # a model of two, as guard=logit_offset has it, needs all three
        assert (
            kwargs["attention_mask"] is not None and kwargs["position_ids"].shape == kwargs["input_ids"].shape
        )
        seen.append(tuple(kwargs["input_ids"].shape))

    handle = loaded.model.register_forward_pre_hook(look, with_kwargs=True)
    found = shared_rows(loaded.model, [*groups[:3], alone, *groups[3:]], loaded.renderer.pad_id, 9)
    handle.remove()
    whole = [columns for rows, columns in seen if rows == 1]
    assert len(whole) == 3 and whole[2] == 40 and all(len(head) <= n < len(head) + 12 for n in whole[:2])
    assert all(columns < 40 for rows, columns in seen if rows > 1)
    for (prompt, targets), rows in zip([*groups[:3], alone, *groups[3:]], found, strict=True):
        for target, row in zip(targets, rows, strict=True):
            expected = token_rows(loaded.model, [(prompt, target)], loaded.renderer.pad_id)[0]
            for one, other in zip(values(row), values(expected), strict=True):
                assert one == pytest.approx(other, abs=1e-9)


def test_a_cache_that_cannot_be_repeated_reads_prompts_again(data, loaded, monkeypatch) -> None:
    groups = [(p, [t, t[:2]]) for p, t in _pairs(data, loaded.renderer)[:4]]
    expected = shared_rows(loaded.model, groups, 0, 8)
    plain = loaded.model.forward

    class Opaque:
        """A cache without rows."""

    def forward(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.past_key_values = Opaque()
        return out

    monkeypatch.setattr(type(loaded.model), "forward", lambda self, *a, **k: forward(*a, **k))
    monkeypatch.setattr("harmonize.models.stems.takes_logits_to_keep", lambda _: False)
    monkeypatch.setattr("harmonize.evaluation.likelihood.takes_logits_to_keep", lambda _: False)
    for some, wanted in zip(shared_rows(loaded.model, groups, 0, 8), expected, strict=True):
        for one, other in zip(some, wanted, strict=True):
            assert one.log_probs.tolist() == pytest.approx(other.log_probs.tolist(), abs=1e-9)


def test_logits_are_changed_before_they_are_read(data, loaded) -> None:
    """Both paths hand the same prompts and what was said to `adjust`, and take what it makes of the logits."""
    pairs = _pairs(data, loaded.renderer)[:5]

    def adjust(logits, prompts, said):
        for n, (prompt, told) in enumerate(zip(prompts, said, strict=True)):
            logits[n] = 0.0
            logits[n, (len(prompt) + len(told)) % logits.shape[1]] = 50.0
        return logits

    one = token_rows(loaded.model, pairs, 0, 3, adjust)
    two = shared_rows(loaded.model, [(p, [t]) for p, t in pairs], 0, 3, adjust)
    size = len(loaded.renderer.tokenizer)
    for row, (other,), (prompt, target) in zip(one, two, pairs, strict=True):
        expected = [0 if t == (len(prompt) + j) % size else 1 for j, t in enumerate(target)]
        assert [min(r, 1) for r in row.ranks] == [min(r, 1) for r in other.ranks] == expected


@pytest.mark.parametrize("empty", [((), (1,)), ((1,), ())])
def test_nothing_empty_is_scored(loaded, empty) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        token_rows(loaded.model, [empty], 0)
    with pytest.raises(ValueError, match="at least one token"):
        shared_rows(loaded.model, [(empty[0], [empty[1]])], 0)
