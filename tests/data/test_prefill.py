"""The hash that decides what is held out."""

from __future__ import annotations

from harmonize.data.prefill import prefix_is_trained, unit_hash


def test_unit_hash_is_fixed_and_uniform() -> None:
    # Literal values: held-out sets must not move between versions.
    assert unit_hash("a") == unit_hash("a") != unit_hash("b")
    assert unit_hash("a", 1) != unit_hash("a1") and unit_hash(1) != unit_hash("1")
    values = [unit_hash("fact", i) for i in range(2000)]
    assert min(values) >= 0.0 and max(values) < 1.0
    assert abs(sum(values) / len(values) - 0.5) < 0.02
    assert abs(sum(v < 0.1 for v in values) / len(values) - 0.1) < 0.02


def test_a_larger_share_holds_out_a_superset() -> None:
    facts = [f"f{i}" for i in range(500)]
    held = [{f for f in facts if not prefix_is_trained(f, share)} for share in (0.0, 0.2, 0.5, 1.0)]
    assert held[0] == set() and held[3] == set(facts)
    assert held[0] < held[1] < held[2] < held[3]
    assert 60 <= len(held[1]) <= 140
