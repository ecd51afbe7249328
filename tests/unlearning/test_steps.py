"""How a step is cut: a token budget keeps every row, never exceeds itself, and changes nothing that is learned."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from harmonize.data.batch import Row
from harmonize.unlearning.steps import micro_batches
from harmonize.unlearning.terms import denominators
from tests.unlearning.toy import make_module, make_rows


def row(name: int, length: int, companions: int = 0) -> Row:
    others = tuple(row(1000 + name, length) for _ in range(companions))
    return Row(f"e{name}", "forget", f"s{name}", (5,) * (length - 1), (6,), companions=others)


def test_cuts_by_hand() -> None:
    rows = [row(i, n) for i, n in enumerate((10, 3, 6, 5, 4))]
    shapes = [tuple(b.input_ids.shape) for b in micro_batches(rows, 1, 0, tokens=12)]
    widths = [n for _, n in shapes]
    assert [b for b, _ in shapes] == [1, 2, 2] and widths[0] >= widths[1] >= widths[2]


@pytest.mark.parametrize("pad_to", [1, 8])
def test_every_row_once_and_no_batch_over_the_budget(pad_to: int) -> None:
    draw = random.Random(0)
    for _ in range(20):
        rows = [row(i, draw.randint(2, 30), draw.randint(0, 2)) for i in range(draw.randint(1, 15))]
        tokens = draw.randint(20, 120)
        batches = micro_batches(rows, 2, 0, tokens, pad_to)
        found = sorted(name for b in batches for name in b.example_id)
        assert found == sorted(n for r in rows for n in (r.example_id, *(c.example_id for c in r.companions)))
        for batch in batches:
            count, width = batch.input_ids.shape
            alone = len({n for n in batch.example_id if int(n[1:]) < 1000}) == 1
            assert alone or count * width <= tokens


def test_no_budget_is_one_batch() -> None:
    assert len(micro_batches([row(i, 9) for i in range(50)], 1, 0)) == 1


def test_the_gradient_does_not_depend_on_the_cut() -> None:
    rows = [replace(r, cache_start=-1) for r in make_rows(9)]
    found = []
    for tokens in (None, 30, 1):
        module = make_module()
        module._trainer = type("T", (), {"world_size": 1})()  # type: ignore[assignment]
        batches = micro_batches(rows, 1, 0, tokens)
        total = denominators(module.terms, batches)
        for batch in batches:
            values = module._forward(batch, total)
            if values:
                torch.stack(list(values.values())).sum().backward()
        grads = [p.grad.flatten() for p in module.student.parameters() if p.grad is not None]
        found.append((len(batches), torch.cat(grads)))
    assert found[0][0] == 1 < found[1][0] < found[2][0] == 9
    for _, gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-6)
