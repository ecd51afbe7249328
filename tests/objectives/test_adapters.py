"""Objectives on the matrices of adapters: numbers worked by hand, a slow reference, and what must hold for all."""

import math

import pytest
import torch

from harmonize.errors import ConfigError
from harmonize.objectives.adapters import group_sparsity, representation_orthogonality
from harmonize.objectives.likelihood import cross_entropy
from harmonize.objectives.weights import (
    Adapter,
    Weights,
    call_on_weights,
    figures_of,
    reads_measured,
    reads_weights,
)

BY_HAND = {
    "layers.0.mlp.up": ([[3.0, 0.0]], [[0.0], [4.0]]),
    "layers.0.mlp.down": ([[12.0, 0.0]], [[0.0], [0.0]]),
    "layers.1.mlp.up": ([[0.0, 0.0]], [[2.0], [0.0]]),
}


def adapters_of(matrices, scaling: float = 2.0) -> dict[str, Adapter]:
    return {
        name: Adapter(torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True), scaling)
        for name, (a, b) in matrices.items()
    }


def random_adapters(seed: int = 0, layers: int = 3) -> dict[str, Adapter]:
    draw = torch.Generator().manual_seed(seed)
    return {
        f"model.layers.{i}.mlp.{name}": Adapter(
            torch.randn(2, 5, generator=draw).requires_grad_(),
            torch.randn(7, 2, generator=draw).requires_grad_(),
            0.5 + i,
        )
        for i in range(layers)
        for name in ("up_proj", "down_proj")
    }


def slow_group_sparsity(adapters: dict[str, Adapter], groups: str) -> float:
    squares: dict[str, float] = {}
    for name, adapter in adapters.items():
        for letter in "ab":
            key = {"block": name.split("layers.")[1][0], "module": name, "matrix": name + letter}[groups]
            for row in getattr(adapter, letter).tolist():
                squares[key] = squares.get(key, 0.0) + sum(v * v for v in row)
    return sum(math.sqrt(s) for s in squares.values())


@pytest.mark.parametrize(
    ("groups", "value"),
    [("block", 13.0 + 2.0), ("module", 5.0 + 12.0 + 2.0), ("matrix", 3.0 + 4.0 + 12.0 + 2.0)],
)
def test_group_sparsity_by_hand(groups: str, value: float) -> None:
    assert group_sparsity(adapters_of(BY_HAND), groups=groups).item() == pytest.approx(value)


def test_its_gradient_is_the_matrix_over_the_norm_of_its_group() -> None:
    adapters = adapters_of(BY_HAND)
    group_sparsity(adapters).backward()
    assert adapters["layers.0.mlp.up"].a.grad.tolist() == [[pytest.approx(3 / 13), 0.0]]
    assert adapters["layers.0.mlp.down"].a.grad.tolist() == [[pytest.approx(12 / 13), 0.0]]
    assert adapters["layers.1.mlp.up"].b.grad.tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("groups", ["block", "module", "matrix"])
@pytest.mark.parametrize("seed", range(3))
def test_group_sparsity_equals_the_slow_reference(groups: str, seed: int) -> None:
    adapters = random_adapters(seed)
    expected = slow_group_sparsity(adapters, groups)
    assert group_sparsity(adapters, groups=groups).item() == pytest.approx(expected, rel=1e-6)


def test_a_group_of_zeros_is_zero_with_gradient_zero() -> None:
    adapters = adapters_of({"layers.0.up": ([[0.0, 0.0]], [[0.0]])})
    value = group_sparsity(adapters)
    value.backward()
    assert value.item() == 0.0
    assert torch.count_nonzero(adapters["layers.0.up"].a.grad) == 0


def test_the_order_of_blocks_changes_nothing_and_the_value_grows_with_the_matrices() -> None:
    adapters = random_adapters()
    value = group_sparsity(adapters).item()
    turned = dict(reversed(adapters.items()))
    assert group_sparsity(turned).item() == pytest.approx(value, rel=1e-6)
    tripled = {n: Adapter(3 * a, -3 * b, s) for n, (a, b, s) in adapters.items()}
    assert group_sparsity(tripled).item() == pytest.approx(3 * value, rel=1e-6)
    other = {n: Adapter(a, b, 100.0) for n, (a, b, _) in adapters.items()}
    assert group_sparsity(other).item() == value


def test_bf16_matrices_are_summed_in_fp32() -> None:
    adapters = {n: Adapter(a.bfloat16(), b.bfloat16(), s) for n, (a, b, s) in random_adapters().items()}
    exact = {n: Adapter(a.float(), b.float(), s) for n, (a, b, s) in adapters.items()}
    value = group_sparsity(adapters)
    assert value.dtype == torch.float32 and value.item() == group_sparsity(exact).item()


def test_plain_gradient_steps_empty_the_block_that_nothing_holds() -> None:
    adapters = random_adapters()
    held = adapters["model.layers.1.mlp.up_proj"].b
    parameters = [m for a in adapters.values() for m in (a.a, a.b)]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (group_sparsity(adapters) + 0.1 * (held.sum() - 10) ** 2).backward()
        optimizer.step()
    figures = figures_of(group_sparsity, Weights(adapters), {"zero_below": 0.05})
    assert figures == {"groups": 3.0, "nonzero_groups": 1.0, "zero_below": 0.05}


