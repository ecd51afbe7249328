"""Checks of `peft`: targets, precision, and where adapters start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harmonize.config.instantiate import ABOUT, check_parameters, resolve
from harmonize.config.rules import inputs_of, present, trained_roles
from harmonize.errors import ConfigError, did_you_mean

OWN_KEYS: tuple[str, ...] = (
    "peft_type",
    "merge",
    "load_in_4bit",
    "init",
    *ABOUT,
)  # the other keys are peft's

# Adapters there would change the logits that the head seam and the teacher share.
OUTPUT_HEADS: tuple[str, ...] = ("lm_head", "embed_out", "output_projection")


def check(cfg: Any, command: str) -> list[str]:
    """What is wrong with `peft`, for a command that trains."""
    node = present(cfg.peft)
    kind = str(node.get("peft_type", "none"))
    settings = {k: v for k, v in node.items() if k not in OWN_KEYS}
    if kind == "none":
        idle = [*settings, *(k for k in ("init",) if node.get(k))]
        problems = [f"peft.{k} has no effect with peft_type=none. Use peft=lora, or ~peft.{k}." for k in idle]
        if node.get("load_in_4bit"):
            problems.append("peft.load_in_4bit=true trains adapters over a 4-bit base. Use peft=qlora.")
        return problems
    if kind != "LORA":
        return [f"peft.peft_type={kind}: {did_you_mean(kind, ('none', 'LORA'))} Use peft=lora."]
    problems = []
    for key in ("target_modules", "modules_to_save"):
        value = settings.get(key)
        named = [value] if isinstance(value, str) else list(value or [])
        heads = [n for n in named if str(n).split(".")[-1] in OUTPUT_HEADS]
        if heads:
            problems.append(
                f"peft.{key} names the output head ({heads[0]}); an adapter there would change the logits that are "
                f"distilled. Leave it out, or use peft.{key}={'all-linear' if key == 'target_modules' else 'null'}."
            )
    if node.get("load_in_4bit"):
        problems += _four_bit()
        if node.get("merge"):
            problems.append(
                "peft.merge=true: an adapter cannot be merged exactly into a 4-bit base. Use peft.merge=false, and "
                "merge it into the base loaded in full precision."
            )
    problems += check_parameters({"_target_": "peft.LoraConfig", **settings}, allow=("peft",), where="peft")
    return problems + _start(cfg, node, command)


def _start(cfg: Any, node: Mapping[str, Any], command: str) -> list[str]:
    """Adapters that start elsewhere than at zero, by `peft.init` or by peft's own `init_lora_weights`."""
    from harmonize.models.lora import shifts_base

    own, start = shifts_base(node), node.get("init")
    if start is None and not own:
        return []
    at = "peft.init" if start is not None else f"peft.init_lora_weights={node['init_lora_weights']}"
    problems = []
    if start is not None and own:
        problems.append(
            f"peft.init and peft.init_lora_weights={node['init_lora_weights']} are two starts. Keep one: ~peft.init."
        )
    for key, why in (
        ("load_in_4bit", "needs weights in full precision. Use peft.load_in_4bit=false"),
        ("use_dora", "starts plain LoRA alone. Use peft.use_dora=false"),
    ):
        if node.get(key):
            problems.append(f"{at} {why}.")
    if not node.get("merge", True):
        problems.append(
            f"{at}: an adapter that starts elsewhere than at zero says nothing without what takes its start off, so it "
            "is exported merged. Use peft.merge=true."
        )
    return problems + (_function(cfg, start, command) if start is not None else [])


def _function(cfg: Any, start: Any, command: str) -> list[str]:
    """The function of `peft.init`, its settings, and the rows that it is measured on."""
    if not isinstance(start, Mapping):
        return [f"peft.init={start}: expected a mapping with _target_. Use peft=reglu, or ~peft.init."]
    if command != "unlearn":
        return [
            f"peft.init measures forget rows, which harmonize {command} has not. Use peft=lora, or ~peft.init."
        ]
    try:
        inputs = inputs_of(resolve(start.get("_target_", ""), cfg.allow))
    except ConfigError as error:
        return [f"peft.init._target_: {p}" for p in error.problems]
    problems = check_parameters(start, extra=inputs, allow=cfg.allow, where="peft.init")
    sides = (
        ("forget_covariance", trained_roles(cfg, True)),
        ("retain_covariance", trained_roles(cfg, False)),
    )
    return problems + [
        f"peft.init reads {name}, and the method trains on no such rows. Choose a method that trains on both sides, or "
        "use peft=lora."
        for name, roles in sides
        if name in inputs and not roles
    ]


def _four_bit() -> list[str]:
    from importlib.util import find_spec

    import torch

    problems = []
    if not torch.cuda.is_available():
        problems.append("peft=qlora needs a CUDA device, and torch sees none. Use peft=lora.")
    if find_spec("bitsandbytes") is None:
        problems.append("peft=qlora needs bitsandbytes. pip install 'harmonize[qlora]', or use peft=lora.")
    return problems
