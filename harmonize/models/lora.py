"""Adapters through peft, under peft's own names.

The base weights are the start model's, whatever the adapters start from: teacher and reference are the model with its
adapters off. Adapters that start elsewhere than at zero come with a frozen second one that takes their start off again.
"""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.config.instantiate import ABOUT
from harmonize.errors import ModelError, did_you_mean

_OWN_KEYS = ("peft_type", "merge", "load_in_4bit", "init", *ABOUT)  # ours; everything else is peft's
OFFSET = "offset"  # the frozen adapter that takes a start off again
_SHIFTING = ("pissa", "olora")  # peft's own starts that move the base weights
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_HEAD_NAMES = ("lm_head", "embed_out", "embed_tokens", "embed_in", "wte", "output_embeddings")


def plain(config: Any) -> dict[str, Any]:
    """A configuration node (omegaconf, dataclass, mapping or None) as a plain dict."""
    if config is None:
        return {}
    if hasattr(config, "_metadata"):  # omegaconf, without importing it
        from omegaconf import OmegaConf

        config = OmegaConf.to_container(config, resolve=True)
    known = asdict(config) if is_dataclass(config) and not isinstance(config, type) else {}
    return {**known, **config} if isinstance(config, Mapping) else known


def wants_adapters(peft_cfg: Any) -> bool:
    """Whether this `peft` configuration asks for adapters."""
    return str(plain(peft_cfg).get("peft_type") or "none").lower() != "none"


def has_adapters(model: nn.Module) -> bool:
    """Whether the model is wrapped by peft."""
    return hasattr(model, "peft_config") and hasattr(model, "disable_adapter")


def apply_peft(model: nn.Module, peft_cfg: Any) -> nn.Module:
    """Wraps a model with the adapters that `peft` describes; `peft_type: none` returns it as it is.

    The base weights stay as they are, also under those of peft's `init_lora_weights` that move them.

    Args:
        model: A causal LM.
        peft_cfg: `peft_type: LORA` and peft's `LoraConfig` parameters (r, lora_alpha, target_modules, ...).

    Raises:
        ModelError: An unknown type or parameter, a target that the model does not have, or one that is the head or
            the embedding: teacher and student share those, and an adapter there would move the teacher.
    """
    chosen = plain(peft_cfg)
    if not wants_adapters(chosen):
        return model
    kind = str(chosen["peft_type"]).upper()
    if kind != "LORA":
        raise ModelError(
            f"peft.peft_type={chosen['peft_type']} is not supported. {did_you_mean(kind, ['LORA', 'none'])}"
        )
    from peft import LoraConfig, get_peft_model

    options = {k: v for k, v in chosen.items() if k not in _OWN_KEYS}
    known = {f.name for f in fields(LoraConfig) if f.init} - {"peft_type", "task_type"}
    for name in options:
        if name not in known | {"task_type"}:
            raise ModelError(
                f"peft.{name} is not a parameter of peft's LoraConfig. {did_you_mean(name, known)}"
            )
    _refuse_head(options)
    options.setdefault("task_type", "CAUSAL_LM")
    before = {}
    if shifts_base(chosen):
        before = {n: _weight(model.get_submodule(n)).clone() for n in adapted_layers(model, chosen)}
    try:
        with warnings.catch_warnings():  # peft reads attributes that newer transformers have renamed
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "fan_in_fan_out")  # it sets that right by itself
            wrapped: nn.Module = get_peft_model(model, LoraConfig(**options))  # type: ignore[arg-type]
    except ValueError as error:
        found = linear_names(model)
        raise ModelError(
            f"{error} Linear layers here: {', '.join(found)}. For example peft.target_modules=[{','.join(found[:2])}]."
        ) from error
    layer: Any = wrapped.get_output_embeddings()  # type: ignore[operator]
    embedding: Any = wrapped.get_input_embeddings()  # type: ignore[operator]
    if any(hasattr(m, "base_layer") or hasattr(m, "modules_to_save") for m in (layer, embedding)):
        raise ModelError(_HEAD_REFUSED)
    if before:
        _give_back(wrapped, before)
    return wrapped


