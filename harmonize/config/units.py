"""Sizes and durations as people write them: `20GB`, `7d`."""

from __future__ import annotations

import re

from harmonize.errors import ConfigError

_SIZES = {"b": 1.0} | {
    f"{letter}{tail}": float(base**power)
    for power, letter in enumerate("kmgt", 1)
    for tail, base in (("b", 1000), ("ib", 1024), ("", 1000))
}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNITS = ("B", "kB", "MB", "GB", "TB")
_AGES = (("d", 86400), ("h", 3600), ("min", 60))
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_size(text: str, key: str) -> int:
    """Bytes of `500MB`, `20 GB` (powers of 1000) or `20GiB` (of 1024).

    Raises:
        ConfigError: Neither, told with `key` and what to type.
    """
    return int(_parsed(text, key, _SIZES, "a size such as 500MB or 20GB", "20GB"))


def parse_duration(text: str, key: str) -> float:
    """Seconds of `30min`, `12h`, `7d` or `2w`.

    Raises:
        ConfigError: None of them, told with `key` and what to type.
    """
    return _parsed(text, key, _SECONDS, "a duration such as 30min, 12h, 7d or 2w", "7d")


def show_size(size: float) -> str:
    """`850 B`, `4.1 MB`, `20 GB`: powers of 1000, two digits or three."""
    unit = 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    digits = f"{size:.1f}" if unit and size < 9.95 else f"{size:.0f}"
    return f"{digits.removesuffix('.0')} {_UNITS[unit]}"


def show_age(seconds: float) -> str:
    """`3 d`, `5 h`, `12 min`, `now`; rounded down."""
    for unit, length in _AGES:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "now"


def _parsed(text: str, key: str, units: dict[str, float] | dict[str, int], form: str, example: str) -> float:
    found = _FORM.fullmatch(text)
    number, unit = found.groups() if found else ("", "")
    if unit.lower() not in units:
        joint = " " if key.startswith("--") else "="
        raise ConfigError(f"{key}{joint}{text}: expected {form}. For example {key}{joint}{example}.")
    return float(number) * units[unit.lower()]
