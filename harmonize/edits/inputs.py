"""What edits may ask for, by parameter name, and the words that they share.

An edit is a function whose positional parameters are named here and whose keyword-only parameters are its settings.
It yields (name, new tensor) for every tensor that it changes, so that a large model needs room for one tensor, not
for a second copy; `dict(edit(...))` is the changed part of the state dict. It never writes into what it is given. State
dicts name a tied tensor once, as `named_parameters` does; of a fine-tuned one, tensors that did not change may be
missing.

    start                            the weights before training
    weights                          the weights now
    forget_fisher, retain_fisher     Fisher diagonal at the start
    forget_mean_gradient, ...        mean gradient at the start
    forget_covariance, ...           covariances of what linear layers put out, at the start
    forget_weights, retain_weights   the start model fine-tuned on these rows
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from harmonize.errors import ConfigError, did_you_mean

State = Mapping[str, Tensor]
Changes = Iterator[tuple[str, Tensor]]

SIDES: tuple[str, ...] = ("forget", "retain")
KINDS: tuple[str, ...] = ("fisher", "mean_gradient", "covariance", "weights")
STATES: tuple[str, ...] = ("start", "weights")

# Whose rows each side's statistics are of, where an edit's configuration does not say.
ROLES: dict[str, list[str]] = {"forget": ["forget"], "retain": ["neighbor", "retain"]}


@dataclass(frozen=True)
class Measured:
    """An input that is measured, or trained, on rows of the data.

    Attributes:
        side: forget or retain.
        kind: fisher, mean_gradient, covariance or weights.
    """

    side: str
    kind: str


FIELDS: dict[str, Measured] = {f"{s}_{k}": Measured(s, k) for s in SIDES for k in KINDS}


def inputs_of(edit: Callable[..., Changes]) -> tuple[str, ...]:
    """Names of the positional parameters of an edit.

    Raises:
        ConfigError: One that nothing supplies.
    """
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(p.name for p in inspect.signature(edit).parameters.values() if p.kind in positional)
    for name in names:
        if name not in FIELDS and name not in STATES:
            raise ConfigError(
                f"The edit {edit.__name__} reads '{name}', which nothing supplies. "
                f"{did_you_mean(name, [*FIELDS, *STATES])} Settings of an edit are keyword-only parameters."
            )
    return names


def measured_inputs(edit: Callable[..., Changes]) -> dict[str, Measured]:
    """What of an edit's inputs has to be measured or trained."""
    return {name: FIELDS[name] for name in inputs_of(edit) if name in FIELDS}


def settings_of(kind: str) -> dict[str, Any]:
    """Settings of an input of this kind (`edit.inputs.<kind>`), with their defaults."""
    if kind == "weights":
        return {"steps": None, "batch_rows": 16}
    from harmonize.statistics.passes import settings_of as pass_settings

    return pass_settings(kind)


def floating(state: State, *others: State) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the floating-point tensors that all of these have, in the first one's order."""
    for name, value in state.items():
        if value.is_floating_point() and all(name in other for other in others):
            yield name, value


def like(value: Tensor, pattern: Tensor) -> Tensor:
    """A tensor in fp32 on the device of another."""
    return value.to(pattern.device).float()


def block_of(name: str) -> str | None:
    """The transformer block that a tensor belongs to (`model.layers.3`), by the first number in its name."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else None