def test_figures_count_groups_by_their_root_mean_square_entry() -> None:
    weights = Weights(adapters_of({"h.0.up": ([[1e-3]], [[0.0]]), "h.1.up": ([[2e-3]], [[2e-3]])}))
    # root mean squares: 0.00071 and 0.002
    assert figures_of(group_sparsity, weights, {})["nonzero_groups"] == 1.0
    assert figures_of(group_sparsity, weights, {"groups": "matrix"})["groups"] == 4.0
    assert figures_of(cross_entropy, weights, {}) == {}


def test_what_is_read_comes_from_parameter_names() -> None:
    assert reads_weights(group_sparsity) and not reads_weights(cross_entropy)

    def both(adapters, label_log_probs):
        return label_log_probs.sum()

    with pytest.raises(ConfigError, match=r"reads weights \(adapters\) and outputs \(label_log_probs\)"):
        reads_weights(both)


def test_wrong_settings_are_named() -> None:
    weights = Weights(random_adapters())
    with pytest.raises(ConfigError, match="Did you mean 'groups'"):
        call_on_weights(group_sparsity, weights, {"group": "block"})
    with pytest.raises(ConfigError, match="groups=block, groups=module or groups=matrix"):
        call_on_weights(group_sparsity, weights, {"groups": "layer"})


def basis(size: int, rank: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, rank, generator=torch.Generator().manual_seed(seed)))[0]


def test_representation_orthogonality_by_hand() -> None:
    adapters = adapters_of({"h.0.up": ([[9.0]], [[3.0], [4.0]]), "h.1.up": ([[9.0]], [[1.0], [2.0]])})
    axis, diagonal = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.6], [0.8]])
    value = representation_orthogonality(adapters, {"h.0.up": axis, "h.1.up": diagonal})
    assert value.item() == pytest.approx(3.0**2 + (0.6 + 1.6) ** 2)
    value.backward()
    # 2 P P^T B, and nothing on A
    assert adapters["h.0.up"].b.grad.tolist() == [[6.0], [0.0]]
    assert adapters["h.1.up"].b.grad.flatten().tolist() == pytest.approx([2 * 2.2 * 0.6, 2 * 2.2 * 0.8])
    assert adapters["h.0.up"].a.grad is None


@pytest.mark.parametrize("seed", range(3))
def test_representation_orthogonality_equals_the_slow_reference(seed: int) -> None:
    adapters = random_adapters(seed)
    subspace = {name: basis(7, 3, seed) for name in adapters}
    expected = 0.0
    for name, adapter in adapters.items():
        b, p = adapter.b.tolist(), subspace[name].tolist()
        for column in range(2):
            for direction in range(3):
                expected += sum(b[i][column] * p[i][direction] for i in range(7)) ** 2
    assert representation_orthogonality(adapters, subspace).item() == pytest.approx(expected, rel=1e-5)


def test_orthogonality_is_zero_where_nothing_is_written_or_all_beside_the_subspace() -> None:
    adapters = random_adapters()
    directions = basis(7, 7)
    subspace = dict.fromkeys(adapters, directions[:, :3])
    fresh = {n: Adapter(a, torch.zeros_like(b), s) for n, (a, b, s) in adapters.items()}
    assert representation_orthogonality(fresh, subspace).item() == 0.0
    beside = {n: Adapter(a, directions[:, 3:5] * 4, s) for n, (a, b, s) in adapters.items()}
    assert representation_orthogonality(beside, subspace).item() == pytest.approx(0.0, abs=1e-9)
    inside = {n: Adapter(a, directions[:, :2] * 4, s) for n, (a, b, s) in adapters.items()}
    assert representation_orthogonality(inside, subspace).item() == pytest.approx(6 * 2 * 16, rel=1e-5)


def test_orthogonality_knows_the_subspace_and_not_its_basis() -> None:
    adapters = random_adapters()
    turned = {name: basis(7, 3) @ basis(3, 3, 5) for name in adapters}
    value = representation_orthogonality(adapters, {name: basis(7, 3) for name in adapters}).item()
    assert representation_orthogonality(adapters, turned).item() == pytest.approx(value, rel=1e-5)
    whole = representation_orthogonality(adapters, {name: basis(7, 7) for name in adapters}).item()
    squares = sum(a.b.detach().square().sum().item() for a in adapters.values())
    assert whole == pytest.approx(squares, rel=1e-5) and value < whole


def test_directions_are_asked_for_once_and_only_where_they_are_read() -> None:
    asked: list[tuple[str, int]] = []

    def directions(layer: str, rank: int) -> torch.Tensor:
        asked.append((layer, rank))
        return basis(7, rank).double()

    adapters = random_adapters()
    weights = Weights(adapters, directions)
    call_on_weights(group_sparsity, weights, {})
    assert not asked and not reads_measured(group_sparsity)
    assert reads_measured(representation_orthogonality)
    for _ in range(2):
        value = call_on_weights(representation_orthogonality, weights, {"rank": 4})
    assert asked == [(name, 4) for name in adapters] and value.dtype == torch.float32
    with pytest.raises(ConfigError, match="none were measured"):
        call_on_weights(representation_orthogonality, Weights(adapters), {})
