"""Passes over rows that measure a model as it stands: pure functions, fp32 results, no cache.

The loss of a row is the mean negative log-likelihood of its response tokens, without dropout. A statistic is a
mapping of names to tensors: names of parameters or layers as in the model's own state dict, whether adapters wrap it
or not. Nothing but the answer positions is ever measured.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.data.batch import Batch, Row, collate
from harmonize.errors import ModelError, did_you_mean
from harmonize.models.body import answer_hidden, evaluating, output_layer, unwrapped
from harmonize.models.generate import Progress
from harmonize.models.head import Head
from harmonize.models.products import full_precision

Statistic = dict[str, Tensor]
COUNT = "count"  # beside the matrices of a covariance: positions behind them
_BATCHING = ("batch_size", "progress")  # settings of a pass that move results by rounding alone
_WRAPPED = ("base_model.model.", ".base_layer")
_LINEAR = ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")


def fisher(
    model: nn.Module,
    head: Head,
    rows: Sequence[Row],
    pad_id: int,
    *,
    layers: Sequence[str] = (),
    group_rows: int = 1,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Statistic:
    """Diagonal of the empirical Fisher information: mean over rows of the squared gradient of a row's loss.

    Costs a backward pass per group of rows; in memory the result and one gradient beside the model.

    Args:
        model, head: As it stands; parameters that require a gradient are measured.
        rows: At least one.
        pad_id: Fills padded columns.
        layers: Patterns (`*mlp*`) of the names to keep to; none = all.
        group_rows: 1 squares the gradient of every row. More squares the mean gradient of so many consecutive rows at a
            time, as the code of SSD does with its batches (arXiv 2308.07707); the last group may be smaller and counts
            like the others, as there.
        batch_size: Rows of one forward pass; moves results by rounding alone.
        progress: Called with (done, total).

    Returns:
        Parameter name to its Fisher diagonal, fp32, zero where no row has a gradient.

    Raises:
        ModelError: A pattern that matches nothing.
    """
    chosen = trained_parameters(model, layers)
    found = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in chosen.items()}
    groups = [rows[i : i + group_rows] for i in range(0, len(rows), group_rows)]
    with evaluating(model), torch.enable_grad():
        for done, group in enumerate(groups, 1):
            gradient = gradient_of(model, head, group, pad_id, list(chosen.values()), batch_size)
            for total, own in zip(found.values(), gradient, strict=True):
                if own is not None:
                    total.addcmul_(own, own, value=1 / len(groups))
            if progress is not None:
                progress(done, len(groups))
    return found


def mean_gradient(
    model: nn.Module,
    head: Head,
    rows: Sequence[Row],
    pad_id: int,
    *,
    layers: Sequence[str] = (),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Statistic:
    """Mean over rows of the gradient of a row's loss; arguments as in `fisher`.

    Returns:
        Parameter name to its gradient, fp32; parameters that the loss does not touch are left out.
    """
    chosen = trained_parameters(model, layers)
    with evaluating(model), torch.enable_grad():
        found = gradient_of(model, head, rows, pad_id, list(chosen.values()), batch_size, progress)
    return {n: g for n, g in zip(chosen, found, strict=True) if g is not None}


def covariance(
    model: nn.Module,
    head: Head,
    rows: Sequence[Row],
    pad_id: int,
    *,
    layers: Sequence[str] = (),
    centered: bool = False,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Statistic:
    """Second moments of what linear layers put out at the answer positions (those that predict a response token).

    Uncentred: C = 1/n sum x x^T. Centred: 1/n sum (x - mean)(x - mean)^T. Every position counts alike. Without
    gradients; in memory 8 bytes per entry of every matrix asked for, so large models name some layers.

    Args:
        model, head, rows, pad_id, batch_size, progress: As in `fisher`.
        layers: Patterns (`*q_proj`) of the layers; none = every linear layer but the output layer.
        centered: Take the mean off.

    Returns:
        Layer name to its [d, d] matrix (d outputs of the layer), fp32, and `count`, the n positions behind it, int64.

    Raises:
        ModelError: A pattern that matches nothing.
    """
    chosen = linear_layers(model, layers)
    device = next(model.parameters()).device
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    shift: dict[str, Tensor] = {}
    count = 0

    def add(name: str, states: Tensor) -> None:
        if name not in sums:
            # any shift will do: it keeps a large mean from swallowing the digits of a small spread
            shift[name] = states.mean(0) if centered else torch.zeros_like(states[0])
            sums[name] = torch.zeros_like(states[0], dtype=torch.float64)
            squares[name] = torch.zeros(
                (states.shape[1], states.shape[1]), dtype=torch.float64, device=states.device
            )
        moved = states - shift[name]
        sums[name] += moved.sum(0, dtype=torch.float64)
        with full_precision(device):
            squares[name] += moved.T @ moved

    ordered = sorted(rows, key=lambda r: -r.length)
    with evaluating(model), torch.no_grad():
        for start in range(0, len(ordered), batch_size):
            batch = collate(ordered[start : start + batch_size], pad_id).to(device)
            _watch(model, chosen, batch, add)
            count += len(batch.labels)
            if progress is not None:
                progress(min(start + batch_size, len(ordered)), len(ordered))
    found: Statistic = {}
    for name in chosen:
        matrix = squares.pop(name) / count
        if centered:
            mean = sums[name] / count
            matrix -= torch.outer(mean, mean)
        found[name] = matrix.float()
    return {**found, COUNT: torch.tensor(count)}


KINDS: dict[str, Callable[..., Statistic]] = {
    "fisher": fisher,
    "mean_gradient": mean_gradient,
    "covariance": covariance,
}


def fit_stats(
    kind: str, model: nn.Module, head: Head, rows: Sequence[Row], pad_id: int, **settings: Any
) -> Statistic:
    """One statistic of a model over rows; see the pass of that kind for its settings.

    Raises:
        ModelError: An unknown kind, or a pattern of `layers` that matches nothing.
    """
    if kind not in KINDS:
        raise ModelError(f"'{kind}' is no statistic. {did_you_mean(kind, KINDS)}")
    return KINDS[kind](model, head, rows, pad_id, **settings)


def settings_of(kind: str) -> dict[str, Any]:
    """Settings of a pass that change what it measures, with their defaults."""
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _BATCHING}


def gradient_of(
    model: nn.Module,
    head: Head,
    rows: Sequence[Row],
    pad_id: int,
    parameters: Sequence[Tensor],
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[Tensor | None]:
    """Gradient of the mean over rows of each row's loss, in float32; None where a parameter plays no part.

    The model's mode is the caller's business.
    """
    total: list[Tensor | None] = [None] * len(parameters)
    device = next(model.parameters()).device
    for start in range(0, len(rows), batch_size):
        batch = collate(rows[start : start + batch_size], pad_id).to(device)
        nll = -head.log_probs(answer_hidden(model, batch), batch.labels)
        count = torch.bincount(batch.row, minlength=batch.n_rows)
        loss = (nll / count[batch.row]).sum() / len(rows)
        found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
        total = [
            t if g is None else g.float() if t is None else t + g.float()
            for t, g in zip(total, found, strict=True)
        ]
        if progress is not None:
            progress(min(start + batch_size, len(rows)), len(rows))
    return total


def own_name(name: str) -> str:
    """A parameter's or layer's name in the plain model, where peft has wrapped it."""
    return name.removeprefix(_WRAPPED[0]).replace(_WRAPPED[1], "")


def trained_parameters(model: nn.Module, patterns: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by their names in the plain model; tied ones once.

    Raises:
        ModelError: A pattern that matches none of them.
    """
    found = {own_name(n): p for n, p in unwrapped(model).named_parameters() if p.requires_grad}
    return {n: found[n] for n in matching(found, patterns)}


