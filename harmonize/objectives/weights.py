"""What an objective may read of the trained weights, in the place of outputs, by parameter name.

Such an objective is a pure function whose positional parameters are fields of `Weights` and whose keyword-only
parameters are its settings. It returns one scalar: it has no rows and no roles, and counts once per optimizer step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
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


class WeightField(NamedTuple):
    """How one field is computed.

    Attributes:
        compute: Method of `Weights`.
        settings: Names of the settings it depends on.
        measured: Whether it needs what retain rows' outputs look like under the start model.
    """

    compute: Callable[..., Any]
    settings: tuple[str, ...]
    measured: bool


Adapters = Mapping[str, Adapter]
Directions = Callable[[str, int], Tensor]
FIELDS: dict[str, WeightField] = {}
F = TypeVar("F", bound=Callable[..., Any])


def _field(measured: bool = False) -> Callable[[F], F]:
    """Makes a method of `Weights` a field; its parameters are settings of the objective that it depends on."""

    def register(method: F) -> F:
        settings = tuple(inspect.signature(method).parameters)[1:]
        FIELDS[method.__name__] = WeightField(method, settings, measured)
        return method

    return register


class Weights:
    """The trained matrices of a run, and what was measured on the start model beside them.

    Args:
        adapters: Layer to its adapter. The tensors are the parameters themselves, so their values are the present ones.
        directions: Of a layer's outputs [out] on retain rows, the given number of principal ones, [out, k]; None where
            no objective asks for them.
    """

    def __init__(self, adapters: Adapters, directions: Directions | None = None) -> None:
        self._adapters, self._directions = adapters, directions
        self._values: dict[tuple[Any, ...], Any] = {}

    def get(self, name: str, settings: Mapping[str, Any]) -> Any:
        """The value of a field under an objective's settings; computed on first use.

        Raises:
            KeyError: No such field.
        """
        known = FIELDS[name]
        key = (name, *(settings[s] for s in known.settings))
        if key not in self._values:
            self._values[key] = known.compute(self, *key[1:])
        return self._values[key]

    @_field()
    def adapters(self) -> Adapters:
        """Layer to its adapter, in the order of the model."""
        return self._adapters

    @_field(measured=True)
    def retain_subspace(self, rank: int) -> Mapping[str, Tensor]:
        """Layer to [out, k] fp32: orthonormal principal directions of its outputs on retain rows, k = rank or out."""
        if self._directions is None:
            raise ConfigError(
                "An objective reads directions of the retain rows' outputs, and none were measured."
            )
        return {
            layer: self._directions(layer, rank).to(adapter.b.device, torch.float32)
            for layer, adapter in self._adapters.items()
        }


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


def reads_measured(function: Callable[..., Any]) -> bool:
    """Whether an objective on weights reads what was measured on retain rows."""
    return any(FIELDS[n].measured for n in needs(function) if n in FIELDS)


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
