"""What a profile with real models and data needs, what of it is there, and how to get the rest. Nothing is fetched."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize.errors import ConfigError
from harmonize.reporting.compute import ACHIEVED, GB, PEAK_FLOPS, Estimate, Load, Shape, estimate
from harmonize.reporting.experiment import Experiment, load_experiment
from harmonize.reporting.grid import Grid

THERE, MISSING = "there", "missing"
HUB = "hf:"
_SPARE = 10 * GB  # caches, run folders and what the rewriter writes
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Need:
    """One thing: what it is, whether it is there, where or how much, and the command that gets it."""

    what: str
    state: str
    detail: str
    get: str = ""

    @property
    def there(self) -> bool:
        """Whether nothing has to be done."""
        return self.state != MISSING


@dataclass(frozen=True)
class Plan:
    """All needs of an experiment's profile, and its costs (None where the model's shape is not known)."""

    experiment: Experiment
    needs: tuple[Need, ...]
    cost: Estimate | None
    load: Load

    @property
    def missing(self) -> list[Need]:
        """What has to be got."""
        return [need for need in self.needs if not need.there]


def needs_of(experiment: Experiment) -> dict[str, Any]:
    """The `needs` of the profile; `like` takes those of another experiment's profile of that name, own ones first."""
    own = dict(experiment.found.get("needs") or {})
    other = own.pop("like", None)
    if other is None:
        return own
    base = needs_of(load_experiment(str(other), experiment.profile))
    return {**base, **own, "data": [*base.get("data", []), *own.get("data", [])]}


def plan(experiment: Experiment, runs: Path) -> Plan | None:
    """Looks for everything that the profile needs; None for a profile that needs nothing but this installation.

    Args:
        experiment: As a profile reads it.
        runs: The folder of all studies, for the disk.

    Raises:
        ConfigError: Overrides that do not compose.
    """
    wanted = needs_of(experiment)
    if not wanted:
        return None
    cfg = composed(experiment)
    config, weights = _weights(str(cfg.model.name_or_path), str(wanted.get("gated", "")))
    shape = _shape(config, wanted.get("shape"))
    load = _load(cfg, wanted, len(experiment.jobs))
    cost = estimate(shape, load) if shape else None
    needs = [weights, *(_data(cfg, item) for item in wanted.get("data", []))]
    if cost:
        needs += [_device(cost.memory), _disk(runs, cost, weights, cfg, len(experiment.jobs))]
    return Plan(experiment, tuple(needs), cost, load)


def composed(experiment: Experiment) -> Any:
    """The configuration of the first job, unchecked: its data need not be there yet."""
    from harmonize.config.compose import compose_config

    job = experiment.jobs[0]
    return compose_config(job.command, list(job.overrides), check=False)


def _select(cfg: Any, key: str) -> str | None:
    from omegaconf import OmegaConf

    found = OmegaConf.select(cfg, key)
    return None if found is None else str(found)


def _weights(name: str, gated: str) -> tuple[Path | None, Need]:
    """`config.json` if it is at hand, and whether the weights are."""
    what = f"weights of {name}"
    if not name.startswith(HUB):
        folder = Path(name).expanduser()
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder / "config.json", Need(what, THERE, str(folder))
        return None, Need(
            what,
            MISSING,
            f"no folder with config.json and *.safetensors at {folder}",
            "model.name_or_path=<folder>",
        )
    owner_name = name.removeprefix(HUB)
    cached = _snapshot(owner_name)
    if cached is not None and _complete(cached):
        return cached / "config.json", Need(what, THERE, "in the cache of huggingface_hub")
    detail = "not in the cache of huggingface_hub" if cached is None else "only in part in the cache"
    config = None if cached is None else cached / "config.json"
    return config, Need(
        what, MISSING, " ".join(filter(None, [detail + ".", gated])), f"hf download {owner_name}"
    )


def _snapshot(name: str) -> Path | None:
    """The cached snapshot of a model, by its config.json; no request is made."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _complete(folder: Path) -> bool:
    """Whether every shard that the index names, or a single file of weights, is there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, OSError):
            return False
        return all((folder / shard).is_file() for shard in shards)
    return (folder / "model.safetensors").is_file()


