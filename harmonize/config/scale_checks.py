"""What several devices ask of a configuration: told before a process is started."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from harmonize.config.attack_checks import chosen
from harmonize.config.edit_checks import acts
from harmonize.config.instantiate import resolve, takes, to_plain
from harmonize.config.rules import at_least, on_weights, one_of, present
from harmonize.errors import ConfigError

STRATEGIES: tuple[str, ...] = ("auto", "ddp", "fsdp2", "deepspeed_stage_1", "deepspeed_stage_2")
_DEEPSPEED = (
    "trainer.strategy={strategy} is not offered. Of DeepSpeed's stages 1 and 2 are, without offloading: stage 3 would "
    "divide the output layer, which the losses read outside of the model's forward, where DeepSpeed gathers nothing. "
    "Use trainer.strategy=fsdp2, which divides weights, gradients and optimizer states as stage 3 does, or "
    "trainer.strategy=deepspeed_stage_2."
)
_MISSING = (
    "trainer.strategy={strategy} needs DeepSpeed, which is not installed. Install it: pip install "
    "'harmonize[deepspeed]', or use trainer.strategy=fsdp2."
)
_SUM = "harmonize.unlearning.gradient.Sum"
# DeepSpeed hands an optimizer one long vector, a share of all weights: these take each weight by itself
_ELEMENTWISE = ("Adadelta", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


def check(cfg: Any, command: str) -> list[str]:
    """Problems of `trainer.devices`, `num_nodes` and `strategy`."""
    t = cfg.trainer
    problems = at_least("trainer.devices", t.devices, 1) + at_least("trainer.num_nodes", t.num_nodes, 1)
    if str(t.strategy).startswith("deepspeed") and t.strategy not in STRATEGIES:
        return [*problems, _DEEPSPEED.format(strategy=t.strategy)]
    problems += one_of("trainer.strategy", t.strategy, STRATEGIES)
    if cfg.model.device == "sharded" and command != "unlearn":
        problems.append(
            f"model.device=sharded: harmonize {command} works with a whole model; only unlearn has shares. Use "
            "model.device=auto, or model.device=cpu where main memory alone is large enough."
        )
    elif cfg.model.device == "sharded" and t.strategy != "fsdp2":
        problems.append(
            "model.device=sharded keeps a share of the model on each of several devices. Add trainer.strategy=fsdp2 "
            "trainer.devices=<number>, or use model.device=auto."
        )
    if problems:
        return problems
    world = int(t.devices) * int(t.num_nodes)
    if world == 1:
        if t.strategy != "auto":
            return [
                f"trainer.strategy={t.strategy} needs several devices. Use trainer.strategy=auto, or trainer.devices=2."
            ]
        return []
    if command != "unlearn":
        return [
            f"trainer.devices={t.devices}: harmonize {command} works on one device; only unlearn trains on several. "
            "Use trainer.devices=1 trainer.num_nodes=1."
        ]
    own = {"fsdp2": _sharded, "deepspeed_stage_1": _zero, "deepspeed_stage_2": _zero}.get(t.strategy)
    return _rows(cfg, world) + _weighter(cfg) + (own(cfg) if own else [])


def _rows(cfg: Any, world: int) -> list[str]:
    """Each rank must see every role, and as many rows of it as every other."""
    from harmonize.data.sampling import shared_rows

    try:
        shared_rows(present(cfg.sampler).get("rows", {}), world)
    except ConfigError as error:
        return error.problems
    return []


def _weighter(cfg: Any) -> list[str]:
    node = present(cfg.weighter)
    target = node.get("_target_")
    if target is None or getattr(resolve(target, cfg.allow), "by_row", False):
        return []
    return [
        f"{str(target).rpartition('.')[2]} weighs a row against the others of its step, which lie on other devices. "
        "Use weighter=none, or trainer.devices=1."
    ]


def _zero(cfg: Any) -> list[str]:
    """What DeepSpeed's engine does not do, which holds the gradients."""
    t, kind = cfg.trainer, str(present(cfg.optimizer).get("_target_"))
    wrong = {
        "gradient=sum": present(cfg.gradient).get("_target_") != _SUM,
        "trainer.precision=32-true": t.precision.endswith("-mixed"),
        # ranks would cut their rows into different numbers of backward passes, which wait for each other
        "trainer.max_tokens_per_batch=null": t.strategy == "deepspeed_stage_2"
        and t.max_tokens_per_batch is not None,
        "optimizer=adamw": kind not in [f"torch.optim.{name}" for name in _ELEMENTWISE],
        "peft.load_in_4bit=false": bool(cfg.peft.load_in_4bit),
    }
    fix = [text for text, applies in wrong.items() if applies]
    problems = []
    if find_spec("deepspeed") is None:
        problems.append(_MISSING.format(strategy=t.strategy))
    if fix:
        problems.append(
            f"trainer.strategy={t.strategy} leaves gradients, clipping and the optimizer's states to DeepSpeed, which "
            f"gives each rank a share of one long vector. Use {' '.join(fix)}."
        )
    return problems


