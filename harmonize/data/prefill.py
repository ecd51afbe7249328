"""Which facts' own answer prefixes may be trained on, and the deterministic hash behind such choices.

Training and evaluation ask the same pure functions, so "never trained on" cannot drift apart.
"""

from __future__ import annotations

from harmonize.data.corpus import content_hash

_BITS = 53  # a float holds 53 bits exactly, so the largest value stays below 1


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: uniform over contents, equal in every process."""
    return (int(content_hash(*parts)[:16], 16) >> (64 - _BITS)) / float(1 << _BITS)


def prefix_is_trained(fact_id: str, heldout_share: float) -> bool:
    """Whether this fact's own answer prefixes may be shown in training.

    Args:
        fact_id: `Example.fact_id`.
        heldout_share: `dataset.prefill.heldout_share`, the expected share of facts held out, in [0, 1].

    Source: our choice; a hash, so the set depends neither on the order nor on the number of facts, and a
    larger share holds out a superset.
    """
    return unit_hash("answer-prefix", fact_id) >= heldout_share
