"""Selection in two stages against a sort, and the head's gradient as a product against the scatter."""

from __future__ import annotations

import pytest
import torch

from harmonize.models.products import (
    CHUNK_BYTES,
    _by_product,
    _weight_gradient,
    _weight_gradient_by_product,
    canonical_topk,
    rows_per_chunk,
    topk,
    topk_by_sorting,
)


@pytest.mark.parametrize("vocabulary", [64 * 64, 64 * 64 + 1, 64 * 64 + 63, 9000])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_two_stages_find_the_largest(vocabulary: int, k: int) -> None:
    torch.manual_seed(vocabulary + k)
    values = torch.randn(5, vocabulary)
    values[0, -1] = values[1, 0] = 99.0  # in the shorter last tile, and at the very first place
    values[2, 128 : 128 + k] = 50.0 + torch.arange(k)  # all in one tile
    assert k * 64 * 8 <= vocabulary  # two stages
    ids = topk(values, k)
    assert torch.equal(ids, values.argsort(1, descending=True)[:, :k])


def test_ties_go_to_the_smaller_id() -> None:
    values = torch.zeros(2, 5000)
    values[0, [4000, 10, 70]] = 1.0
    ids, top = canonical_topk(values, 4)
    assert ids.tolist() == [[10, 70, 4000, 0], [0, 1, 2, 3]]
    assert top.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("vocabulary", [7, 50, 32 * 64 + 5, 64 * 64, 64 * 64 + 1, 9000])
@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_sorting_finds_the_same_lists_as_looking_for_ties(vocabulary: int, k: int, levels: int) -> None:
    draw = torch.Generator().manual_seed(vocabulary + k)
    values = torch.randint(0, levels, (6, vocabulary), generator=draw).float()
    ids, top = topk_by_sorting(values, k)
    for row, value, found in zip(values.tolist(), top.tolist(), ids.tolist(), strict=True):
        expected = sorted(range(vocabulary), key=lambda i: (-row[i], i))[:k]
        assert found == expected and value == [row[i] for i in expected]
    for a, b in zip(canonical_topk(values, k), (ids, top), strict=True):
        assert torch.equal(a, b)


def test_gradient_as_a_product_is_the_scatter() -> None:
    torch.manual_seed(0)
    grad, hidden, weight = torch.randn(6, 4), torch.randn(6, 8), torch.randn(20, 8)
    ids = torch.randint(0, 20, (6, 4))
    ids[0] = 3  # one id four times
    scattered = _weight_gradient(grad, hidden, weight, ids)
    expected = torch.zeros(20, 8)
    for a in range(6):
        for k in range(4):
            expected[ids[a, k]] += grad[a, k] * hidden[a]
    torch.testing.assert_close(scattered, expected)
    torch.testing.assert_close(_weight_gradient_by_product(grad, hidden, weight, ids), expected)


def test_gradient_as_a_product_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonize.models.products.CHUNK_BYTES", 2 * 20 * 4)  # four positions
    torch.manual_seed(1)
    grad, hidden, weight = torch.randn(9, 2), torch.randn(9, 8), torch.randn(20, 8)
    ids = torch.randint(0, 20, (9, 2))
    by_product = _weight_gradient_by_product(grad, hidden, weight, ids)
    torch.testing.assert_close(by_product, _weight_gradient(grad, hidden, weight, ids))


def test_a_product_where_lists_are_long_or_positions_few() -> None:
    assert _by_product(1639, 32, 128256)  # few positions: the fp32 copy of the weight weighs more
    assert not _by_product(8192, 8, 256000) and _by_product(8192, 128, 256000)


def test_chunks_are_measured_in_bytes() -> None:
    assert rows_per_chunk(128256) == CHUNK_BYTES // (4 * 128256) == 523
    assert rows_per_chunk(10**9) == 1
