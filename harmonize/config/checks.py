"""What types cannot say: ranges, combinations, and parameters of the functions that a configuration names.

Every check returns sentences that end with the override that mends the problem; `check_config` joins them, so
that a user sees all of them at once, before any model loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harmonize.config import (
    attack_checks,
    backend_checks,
    edit_checks,
    guard_checks,
    method_checks,
    peft_checks,
    prepare_checks,
    scale_checks,
    sequence_checks,
    suite_checks,
    teacher_checks,
)
from harmonize.config.instantiate import check_parameters, resolve, to_plain
from harmonize.config.rules import (
    at_least,
    component,
    known_roles,
    one_of,
    own_problems,
    parameter_names,
    positive,
    present,
    share,
)
from harmonize.errors import ConfigError, HarmonizeError, did_you_mean

PRECISIONS: tuple[str, ...] = ("32-true", "bf16-mixed", "bf16-true", "16-mixed")
DTYPES: tuple[str, ...] = ("float32", "bfloat16", "float16")
ATTENTION: tuple[str, ...] = ("sdpa", "eager", "varlen", "flash_attention_2", "flash_attention_3")
ACCELERATORS: tuple[str, ...] = ("auto", "cpu", "gpu", "cuda", "mps")
WANDB_MODES: tuple[str, ...] = ("offline", "online", "disabled")
SPLITS: tuple[str, ...] = ("test", "val")  # evaluation asks about facts of train in either
SANDBOX_MODELS: tuple[str, ...] = ("sandbox:target", "sandbox:gold")
SUPPLIED_TO_CALLBACKS: tuple[str, ...] = ("probe", "record")
SANDBOX_READER = "harmonize.data.sandbox"


def check_config(cfg: Any, command: str) -> list[str]:
    """All problems of a composed configuration.

    Args:
        cfg: Of the command's schema; values that are missing are left to `compose`.
        command: The command that runs it.
    """
    if command == "prepare":
        return prepare_checks.check(cfg)
    trains = command in ("unlearn", "sequence")
    checks: list[Callable[[], list[str]]] = [
        lambda: _run(cfg),
        lambda: _dataset(cfg),
        lambda: _model(cfg, command),
        lambda: _trainer(cfg),
        lambda: scale_checks.check(cfg, command),
    ]
    groups = {"logger": _logger, "teacher": teacher_checks.check, "suite": _suite}
    checks += [partial(check, cfg) for group, check in groups.items() if group in cfg]
    if trains or command == "finetune":
        checks += [
            lambda: peft_checks.check(cfg, command),
            lambda: _optimizer(cfg),
            lambda: _precision(cfg, command),
        ]
    if trains:
        checks += [
            lambda: method_checks.method(cfg),
            lambda: method_checks.adapters(cfg),
            lambda: method_checks.sampler(cfg),
            lambda: teacher_checks.stored(cfg),
            lambda: _seams(cfg),
            lambda: edit_checks.statistics(cfg),
            lambda: edit_checks.edit(cfg),
            lambda: edit_checks.repair(cfg),
        ]
    if command == "diagnose":
        checks += [
            lambda: method_checks.method(cfg),
            lambda: teacher_checks.stored(cfg),
            lambda: _draws(cfg),
        ]
    if trains or command == "evaluate":
        checks.append(lambda: guard_checks.check(cfg, command))
    if "backend" in cfg:
        checks.append(lambda: backend_checks.check(cfg))
    if "split" in cfg:
        checks.append(lambda: one_of("split", cfg.split, SPLITS))
    if command == "finetune":
        checks.append(lambda: at_least("batch_rows", cfg.batch_rows, 1))
    problems: list[str] = []
    for check in checks:
        try:
            problems += check()
        except ConfigError as error:
            problems += error.problems
    if "sequence" in cfg:
        problems += sequence_checks.check(cfg, command, others=bool(problems))
    return problems


def _run(cfg: Any) -> list[str]:
    problems = at_least("seed", cfg.seed, 0)
    if cfg.resume and cfg.overwrite:
        problems.append("resume and overwrite exclude each other. Keep one: resume=true overwrite=false.")
    if cfg.allow:
        names = ",".join(map(str, cfg.allow))
        problems.append(
            f"allow={list(cfg.allow)}: a configuration cannot allow foreign code by itself. "
            f"Leave it out (allow=[]) and add --allow {names} to the command."
        )
    return problems


def _dataset(cfg: Any) -> list[str]:
    problems: list[str] = []
    node = present(cfg.dataset)
    if "_target_" in node:
        problems += check_parameters(node, skip=("name", "prefill"), allow=cfg.allow, where="dataset")
    if isinstance(node.get("split"), Mapping):
        from harmonize.data.split import resolve_shares

        try:
            resolve_shares(node["split"])
        except HarmonizeError as error:
            problems.append(str(error))
    p, at = cfg.dataset.prefill, "dataset.prefill"
    problems += share(f"{at}.share", p.share) + share(f"{at}.heldout_share", p.heldout_share)
    problems += known_roles(f"{at}.roles", p.roles)
    problems += at_least(f"{at}.n", p.n, 1) + at_least(f"{at}.every", p.every, 1)
    for key in ("depths", "eval_depths"):
        wrong = [d for d in p[key] if not 0 < d <= 1]
        if wrong:
            problems.append(
                f"{at}.{key}: {wrong[0]} is outside (0, 1]; a depth is a share of the tokens before the scored value. "
                f"For example {at}.{key}=[0.25,0.5,1.0]."
            )
    if p.mode.value != "none" and not (p.openers or p.prefixes):
        problems.append(
            f"{at}.mode={p.mode.value} with neither openers nor prefixes shows nothing prefilled. "
            f"Use {at}.mode=none, or {at}.prefixes=true."
        )
    return problems


def _model(cfg: Any, command: str) -> list[str]:
    m = cfg.model
    problems = one_of("model.dtype", m.dtype, DTYPES, null=True)
    problems += one_of("model.attention", m.attention, ATTENTION, null=True)
    problems += one_of("model.device", m.device, ("auto", "cpu", "cuda", "sharded"))
    if "{question}" not in m.plain_question:
        problems.append(
            "model.plain_question lacks {question}, so no question would be asked. "
            "For example \"model.plain_question='Question: {question}\\nAnswer:'\"."
        )
    if "{instruction}" not in m.plain_instruction:
        problems.append(
            "model.plain_instruction lacks {instruction}. "
            "For example \"model.plain_instruction='{instruction}\\n\\n'\"."
        )
    for key in ("question", "instruction"):
        try:
            m[f"plain_{key}"].format(**{key: ""})
        except (LookupError, ValueError, AttributeError):
            problems.append(
                f"model.plain_{key} has braces beside {{{key}}}; write {{{{ and }}}} for a brace that is to be shown. "
                f"For example \"model.plain_{key}='{{{key}}}'\"."
            )
    target = present(cfg.dataset).get("_target_")
    sandbox = target is None or str(target).startswith(SANDBOX_READER)
    scratch = command == "finetune" and cfg.from_scratch
    if scratch and not sandbox:
        problems.append(
            f"from_scratch=true needs a data set with a tokenizer of its own, and {cfg.dataset.name} has none. "
            "Use from_scratch=false model=hf model.name_or_path=<folder or hf:owner/name>."
        )
    if command == "evaluate" and cfg.target is not None:
        problems += _model_name("target", str(cfg.target), sandbox, present(cfg.dataset).get("name"))
    for key in ("name_or_path",) if command == "finetune" else ("name_or_path", "gold"):
        name = present(m).get(key)
        if name is None or (scratch and key == "name_or_path"):
            continue
        problems += _model_name(f"model.{key}", str(name), sandbox, present(cfg.dataset).get("name"))
    if (
        command == "finetune"
        and not scratch
        and str(present(m).get("name_or_path", "")).startswith("sandbox:")
    ):
        problems.append(
            "from_scratch=false continues a model, and sandbox models are made by themselves. "
            "Use from_scratch=true, or model=hf model.name_or_path=<folder or hf:owner/name>."
        )
    return problems


def _model_name(key: str, name: str, sandbox: bool, dataset: Any) -> list[str]:
    other = "null" if key in ("model.gold", "target") else "<folder or hf:owner/name>"
    if name.startswith("sandbox:"):
        if name not in SANDBOX_MODELS:
            return [
                f"{key}={name}: unknown. {did_you_mean(name, SANDBOX_MODELS)} Use {key}={SANDBOX_MODELS[0]}."
            ]
        if not sandbox:
            return [
                f"{key}={name} knows only the sandbox's world, but dataset={dataset}. Use model=hf {key}={other}."
            ]
        return []
    if name.startswith("hf:"):
        parts = name[3:].split("/")
        ok = len(parts) in (1, 2) and all(parts)
        return [] if ok else [f"{key}={name}: a hub model is written hf:owner/name, e.g. {key}=hf:gpt2."]
    if not Path(name).expanduser().is_dir():
        here = [str(p) for p in Path(name).expanduser().parent.glob("*") if p.is_dir()]
        hint = f" {did_you_mean(name, here)}" if here else ""
        return [
            f"{key}={name}: there is no such folder.{hint} A model of the hub is written {key}=hf:{name.strip('/')}."
        ]
    return []


def _draws(cfg: Any) -> list[str]:
    problems = at_least("rows", cfg.rows, 2) + at_least("draws", cfg.draws, 1)
    if cfg.loss.value == "method" and not any(
        v is not None for v in to_plain(cfg.method.objectives).values()
    ):
        problems.append(
            f"loss=method: method={cfg.method.name} trains nothing, so it has no loss. Use loss=nll."
        )
    return (
        problems
        + at_least("batch_rows", cfg.batch_rows, 1)
        + positive("share", cfg.share)
        + share("share", cfg.share)
    )


def _suite(cfg: Any) -> list[str]:
    s = cfg.suite
    problems = _one_target("suite", cfg)
    for key in ("max_new_tokens", "batch_size", "relearn_steps", "relearn_facts", "bootstrap"):
        problems += at_least(f"suite.{key}", s[key], 1)
    for key in ("max_examples", "val_max_examples"):
        if s[key] is not None:
            problems += at_least(f"suite.{key}", s[key], 1)
    problems += positive("suite.relearn_lr", s.relearn_lr)
    problems += at_least("suite.leak_draws", s.leak_draws, 0)
    problems += positive("suite.leak_temperature", s.leak_temperature)
    if not 0 < s.confidence < 1:
        problems.append(
            f"suite.confidence={s.confidence} must lie between 0 and 1. For example suite.confidence=0.95."
        )
    attacks = list(attack_checks.chosen(cfg))
    if attacks and not problems and "attacks" not in parameter_names(resolve(s._target_, cfg.allow)):
        problems.append(
            f"attack.{attacks[0]}: suite={s.name} runs its own attacks and takes no further ones. Use attack=suite."
        )
    return problems + attack_checks.check(cfg) + suite_checks.check(cfg)


def _trainer(cfg: Any) -> list[str]:
    t = cfg.trainer
    problems = one_of("trainer.accelerator", t.accelerator, ACCELERATORS)
    problems += one_of("trainer.precision", t.precision, PRECISIONS)
    for key in ("max_steps", "accumulate_grad_batches", "devices", "log_every_n_steps"):
        problems += at_least(f"trainer.{key}", t[key], 1)
    for key in (
        *("val_check_interval", "early_stop_patience", "floor_patience", "checkpoint_every"),
        "cosines_every_n_steps",
    ):
        problems += at_least(f"trainer.{key}", t[key], 0)
    for key in ("neighbor_floor", "utility_floor"):
        problems += share(f"trainer.{key}", t[key])
    if t.gradient_clip_val is not None:
        problems += positive("trainer.gradient_clip_val", t.gradient_clip_val)
    if t.max_tokens_per_batch is not None:
        problems += at_least("trainer.max_tokens_per_batch", t.max_tokens_per_batch, 1)
    if t.num_threads is not None:
        problems += at_least("trainer.num_threads", t.num_threads, 1)
    problems += [
        f"trainer.{key} needs looks at val, and trainer.val_check_interval=0 takes none. "
        f"Use trainer.val_check_interval=50 or trainer.{key}=0."
        for key in ("early_stop_patience", "floor_patience")
        if t[key] and not t.val_check_interval
    ]
    return problems


def _precision(cfg: Any, command: str) -> list[str]:
    precision, dtype = cfg.trainer.precision, present(cfg.model).get("dtype")
    scratch = command == "finetune" and cfg.from_scratch
    if scratch or cfg.peft.load_in_4bit or precision not in PRECISIONS:
        return []
    if dtype == "float16":
        return [
            "model.dtype=float16 is too coarse to train in. Use model.dtype=bfloat16, or model.dtype=float32 "
            "trainer.precision=16-mixed."
        ]
    if precision.endswith("-mixed") and dtype == "bfloat16":
        return [
            f"trainer.precision={precision} mixes with float32 weights, but model.dtype=bfloat16. Use "
            "model.dtype=float32, or trainer.precision=bf16-true."
        ]
    if precision == "bf16-true" and dtype == "float32":
        return [
            "trainer.precision=bf16-true trains bfloat16 weights, but model.dtype=float32. Use model.dtype=bfloat16, "
            "or trainer.precision=bf16-mixed."
        ]
    if precision == "16-mixed" and cfg.trainer.accelerator == "cpu":
        return ["trainer.precision=16-mixed needs a GPU. Use trainer.precision=bf16-mixed."]
    return []


def _optimizer(cfg: Any) -> list[str]:
    problems = component("optimizer", cfg, present(cfg.optimizer), extra=("params",))
    problems += component("scheduler", cfg, present(cfg.scheduler), extra=("optimizer", "total_steps"))
    lr = present(cfg.optimizer).get("lr")
    return problems + (positive("optimizer.lr", lr) if lr is not None else [])


def _seams(cfg: Any) -> list[str]:
    problems: list[str] = []
    for group in ("gradient", "controller", "weighter"):
        # what a component says of the whole is worth asking once its own keys are right
        problems += component(group, cfg, present(cfg[group])) or own_problems(group, cfg)
    return problems + _nodes("callbacks", cfg, extra=SUPPLIED_TO_CALLBACKS)


def _nodes(group: str, cfg: Any, extra: Sequence[str] = ()) -> list[str]:
    """Entries of a group that holds named components; `extra`: parameters that code supplies."""
    problems = []
    for name, entry in to_plain(cfg[group]).items():
        if isinstance(entry, Mapping):
            problems += check_parameters(entry, extra, allow=cfg.allow, where=f"{group}.{name}")
        elif entry is not None:
            problems.append(
                f"{group}.{name} must be a mapping with _target_. Remove it with ~{group}.{name}."
            )
    return problems


def _logger(cfg: Any) -> list[str]:
    from importlib.util import find_spec

    problems = one_of("logger.wandb.mode", cfg.logger.wandb.mode, WANDB_MODES)
    if cfg.logger.tensorboard and find_spec("tensorboardX") is None:
        problems.append(
            "logger.tensorboard=true needs tensorboardX. Install it with: pip install 'harmonize[tensorboard]', or "
            "leave it out with logger.tensorboard=false."
        )
    return problems


def _one_target(at: str, cfg: Any) -> list[str]:
    target = present(cfg[at]).get("_target_")
    if target is None:
        return []
    try:
        resolve(target, cfg.allow)
    except ConfigError as error:
        return [f"{at}._target_: {p}" for p in error.problems]
    return []
