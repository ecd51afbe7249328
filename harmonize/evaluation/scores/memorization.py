"""How much of a text a model still holds: pure functions of `TokenRow`. 1 = all of it, 0 = nothing."""

from __future__ import annotations

import math

from harmonize.evaluation.one_pass import TokenRow


def probability(row: TokenRow) -> float:
    """P(answer | question) ** (1 / tokens): the geometric mean of the tokens' probabilities, in [0, 1].

    Source: TOFU, arXiv 2401.06121, section 2.2 (code: exp of minus the mean loss).
    """
    return math.exp(mean_log_prob(row))


def exact_memorization(row: TokenRow) -> float:
    """Share of the tokens that are the model's first choice given all true tokens before, in [0, 1].

    Source: Tirumala et al. 2022, arXiv 2205.10770, section 3; as open-unlearning computes it (code).
    """
    return float(row.first.mean())


def extraction_strength(row: TokenRow, floor: bool = False) -> float:
    """1 - k / K for the shortest prefix of k tokens after which greedy decoding gives the rest, in [0, 1].

    Args:
        floor: open-unlearning's variant, whose search ends at K - 1, so that a text of which nothing is extracted
            scores 1 / K instead of 0 (0.25 for four tokens). For comparison with published numbers alone.

    Source: Carlini et al. 2021, arXiv 2012.07805; the form of open-unlearning (code).
    """
    length = len(row.ranks)
    wrong = row.ranks.nonzero()[0]
    k = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1.0 - min(k, length - 1) / length if floor else 1.0 - k / length


def tokens_at_k(row: TokenRow, k: int = 1) -> float:
    """Share of the tokens that are among the model's k likeliest given all true tokens before, in [0, 1].

    TR@k, the share that is *absent*, is 1 minus this.

    Source: Attention-Shifting, arXiv 2510.17210, names the metric; its formula was read in prose alone: no official
        code was read.
    """
    return float((row.ranks < k).mean())


def mean_log_prob(row: TokenRow) -> float:
    """Mean log-probability of the tokens, in nats; minus the loss."""
    return float(row.log_probs.mean())
