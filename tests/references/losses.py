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


def log_softmax(z: list[float]) -> list[float]:
    peak = max(z)
    total = peak + math.log(sum(math.exp(v - peak) for v in z))
    return [v - total for v in z]


def inverted_hinge_at(z: list[float], label: int) -> float:
    p = [math.exp(v) for v in log_softmax(z)]
    return 1 + p[label] - max(v for i, v in enumerate(p) if i != label)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def kl(p: list[float], q: list[float]) -> float:
    """Between softmaxes of two lists of logits."""
    log_p, log_q = log_softmax(p), log_softmax(q)
    return sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))


def undial_at(z_s: list[float], z_r: list[float], label: int, beta: float) -> float:
    target = log_softmax([z - beta * (i == label) for i, z in enumerate(z_r)])
    return -sum(math.exp(t) * q for t, q in zip(target, log_softmax(z_s), strict=True))


def ceu_at(z_s: list[float], label: int) -> float:
    others = [z for i, z in enumerate(z_s) if i != label]
    log_q = [q for i, q in enumerate(log_softmax(z_s)) if i != label]
    return -sum(math.exp(t) * q for t, q in zip(log_softmax(others), log_q, strict=True))


def margin_at(z_s: list[float]) -> float:
    return (max(z_s) - sum(z_s) / len(z_s)) ** 2


def npo_logits_at(z_s: list[float], z_r: list[float], beta: float) -> float:
    terms = [-log_sigmoid(beta * (r - s)) * 2 / beta for s, r in zip(z_s, z_r, strict=True)]
    return sum(terms) / len(terms)


def simnpo_logits_at(z_s: list[float], beta: float, gamma: float) -> float:
    terms = [-log_sigmoid(beta * (-s - gamma)) * 2 / beta for s in z_s]
    return sum(terms) / len(terms)


def bild_at(z_s: list[float], z_t: list[float], k: int, temperature: float) -> float:
    total = 0.0
    for ids in (top(z_t, k), top(z_s, k)):
        pairs = [(a, b) for n, a in enumerate(ids) for b in ids[n + 1 :]]
        total += kl(
            [(z_t[a] - z_t[b]) / temperature for a, b in pairs],
            [(z_s[a] - z_s[b]) / temperature for a, b in pairs],
        )
    return total


def threshold_at(h: list[float], h0: list[float], mean: list[float], std: list[float]) -> float:
    found = []
    for x, x0, m, s in zip(h, h0, mean, std, strict=True):
        low, high = m - s, m + s
        if x0 <= low:
            found.append(max(0.0, x - low))
        elif x0 >= high:
            found.append(max(0.0, high - x))
        else:
            found.append(max(0.0, x - high) + max(0.0, low - x))
    return sum(found) / max(1, sum(v > 0 for v in found))


FLAT = {
    "total_variation": lambda e, f: -math.tanh(e) / 2 + math.tanh(f) / 2,
    "kl": lambda e, f: -e + math.exp(f - 1),
    "pearson": lambda e, f: -e + f + f * f / 4,
    "jensen_shannon": lambda e, f: (
        math.log(1 + math.exp(-e)) + f + math.log(1 + math.exp(-f)) - 2 * math.log(2)
    ),
    "jeffrey": lambda e, f: -e + f + f * f / 4 + f**3 / 16,
}