def form_of_peft(model: nn.Module, peft_cfg: Any) -> nn.Module:
    """A model without weights, wrapped as `apply_peft` and `start_adapters` would wrap it; nothing is computed.

    Raises:
        ModelError: As in `apply_peft`.
    """
    chosen = plain(peft_cfg)
    wrapped = apply_peft(model, {**chosen, "init_lora_weights": True})
    if has_adapters(wrapped) and (chosen.get("init") or shifts_base(chosen)):
        layers: Any = adapter_layers(wrapped.get_base_model())  # type: ignore[operator]
        trained = wrapped.active_adapter
        sides = {n: (layer.lora_A[trained].weight, layer.lora_B[trained].weight) for n, layer in layers}
        start_adapters(
            wrapped, {n: (torch.zeros(a.shape), torch.zeros(b.shape)) for n, (a, b) in sides.items()}
        )
    return wrapped.to("meta")  # peft makes some adapters elsewhere


def shifts_base(peft_cfg: Any) -> bool:
    """Whether peft's own start (`init_lora_weights`) is one that moves the base weights."""
    return str(plain(peft_cfg).get("init_lora_weights", "")).lower().startswith(_SHIFTING)


def adapted_layers(model: nn.Module, peft_cfg: Any) -> list[str]:
    """Names of the layers that `apply_peft` would adapt, none without adapters; the model is left as it was.

    Raises:
        ModelError: What `apply_peft` raises, above all a target that the model does not have.
    """
    if not wants_adapters(peft_cfg):
        return []
    flags = [(p, p.requires_grad) for p in model.parameters()]
    # neither a start of peft's that moves the base nor copies of whole modules: unload() would leave them behind
    probe = {**plain(peft_cfg), "init_lora_weights": True, "modules_to_save": None}
    wrapped: Any = apply_peft(model, probe)
    names = [name for name, _ in adapter_layers(wrapped.get_base_model())]
    wrapped.unload()
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    return names