def _shape(config: Path | None, stated: Any) -> Shape | None:
    """That of the weights at hand, else the one that the experiment states."""
    if config is not None:
        try:
            return Shape.of(json.loads(config.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # another architecture: what the experiment states must do
    return Shape(**stated) if isinstance(stated, Mapping) else None


def _load(cfg: Any, wanted: Mapping[str, Any], runs: int) -> Load:
    tokens = wanted.get("tokens") or {}
    trainer, sampler = cfg.get("trainer"), cfg.get("sampler")
    rows = sum(int(n) for n in sampler.rows.values()) if sampler else 0
    steps = int(trainer.max_steps) if sampler else 0
    accumulated = int(trainer.accumulate_grad_batches) if sampler else 1
    adapters = cfg.peft.get("r", 0) if wanted.get("adapters", True) else 0
    return Load(
        row=int(tokens.get("row", 128)),
        rows=rows,
        batch=max(1, rows // accumulated) if rows else int(cfg.get("batch_rows", 1)),
        steps=steps,
        answer=float(tokens.get("answer", 0.3)),
        instruction=int(tokens.get("instruction", 0)),
        evaluated=int(tokens.get("evaluated", 0)),
        generated=int(tokens.get("generated", 0)),
        runs=runs,
        adapters=int(adapters or 0),
        checkpointing=bool(cfg.model.gradient_checkpointing),
        trained=int(tokens.get("trained", 0)),
        weight_bytes=_BYTES.get(str(cfg.model.dtype), 4),
    )


def _data(cfg: Any, item: Mapping[str, Any]) -> Need:
    named = _select(cfg, str(item["key"])) if "key" in item else None
    place = named or item.get("path")
    if place is None:
        raise ConfigError(
            f"needs: '{item.get('what')}' names no folder. Give it a path, or a key that the profile sets."
        )
    folder, what = Path(str(place)).expanduser(), str(item["what"])
    lacking = [  # `a|b` is either
        pattern.replace("|", " or ")
        for pattern in item.get("files", ["*"])
        if not any(any(folder.glob(each)) for each in pattern.split("|"))
    ]
    if not lacking:
        return Need(what, THERE, str(folder))
    made = _select(cfg, str(item["until"])) if "until" in item else None
    if made and (Path(made).expanduser() / "dataset.json").is_file():
        return Need(what, "no longer needed", f"{made} was made from it")
    detail = f"{folder}: no {', '.join(lacking)}" if folder.is_dir() else f"no folder {folder}"
    return Need(
        what,
        MISSING,
        detail,
        " ".join(str(item["get"]).split()).format(path=folder, model=cfg.model.name_or_path),
    )


def _device(needed: float) -> Need:
    import torch

    what = f"a device with {math.ceil(needed / GB)} GB"
    if not torch.cuda.is_available():
        return Need(what, MISSING, "no GPU is visible to torch", "run the same command on a machine with one")
    own = float(torch.cuda.get_device_properties(0).total_memory)
    detail = f"{torch.cuda.get_device_name(0)}, {own / GB:.0f} GB"
    if own >= needed:
        return Need(what, THERE, detail)
    return Need(
        what, MISSING, detail, "trainer.accumulate_grad_batches=<more>, peft=qlora, or a larger device"
    )


def _disk(runs: Path, cost: Estimate, weights: Need, cfg: Any, jobs: int) -> Need:
    needed = (
        _SPARE + (0 if weights.there else cost.weights) + (cost.disk * jobs if cfg.get("save_model") else 0)
    )
    place = next(p for p in (runs.absolute(), *runs.absolute().parents) if p.exists())
    free = float(shutil.disk_usage(place).free)
    what = f"{needed / GB:.0f} GB of disk"
    if free >= needed:
        return Need(what, THERE, f"{free / GB:.0f} GB free at {place}")
    return Need(what, MISSING, f"{free / GB:.0f} GB free at {place}", "--runs <a folder on a larger disk>")


def grids(found: Plan) -> list[Grid]:
    """What is needed, what it costs."""
    rows = [[need.what, need.state, need.detail] for need in found.needs]
    first = Grid(
        f"What {found.experiment.name}, profile {found.experiment.profile}, needs", ["", "", ""], rows, left=3
    )
    if found.cost is None:
        return [first]
    cost, load = found.cost, found.load
    costs = [
        ["training, a run", f"{cost.training / 1e15:.2g} PFLOP"],
        ["evaluation, a run", f"{(cost.evaluation + cost.generation) / 1e15:.2g} PFLOP"],
        [f"GPU hours, all {load.runs} runs", f"{cost.hours:.1f}" if cost.hours >= 0.05 else "under 0.1"],
        ["device memory", f"{math.ceil(cost.memory / GB)} GB"],
        ["weights to download", f"{cost.weights / GB:.1f} GB"],
    ]
    notes = [
        f"Estimated, not measured: {load.steps} steps of {load.rows} rows of {load.row} tokens, "
        f"{'adapters of rank ' + str(load.adapters) if load.adapters else 'all weights trained'}; "
        f"{load.evaluated:,} tokens read and {load.generated:,} written in evaluation.",
        f"Assumed: {PEAK_FLOPS / 1e12:.0f} TFLOP/s at the peak (H100, bf16), of which training and reading reach "
        f"{ACHIEVED['training']:.0%} and writing {ACHIEVED['generation']:.0%}. Preparing the data is not counted.",
    ]
    return [first, Grid("What it costs", ["", ""], costs, notes)]


def instructions(found: Plan) -> list[str]:
    """What to type, in this order; nothing where all is there."""
    if not found.missing:
        return [f"All is there. Run it with: {found.experiment.typed('--run')}"]
    lines = ["To get what is missing, in this order:"]
    if offline():
        lines[0] = (
            "To get what is missing, in this order (HF_HUB_OFFLINE forbids downloads here: unset it first):"
        )
    lines += [f"  {need.get}" for need in found.missing if need.get]
    return [*lines, f"Then: {found.experiment.typed('--run')}"]


def refusal(found: Plan) -> str:
    """Why it is not run."""
    named = ", ".join(need.what for need in found.missing)
    return f"{found.experiment.name}, profile {found.experiment.profile}: missing {named}. See how to get each above."


def offline() -> bool:
    """Whether the environment forbids downloads, which the printed commands would need."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