def linear_layers(model: nn.Module, patterns: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Linear layers but the output layer, by their names in the plain model; with adapters, the adapted layers.

    Raises:
        ModelError: A pattern that matches none of them.
    """
    inner = unwrapped(model)
    head = output_layer(inner)
    found: dict[str, nn.Module] = {}
    for name, module in inner.named_modules():
        adapted = hasattr(module, "base_layer")
        linear = type(module).__name__ in _LINEAR and ".base_layer" not in name and ".lora_" not in name
        if (adapted or linear) and module is not head:
            found[own_name(name)] = module
    return {n: found[n] for n in matching(found, patterns)}


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that any of the patterns matches, in their own order; without patterns all of them.

    Raises:
        ModelError: A pattern that matches none.
    """
    known = list(names)
    if not patterns:
        return known
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ModelError(
                f"'{pattern}' matches no layer of this model. "
                f"Names are matched whole, * stands for anything. {did_you_mean(pattern, known, limit=12)}"
            )
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _watch(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, add: Callable[[str, Tensor], None]
) -> None:
    """One forward; `add` gets every layer's output at the answer positions, [A, d] fp32."""

    def after(name: str) -> Any:
        def hook(_: nn.Module, args: Any, out: Tensor) -> None:
            if out.numel() != batch.input_ids.numel() * out.shape[-1]:
                raise ModelError(
                    f"The layer {name} sees only some of the tokens (as an expert of a mixture does), so what it puts "
                    "out at the answer positions is not known. Name other layers."
                )
            add(name, out.reshape(-1, out.shape[-1]).index_select(0, batch.positions).float())

        return hook

    handles = [module.register_forward_hook(after(name)) for name, module in layers.items()]
    try:
        answer_hidden(model, batch)
    finally:
        for handle in handles:
            handle.remove()
