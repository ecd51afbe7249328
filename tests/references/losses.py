"""The losses once more, as loops over plain numbers: slow, obvious, and written from the formulas alone."""

import math

import torch


def huber(d: float, delta: float) -> float:
    return 0.5 * d * d if abs(d) <= delta else delta * (abs(d) - 0.5 * delta)


def top(values: list[float], k: int) -> list[int]:
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


def pull_at(z_s: list[float], z_t: list[float], k: int, delta: float, temperature: float) -> float:
    ids = top(z_t, k)
    return sum(huber((z_s[i] - z_t[i]) / temperature, delta) for i in ids) / len(ids)


def push_at(
    z_s: list[float], z_t: list[float], k: int, k_teacher: int, delta: float, temperature: float
) -> float:
    outside = [i for i in top(z_s, k) if i not in top(z_t, k_teacher)]
    if not outside:
        return 0.0
    return sum(huber(max(z_s[i] - z_t[i], 0.0) / temperature, delta) for i in outside) / len(outside)


def cross_entropy_at(z_s: list[float], label: int) -> float:
    peak = max(z_s)
    return peak + math.log(sum(math.exp(z - peak) for z in z_s)) - z_s[label]


def rows(
    losses: list[float], row: list[int], offset: list[int], n_rows: int, positions: str
) -> tuple[torch.Tensor, torch.Tensor]:
    total, count = torch.zeros(n_rows), torch.zeros(n_rows)
    for loss, r, o in zip(losses, row, offset, strict=True):
        if positions == "all" or o == 0:
            total[r] += loss
            count[r] += 1
    return total, count
