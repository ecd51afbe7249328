"""The adapters of a run: where they start, and what the terms on weights read of them.

What is measured is the start model on the training rows of two sides: the forget role, and all other roles that the
method trains on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonize.config.instantiate import parameters, resolve
from harmonize.config.rules import inputs_of, trained_roles
from harmonize.data.corpus import Corpus
from harmonize.errors import ConfigError
from harmonize.models.load import LoadedModel
from harmonize.models.lora import (
    adapted_layers,
    adapter_layers,
    apply_peft,
    base_weight,
    has_adapters,
    plain,
    start_adapters,
)
from harmonize.objectives.weights import Adapter, Weights, reads_measured
from harmonize.statistics.subspaces import top_directions
from harmonize.unlearning.terms import Term, weight_losses
from harmonize.unlearning.training import statistics_of

FORGET, RETAIN = "forget", "retain"
COVARIANCES = {"forget_covariance": FORGET, "retain_covariance": RETAIN}
Moments = Mapping[str, Tensor]
Measure = Callable[[str, Sequence[str]], Moments]


def measure_for(
    cfg: Any, loaded: LoadedModel, corpus: Corpus, record: Callable[[Path], object] | None = None
) -> Measure:
    """Second moments of layers' outputs on a side's rows: (side, layers) to layer to [out, out], kept by content.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        loaded: The start model; it is measured as it stands when it is asked for.
        corpus: The data set.
        record: Told every folder that is read or written.
    """

    def measure(side: str, layers: Sequence[str]) -> Moments:
        roles = trained_roles(cfg, side == FORGET)
        return statistics_of(cfg, loaded, corpus, record).get("covariance", roles, layers=list(layers))

    return measure


def adapt(
    model: Any, peft_cfg: Any, terms: Sequence[Term], measure: Measure, seed: int, allow: Iterable[str] = ()
) -> tuple[Any, Weights | None]:
    """Wraps a model with its adapters, starts them, and gathers what the terms on weights read.

    Args:
        model: The start model, plain.
        peft_cfg: The `peft` configuration. `init` names a function and its settings: from a layer's `weight` [out, in],
            its `rank` and any of `forget_covariance` and `retain_covariance` [out, out] to A [r, in] and B [out, r].
        terms: The method's.
        measure: Asked before the model is wrapped, so that its results do not depend on the seed, and only for what is
            read.
        seed: Decides fresh adapters.
        allow: As in `resolve`.

    Returns:
        The model, and what terms on weights read, None where there is no such term.

    Raises:
        ConfigError: Terms that read adapters where there are none.
        ModelError: Targets that do not exist, or a rank above a layer's outputs.
    """
    node: Mapping[str, Any] = plain(peft_cfg).get("init") or {}
    function = resolve(node["_target_"], allow) if node else None
    asked = inputs_of(function) & COVARIANCES.keys() if function else set()
    sides = {COVARIANCES[name] for name in asked}
    sides |= {RETAIN for t in terms if reads_measured(t.function)}
    layers = adapted_layers(model, peft_cfg) if sides else []
    measured = {side: measure(side, layers) for side in sorted(sides)} if layers else {}
    torch.manual_seed(seed)
    model = apply_peft(model, peft_cfg)
    if function is not None:
        settings = parameters(node)
        starts = {}
        for name, layer in adapter_layers(model.get_base_model()):
            given = {covariance: measured[COVARIANCES[covariance]][name] for covariance in asked}
            rank = int(layer.r[model.active_adapter])
            starts[name] = function(weight=base_weight(layer).cpu(), rank=rank, **given, **settings)
        start_adapters(model, starts)
    return model, weights_for(model, terms, measured.get(RETAIN))


def trained_adapters(model: Any) -> dict[str, Adapter]:
    """Every layer's trained adapter by the layer's name in the base model; the tensors are the parameters themselves.

    Empty for a model without adapters.
    """
    if not has_adapters(model):
        return {}
    return {
        name: Adapter(layer.lora_A[key].weight, layer.lora_B[key].weight, float(layer.scaling[key]))
        for name, layer in adapter_layers(model.get_base_model())
        for key in layer.active_adapters
        if key in layer.lora_A and layer.lora_A[key].weight.requires_grad
    }


def weights_for(model: Any, terms: Sequence[Term], retain: Moments | None = None) -> Weights | None:
    """What the terms on weights read; None where there is no such term.

    Args:
        model: With its adapters as they start.
        terms: The method's.
        retain: Layer to second moments of its outputs on retain rows, where a term reads their directions.

    Raises:
        ConfigError: The model has no adapters, or a term cannot be computed as configured.
    """
    names = [t.name for t in terms if t.reads_weights]
    if not names:
        return None
    adapters = trained_adapters(model)
    if not adapters:
        raise ConfigError(
            f"The term {names[0]} reads the matrices of adapters, and there are none. Use peft=lora."
        )
    weights = Weights(adapters, None if retain is None else lambda layer, k: top_directions(retain[layer], k))
    with torch.no_grad():
        weight_losses(terms, weights)  # a setting that cannot be stops the run here, and directions are found
    return weights