def _sharded(cfg: Any) -> list[str]:
    """What a model in shares cannot do: whatever asks it something apart from what all ranks ask together."""
    t = cfg.trainer
    wrong = {
        "trainer.val_check_interval=0": t.val_check_interval != 0,
        "trainer.cosines_every_n_steps=0": t.cosines_every_n_steps != 0,
        # ranks would cut their rows into different numbers of forward passes
        "trainer.max_tokens_per_batch=null": t.max_tokens_per_batch is not None,
        "gradient=sum": present(cfg.gradient).get("_target_") != _SUM,
        "weighter=none": present(cfg.weighter).get("_target_") != "harmonize.unlearning.weighters.Even",
        "assistant=none": bool(present(cfg.assistant).get("_target_")),
        "guard=none": bool(present(cfg.guard).get("_target_")),
        "dataset.prefill.mode=random": cfg.dataset.prefill.mode.value == "worst_of_n",
        "teacher.cache=hidden": cfg.teacher.cache.value == "none",
        "peft.load_in_4bit=false": bool(cfg.peft.load_in_4bit),
    }
    wrong["~method.objectives.<term>"] = any(
        on_weights(entry, cfg.allow) for entry in to_plain(cfg.method.objectives).values() if entry
    )
    for name, entry in to_plain(cfg.callbacks).items():
        wrong[f"callbacks.{name}=null"] = bool(entry) and "probe" in takes(entry, cfg.allow)
    fix = [text for text, applies in wrong.items() if applies]
    problems = []
    if fix:
        problems.append(
            "trainer.strategy=fsdp2 trains and teaches with a model in shares, which nothing else can ask on the way. "
            f"Use {' '.join(fix)}."
        )
    return problems + (_always_sharded(cfg) if cfg.model.device == "sharded" else [])


def _always_sharded(cfg: Any) -> list[str]:
    """What needs a whole model on one device before or after training, which there is none of."""
    axes, parts = cfg.suite.axes, any(to_plain(cfg.suite.parts).values())
    wrong = {
        # in the place of one with parts comes a suite that relearns
        "suite.relearn=false": parts or (bool(cfg.suite.relearn) and (axes is None or "relearn" in axes)),
        "attack=suite": bool(chosen(cfg)),
        "suite=five_axes": parts,
        "edit=none": acts(cfg, "edit"),
        "repair=none": acts(cfg, "repair"),
        "model.gold=null": cfg.model.gold is not None,
    }
    fix = [text for text, applies in wrong.items() if applies]
    if not fix:
        return []
    return [
        "model.device=sharded: no device ever holds the whole model, so that nothing can train it again, change its "
        f"weights, look inside, or stand whole beside it. Use {' '.join(fix)}; harmonize evaluate measures the "
        "exported model where it fits."
    ]
