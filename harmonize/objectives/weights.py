"""What an objective may read of the trained weights, in the place of outputs, by parameter name.

Such an objective is a pure function whose positional parameters are fields of `Weights` and whose keyword-only
parameters are its settings. It returns one scalar: it has no rows and no roles, and counts once per optimizer step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from harmonize.errors import ConfigError
from harmonize.objectives.inputs import needs, settings_of, signature


class Adapter(NamedTuple):
    """The trained low-rank update of one layer: its weight is that of the start model plus scaling * b @ a.

    Attributes:
        a: [r, in], with gradient.
        b: [out, r], with gradient.
        scaling: Of the product.
    """

    a: Tensor
    b: Tensor
    scaling: float


Adapters = Mapping[str, Adapter]
FIELDS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}
F = TypeVar("F", bound=Callable[..., Any])


def _field() -> Callable[[F], F]:
    """Makes a method of `Weights` a field; its parameters are settings of the objective that it depends on."""

    def register(method: F) -> F:
        FIELDS[method.__name__] = (method, tuple(inspect.signature(method).parameters)[1:])
        return method

    return register


class Weights:
    """The trained matrices of a run, and what was measured on the start model beside them.

    Args:
        adapters: Layer to its adapter. The tensors are the parameters themselves, so their values are the present ones.
    """

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters

    def get(self, name: str, settings: Mapping[str, Any]) -> Any:
        """The value of a field under an objective's settings.

        Raises:
            KeyError: No such field.
        """
        method, wanted = FIELDS[name]
        return method(self, *(settings[s] for s in wanted))

    @_field()
    def adapters(self) -> Adapters:
        """Layer to its adapter, in the order of the model."""
        return self._adapters


def reads_weights(function: Callable[..., Any]) -> bool:
    """Whether an objective reads weights in the place of outputs.

    Raises:
        ConfigError: It asks for both.
    """
    asked = needs(function)
    found = asked & FIELDS.keys()
    if found and found != asked:
        raise ConfigError(
            f"The objective {getattr(function, '__name__', function)} reads weights ({', '.join(sorted(found))}) and "
            f"outputs ({', '.join(sorted(asked - found))}). Make two of it, each with a weight of its own."
        )
    return bool(found)


def call_on_weights(function: Callable[..., Any], weights: Weights, settings: Mapping[str, Any]) -> Any:
    """Runs a function on the fields it names.

    Raises:
        ConfigError: Unknown or missing settings.
    """
    full = settings_of(function, settings)
    return function(*(weights.get(name, full) for name in signature(function)[0]), **full)


def reported(rule: Callable[..., Mapping[str, float]]) -> Callable[[F], F]:
    """Gives an objective figures beside its value: a function of the same fields and settings to numbers by name."""

    def mark(function: F) -> F:
        function.figures = rule  # type: ignore[attr-defined]
        return function

    return mark


def figures_of(
    function: Callable[..., Any], weights: Weights, settings: Mapping[str, Any]
) -> dict[str, float]:
    """The figures of an objective; none where it has no rule for them."""
    rule = getattr(function, "figures", None)
    return {} if rule is None else dict(call_on_weights(rule, weights, settings_of(function, settings)))
