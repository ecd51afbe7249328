"""Target and gold models by name; the sandbox's are made on first use and cached by content."""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harmonize import warm
from harmonize.caches.use import use
from harmonize.config.schema import TrainerConfig
from harmonize.console import say, warn
from harmonize.data.corpus import Corpus, content_hash, listed
from harmonize.errors import ModelError, did_you_mean
from harmonize.models.load import LoadedModel, load_model
from harmonize.models.lora import plain, wants_adapters
from harmonize.models.save import export
from harmonize.reporting.card import header
from harmonize.unlearning.finetune import new_model, train
from harmonize.unlearning.setup import device_of, plain_config, to_device

SANDBOX_SCHEME = "sandbox:"
SANDBOX_MODELS = ("sandbox:target", "sandbox:gold")
_SEED = 0  # a sandbox model belongs to its world; the seed of a run moves the unlearning alone


def load_target(
    cfg: Any, corpus: Corpus, name: str | None, peft: Any = None, empty: bool = False
) -> LoadedModel:
    """A model by the name in the configuration; `sandbox:target` and `sandbox:gold` are made on first use.

    Args:
        cfg: The command's configuration.
        corpus: The data set, which sandbox models are trained on.
        name: Path, `hf:owner/name`, or a sandbox model; None takes `model.name_or_path`.
        peft: The `peft` configuration, or None for the plain model.
        empty: The model's form alone, without weights.
    """
    path = model_path(cfg, corpus, name or cfg.model.name_or_path)

    def load() -> LoadedModel:
        return load_model(cfg.model, peft, path=path, empty=empty)

    if name is None and not empty and warm.keeping():
        key = model_identity(cfg, path, peft)
        size = sum(n for file, n, _ in key[-1] if file.endswith(".safetensors")) if key else 0
        loaded = warm.keep("target", key, load, lend=_copy, n_bytes=size)
    else:
        loaded = load()
    if not empty:
        to_device(loaded, device_of(cfg))
    return loaded


def model_path(cfg: Any, corpus: Corpus, name: str) -> str:
    """Where the weights of a name are; a sandbox model is made on first use."""
    return str(sandbox_model(cfg, corpus, name)) if name.startswith(SANDBOX_SCHEME) else name


def model_identity(cfg: Any, path: str, peft: Any = None) -> list[Any] | None:
    """What `load_model` depends on, or None where what it gives is drawn anew or cannot be copied."""
    chosen, files = plain(peft), warm.files_of(path)
    if files is None or wants_adapters(chosen) or chosen.get("load_in_4bit"):
        return None
    return [path, plain_config(cfg.model), files]


def _copy(loaded: LoadedModel) -> LoadedModel:
    """The model as it was loaded, for a run to change; its tokenizer and what that has rendered are shared."""
    digest = loaded.digest  # before the copy, which takes it along
    return replace(loaded, model=copy.deepcopy(loaded.model), _digest=digest)


def sandbox_model(cfg: Any, corpus: Corpus, name: str) -> Path:
    """Folder of a sandbox model, trained by `harmonize finetune`'s own code when its content key is new.

    Raises:
        ModelError: An unknown sandbox model, or a data set that is not the sandbox.
    """
    from harmonize.data import sandbox

    preset = cfg.dataset.get("preset")
    if name not in SANDBOX_MODELS:
        raise ModelError(f"Unknown sandbox model '{name}'. {did_you_mean(name, SANDBOX_MODELS)}")
    if preset is None:
        raise ModelError(
            f"model.name_or_path={name} belongs to the sandbox, but dataset={cfg.dataset.name}. "
            "Use model=hf model.name_or_path=<folder or hf:owner/name>."
        )
    gold = name == "sandbox:gold"
    recipe, architecture = sandbox.recipe(preset), sandbox.architecture(preset)
    dialogues = corpus.gold_dialogues if gold else corpus.dialogues
    tokenizer = sandbox.tokenizer(preset)

    def content() -> str:
        words = [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template]
        return content_hash("sandbox-model-2", listed(dialogues), recipe, architecture, words, _SEED)

    key = warm.keep(f"key of {name}", [corpus.digest, preset, recipe], content)
    folder = Path(cfg.paths.cache_dir) / "models" / f"{preset}-{name.split(':')[1]}-{key[:16]}"
    if (folder / "config.json").exists():
        use(folder / "config.json")
        return folder

    with locked(folder.with_suffix(".lock")):
        if (folder / "config.json").exists():
            return folder
        say(
            f"Making {name} for {preset}, world {cfg.dataset.get('world_seed')} (once; cached in {folder}) ..."
        )
        optimizer, scheduler, settings = recipe_nodes(cfg, recipe)
        loaded = new_model(architecture, tokenizer, seed=_SEED, name=name)
        train(
            loaded,
            dialogues,
            batch_rows=recipe["batch_rows"],
            optimizer=optimizer,
            scheduler=scheduler,
            settings=settings,
            seed=_SEED,
            title=f"{preset} {name.split(':')[1]}",
        )
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            about = [f"# {preset}: {name}", "", "A synthetic world's model; nothing in it is real.", ""]
            export(
                loaded, partial, "\n".join([*header(name, "", preset, {}, name.partition(":")[2]), *about])
            )
            os.replace(partial, folder)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            if not (folder / "config.json").exists():
                raise
        use(folder / "config.json")
    return folder


def recipe_nodes(cfg: Any, recipe: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """A recipe as optimizer node, scheduler node and trainer settings.

    A cached model must not depend on who asked first, so of `cfg` only the bar is taken.
    """
    optimizer = {
        "_target_": "torch.optim.AdamW",
        **{k: recipe[k] for k in ("lr", "weight_decay", "betas")},
    }
    scheduler = {
        "_target_": f"harmonize.unlearning.schedules.{recipe['schedule']}",
        "warmup_steps": recipe["warmup_steps"],
    }
    settings = OmegaConf.structured(TrainerConfig)
    settings.max_steps = recipe["steps"]
    settings.gradient_clip_val = recipe["gradient_clip_val"]
    settings.enable_progress_bar = cfg.trainer.enable_progress_bar
    settings.accelerator = "cpu"
    return optimizer, scheduler, settings


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a file lock, so that several processes make one thing once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            warn(f"{path} cannot be locked on this file system; two processes may do the same work.")
        yield
