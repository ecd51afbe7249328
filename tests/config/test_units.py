"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest

from harmonize.config.units import parse_duration, parse_size, show_age, show_size
from harmonize.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("850B", 850),
        ("2kB", 2_000),
        ("1.5 MB", 1_500_000),
        ("20GB", 20_000_000_000),
        ("20gb", 20_000_000_000),
        ("20G", 20_000_000_000),
        ("2GiB", 2 * 2**30),
        ("1TB", 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--keep-under") == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30min", 1800),
        ("30m", 1800),
        ("12h", 43200),
        ("7d", 604800),
        ("2 w", 1209600),
        ("0d", 0),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text, "--older-than") == seconds


@pytest.mark.parametrize("text", ["", "20", "GB", "-1GB", "20 gigabytes", "7d"])
def test_what_is_no_size_says_what_to_type(text: str) -> None:
    with pytest.raises(ConfigError, match=r"For example teacher\.cache_budget=20GB"):
        parse_size(text, "teacher.cache_budget")


@pytest.mark.parametrize("text", ["", "7", "d", "-7d", "1y", "20GB"])
def test_what_is_no_duration_says_what_to_type(text: str) -> None:
    with pytest.raises(ConfigError, match="For example --older-than 7d"):
        parse_duration(text, "--older-than")


def test_what_is_shown() -> None:
    shown = [show_size(n) for n in (0, 850, 2_048, 9_949, 9_951, 999_499, 999_500, 4.1e9, 20e9, 3e15)]
    assert shown == [
        "0 B",
        "850 B",
        "2 kB",
        "9.9 kB",
        "10 kB",
        "999 kB",
        "1 MB",
        "4.1 GB",
        "20 GB",
        "3000 TB",
    ]
    ages = [show_age(s) for s in (0, 59, 60, 3599, 3600, 86399, 86400, 9 * 86400)]
    assert ages == ["now", "now", "1 min", "59 min", "1 h", "23 h", "1 d", "9 d"]