@torch.no_grad()
def start_adapters(model: nn.Module, starts: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Gives fresh adapters other first matrices, and moves neither the base weights nor what the model says.

    A second, frozen adapter of the same form holds the same matrices, one of them negated: the update of a layer is
    scaling * (B A - B0 A0), zero at first up to rounding. It is off wherever the trained one is off.

    Args:
        model: Wrapped by `apply_peft`, untrained.
        starts: Layer (its name in the base model) to A [r, in] and B [out, r], for every adapted layer.
    """
    wrapped: Any = model
    trained = wrapped.active_adapter
    config = copy.deepcopy(wrapped.peft_config[trained])
    config.init_lora_weights, config.lora_dropout, config.modules_to_save = True, 0.0, None
    wrapped.add_adapter(OFFSET, config)
    for name, layer in adapter_layers(wrapped.get_base_model()):
        a, b = starts[name]
        for key, sign in ((trained, 1), (OFFSET, -1)):
            layer.lora_A[key].weight.copy_(a)
            layer.lora_B[key].weight.copy_(sign * b)
        layer.set_adapter([trained, OFFSET])
        layer.lora_A[OFFSET].requires_grad_(False)
        layer.lora_B[OFFSET].requires_grad_(False)


def base_weight(layer: Any) -> Tensor:
    """[out, in] the frozen weight under an adapter."""
    weight = _weight(layer.base_layer)
    return weight.T if getattr(layer, "fan_in_fan_out", False) else weight


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight.detach()
    return weight


@torch.no_grad()
def _give_back(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """The base weights as they were before peft moved them, with the adapters' start taken off by a second one."""
    wrapped: Any = model
    starts = {}
    for name, layer in adapter_layers(wrapped.get_base_model()):
        layer.base_layer.weight.copy_(before[name])
        starts[name] = tuple(
            side[wrapped.active_adapter].weight.clone() for side in (layer.lora_A, layer.lora_B)
        )
    start_adapters(model, starts)


def linear_names(model: nn.Module) -> list[str]:
    """Last parts of the names of all linear layers except the head: what `target_modules` may list."""
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    kinds = ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")
    found = {
        n.rsplit(".", 1)[-1] for n, m in model.named_modules() if type(m).__name__ in kinds and m is not head
    }
    return sorted(found)


class adapters_off(contextlib.AbstractContextManager[None]):
    """The base model: adapters are off inside. No effect on a model without adapters; may be entered again and again.

    Only forward passes belong inside: a backward pass in here would recompute checkpointed layers without adapters.
    What was trained before is trained afterwards, and what was frozen is frozen.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._stack: list[contextlib.ExitStack] = []

    def __enter__(self) -> None:
        stack = contextlib.ExitStack()
        if has_adapters(self._model):
            # peft makes every active adapter trainable when it is switched on again
            flags = [(p, p.requires_grad) for n, p in self._model.named_parameters() if is_adapter(n)]
            stack.callback(lambda: [p.requires_grad_(flag) for p, flag in flags])
            stack.enter_context(self._model.disable_adapter())  # type: ignore[operator]
        self._stack.append(stack)

    def __exit__(self, *error: object) -> None:
        self._stack.pop().close()


def without_adapters(model: nn.Module) -> nn.Module | None:
    """The base of a model with adapters, as modules of its own around the same tensors: no second copy of any weight.

    None where a module's own forward was replaced, which would call the original's parts, and with rotary frequencies
    that follow the lengths read (`dynamic`): theirs is a state that the two would share by half.
    """
    wrapped: Any = model
    made: dict[int, nn.Module] = {}

    def beside(module: Any) -> nn.Module:
        # what peft keeps of a layer that is trained whole, or adapted
        for name in ("original_module", "base_layer"):
            module = getattr(module, name, module)
        if id(module) not in made:
            twin = made[id(module)] = copy.copy(module)
            # parameters and buffers stay the same dicts: what moves the one moves the other
            parts = {n: None if m is None else beside(m) for n, m in module._modules.items()}
            twin.__dict__.update(_modules=parts, **{name: OrderedDict() for name in _HOOKS})
        return made[id(module)]

    base: nn.Module = wrapped.get_base_model()
    for module in base.modules():
        if "forward" in vars(module) or "dynamic" in str(getattr(module, "rope_type", "")):
            return None
    return beside(base)


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter, trained or frozen."""
    return ".lora_" in name


def adapter_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of every layer that carries an adapter."""
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "get_delta_weight"):
            yield name, module


def base_is_frozen(peft_cfg: Any) -> bool:
    """Whether these adapters leave every weight of the base alone: no trained biases, no modules trained whole."""
    chosen = plain(peft_cfg)
    whole = chosen.get("modules_to_save") or str(chosen.get("bias") or "none") != "none"
    return wants_adapters(chosen) and not whole


def merged_weight(layer: Any) -> Tensor:
    """A layer's matrix with its active adapters added, summed in fp32, in the matrix's dtype.

    Raises:
        ModelError: Quantized weights, or an adapter that is more than an added matrix (such as DoRA).
    """
    weight: Tensor = layer.base_layer.weight
    if not weight.is_floating_point():
        raise ModelError(
            "An adapter on 4-bit weights cannot be merged exactly. Export it alone with peft.merge=false, and "
            "merge it into the base model loaded in full precision."
        )
    if any(getattr(layer, "use_dora", {}).values()) or getattr(layer, "lora_variant", None):
        raise ModelError(
            "Only plain LoRA can be merged on export. Set peft.merge=false to export the adapter alone."
        )
    total = weight.detach().float()
    for adapter in layer.active_adapters:
        if adapter in layer.scaling:
            total = total + layer.get_delta_weight(adapter).float()
    return total.to(weight.dtype)


@torch.no_grad()
def merge_in_place(model: nn.Module) -> nn.Module:
    """The plain model with its adapters added to the matrices they touch, one matrix at a time; the wrapper is gone.

    A model without adapters is returned as it is.

    Raises:
        ModelError: As in `merged_weight`.
    """
    if not has_adapters(model):
        return model
    for _, layer in adapter_layers(model):
        layer.base_layer.weight.copy_(merged_weight(layer))
    plain_model: nn.Module = model.unload()  # type: ignore[operator]
    for parameter in plain_model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return plain_model


_HEAD_REFUSED = (
    "peft.target_modules or peft.modules_to_save names the output layer or the embedding. The teacher is the model "
    "with adapters off and shares them, so they must stay as they are. Name layers of attention and MLP, or use "
    "peft.target_modules=all-linear."
)


def _refuse_head(options: dict[str, Any]) -> None:
    for key in ("target_modules", "modules_to_save", "trainable_token_indices"):
        named = options.get(key)
        if not named:
            continue
        if key == "trainable_token_indices":
            raise ModelError(_HEAD_REFUSED)
        if isinstance(named, str):
            hit = named != "all-linear" and any(
                re.fullmatch(named, f"model.{n}") or named == n for n in _HEAD_NAMES
            )
        else:
            hit = any(str(n).rsplit(".", 1)[-1] in _HEAD_NAMES for n in named)
        if hit:
            raise ModelError(_HEAD_REFUSED)
