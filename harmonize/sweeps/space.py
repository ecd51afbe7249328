"""The space of a search, in the words of Hydra's overrides, and the values that a trial takes in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harmonize.errors import ConfigError


def space_of(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Distributions by key, and the overrides that every trial has.

    `choice(...)` or `a,b` is a choice without order, `range(...)` an ordered one, `interval(low, high)` a real number,
    `int(interval(low, high))` a whole one, and `tag(log, ...)` is drawn on a logarithmic scale.

    Raises:
        ConfigError: Nothing to search, or a set that cannot be searched.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    space: dict[str, Any] = {}
    fixed: list[str] = []
    problems: list[str] = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
            if not override.is_sweep_override():
                fixed.append(text)
                continue
            space[override.get_key_element().lstrip("+")] = _distribution(override)
        except (HydraException, ValueError) as error:
            first = str(error).splitlines()[0]
            problems.append(f"'{text}' is nothing to search in ({first}). For example {_EXAMPLE}.")
    if not space and not problems:
        problems.append(
            f"hydra/sweeper=optuna has nothing to search. Give it a range, for example {_EXAMPLE}, or a preset: "
            "hparams_search=pareto."
        )
    if problems:
        raise ConfigError(problems)
    return space, fixed


_EXAMPLE = "'optimizer.lr=tag(log,interval(1e-5,1e-2))'"


def _distribution(override: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    log = "log" in getattr(value, "tags", ())
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        kind = IntDistribution if whole else FloatDistribution
        return kind(value.start, value.end, log=log)
    values = list(override.sweep_string_iterator())
    numbers = [float(v) for v in values] if override.is_range_sweep() else []
    if len(numbers) > 1 and numbers[1] > numbers[0]:
        step = numbers[1] - numbers[0]
        if all(n.is_integer() for n in numbers):
            return IntDistribution(int(numbers[0]), int(numbers[-1]), step=int(step))
        return FloatDistribution(numbers[0], numbers[-1], step=step)
    return CategoricalDistribution(values)


def written(params: Mapping[str, Any]) -> list[str]:
    """A trial's values as overrides; real numbers with six digits, which name folders well and move no result."""
    return [
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    ]


def middle(space: Mapping[str, Any]) -> dict[str, Any]:
    """One value of each: the first of a choice, the middle of a range."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    found: dict[str, Any] = {}
    for key, values in space.items():
        if isinstance(values, CategoricalDistribution):
            found[key] = values.choices[0]
        elif isinstance(values, IntDistribution):
            found[key] = values.low + (values.high - values.low) // (2 * values.step) * values.step
        else:
            found[key] = (values.low + values.high) / 2
    return found
