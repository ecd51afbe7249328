"""`harmonize finetune`: makes a target or gold model by plain supervised learning on a data set's dialogues."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harmonize.console import say
from harmonize.data.batch import Row
from harmonize.data.corpus import Corpus
from harmonize.data.example import Dialogue
from harmonize.data.render import Renderer
from harmonize.errors import DataError
from harmonize.models.load import LoadedModel
from harmonize.unlearning.fit import resumed_step
from harmonize.unlearning.supervised import ROLE, learn


def dialogue_rows(dialogues: Sequence[Dialogue], renderer: Renderer, max_length: int | None) -> list[Row]:
    """Rows of all dialogues, each as often as its weight says; running text is learned from its second token on.

    Raises:
        DataError: No dialogue, or one that is longer than the model can read.
    """
    rows: list[Row] = []
    for i, d in enumerate(dialogues):
        if d.question:
            prompt, target = renderer.prompt_ids(d.question, d.instruction), renderer.target_ids(d.response)
        else:
            ids = renderer.text_ids(d.response)
            prompt, target = ids[:1], ids[1:]
        row = Row(example_id=f"dialogue-{i}", role=ROLE, subject="", prompt=prompt, target=target)
        if max_length is not None and row.length > max_length:
            raise DataError(
                f"Training text {i + 1} needs {row.length} tokens, but the model reads at most {max_length}. "
                "Shorten it or leave it out."
            )
        rows += [row] * d.weight
    if not rows:
        raise DataError("The data set has no texts to fine-tune on.")
    return rows


def train(
    loaded: LoadedModel, dialogues: Sequence[Dialogue], *, title: str = "finetune", **settings: Any
) -> None:
    """Trains `loaded.model` in place on the response tokens of `dialogues`; settings as in `supervised.learn`."""
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    learn(loaded, dialogue_rows(dialogues, loaded.renderer, limit), title=title, **settings)


def new_model(architecture: Mapping[str, Any], tokenizer: Any, seed: int, name: str) -> LoadedModel:
    """A Llama with random weights of `architecture` (LlamaConfig's names) for `tokenizer`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **architecture,
        }
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    return LoadedModel(model, tokenizer, Renderer(tokenizer), name)


def run(cfg: Any, folder: Path) -> dict[str, Any]:
    """The command: loads or makes a model, trains it, exports it, writes status and metrics.

    Returns:
        {"model": path of the exported model}.
    """
    from omegaconf import OmegaConf

    from harmonize.guards.saved import warn_of_guard
    from harmonize.models.load import load_model
    from harmonize.models.save import export
    from harmonize.reporting.card import trained_card
    from harmonize.tracking import environment
    from harmonize.tracking.loggers import build_tracker
    from harmonize.tracking.run_folder import RunFolder
    from harmonize.unlearning.setup import (
        device_of,
        load_corpus,
        plain_config,
        prepare_process,
        same_configuration,
        to_device,
    )

    plain = plain_config(cfg)
    place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
    with place.running():
        prepare_process(cfg.trainer)
        same_configuration(cfg, place)
        place.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        corpus = load_corpus(cfg)
        dialogues = dialogues_of(corpus, gold=cfg.gold)
        began = time.perf_counter()
        if cfg.from_scratch:
            loaded = new_model(cfg.architecture, corpus_tokenizer(cfg), cfg.seed, corpus.name)
        else:
            warn_of_guard(cfg.model.name_or_path)
            loaded = load_model(cfg.model, cfg.peft)
        to_device(loaded, device_of(cfg))
        step = resumed_step(place.checkpoints, cfg.resume)
        tracker = build_tracker(plain, folder, job_type="finetune", resume_step=step)
        try:
            train(
                loaded,
                dialogues,
                batch_rows=cfg.batch_rows,
                optimizer=cfg.optimizer,
                scheduler=cfg.scheduler,
                settings=cfg.trainer,
                seed=cfg.seed,
                checkpoints=place.checkpoints,
                resume=cfg.resume,
                log=tracker.log,
                allow=cfg.allow,
            )
        finally:
            lines = tracker.close()
        target = Path(cfg.output) if cfg.output else place.model
        kind = "gold (never saw the forget set)" if cfg.gold else "target"
        card = trained_card(
            corpus.name, "gold" if cfg.gold else "target", plain, corpus.digest, environment.git_state()
        )
        export(loaded, target, card, merge=cfg.peft.merge)
        place.next = f"harmonize unlearn dataset={cfg.dataset.name} model=hf model.name_or_path={target}"
        say(f"Trained {kind} in {time.perf_counter() - began:.0f} s: {target}")
        for line in (*lines, f"Next: {place.next}"):
            say(line)
    return {"model": str(target)}


def dialogues_of(corpus: Corpus, gold: bool) -> tuple[Dialogue, ...]:
    """Texts for a target, or for gold.

    Raises:
        DataError: The data set brings none.
    """
    found = corpus.gold_dialogues if gold else corpus.dialogues
    if not found:
        raise DataError(
            f"The data set '{corpus.name}' brings no texts for a {'gold' if gold else 'target'} model. "
            "Fine-tune with one that does (dataset=sandbox, tofu or local)."
        )
    return found


def corpus_tokenizer(cfg: Any) -> Any:
    """The data set's own tokenizer, for a model from scratch.

    Raises:
        DataError: It has none.
    """
    from harmonize.data import sandbox

    preset = cfg.dataset.get("preset")
    if preset is None:
        raise DataError(
            f"from_scratch=true needs a data set with its own tokenizer, and '{cfg.dataset.name}' has none. "
            "Use from_scratch=false with model.name_or_path=<folder>."
        )
    return sandbox.tokenizer(preset)
