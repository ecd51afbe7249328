"""`harmonize finetune`: makes a target or gold model by plain supervised learning on a data set's dialogues."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harmonize.config.instantiate import call
from harmonize.console import say
from harmonize.data.batch import Row
from harmonize.data.corpus import Corpus
from harmonize.data.example import Dialogue
from harmonize.data.render import Renderer
from harmonize.data.sampling import permutation
from harmonize.errors import DataError
from harmonize.models.load import LoadedModel
from harmonize.objectives.likelihood import cross_entropy
from harmonize.unlearning.controllers import Fixed
from harmonize.unlearning.fit import fit, resumed_step
from harmonize.unlearning.gradient import Sum
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.steps import StepLoader
from harmonize.unlearning.terms import Term

_WINDOW = 8  # steps whose rows are sorted by length together: less padding, nearly the same order


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
        row = Row(example_id=f"dialogue-{i}", role="retain", subject="", prompt=prompt, target=target)
        if max_length is not None and row.length > max_length:
            raise DataError(
                f"Training text {i + 1} needs {row.length} tokens, but the model reads at most {max_length}. "
                "Shorten it or leave it out."
            )
        rows += [row] * d.weight
    if not rows:
        raise DataError("The data set has no texts to fine-tune on.")
    return rows


class RowSampler:
    """Every row once an epoch, in batches of similar lengths, as a function of the step alone."""

    def __init__(self, rows: Sequence[Row], size: int, seed: int) -> None:
        self.rows, self.size, self.seed = list(rows), min(size, len(rows)), seed
        self.per_epoch = -(-len(self.rows) // self.size)

    def draw(self, step: int) -> list[Row]:
        """Rows of one step."""
        epoch, place = divmod(step, self.per_epoch)
        window, inside = divmod(place, _WINDOW)
        order = permutation(len(self.rows), self.seed, "finetune", epoch)
        start = window * _WINDOW * self.size
        members = sorted(order[start : start + _WINDOW * self.size], key=lambda i: (self.rows[i].length, i))
        batches = [members[i : i + self.size] for i in range(0, len(members), self.size)]
        chosen = batches[permutation(len(batches), self.seed, "window", epoch, window)[inside]]
        return [self.rows[i] for i in chosen]


def train(
    loaded: LoadedModel,
    dialogues: Sequence[Dialogue],
    *,
    batch_rows: int,
    optimizer: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    settings: Any,
    seed: int,
    title: str = "finetune",
    checkpoints: Path | None = None,
    resume: bool = False,
    log: Any = None,
    allow: Sequence[str] = (),
) -> None:
    """Trains `loaded.model` in place on the response tokens of `dialogues`.

    Args:
        loaded: Model and renderer.
        dialogues: What to learn.
        batch_rows: Rows of one optimizer step.
        optimizer, scheduler: Config nodes.
        settings: The `trainer` configuration.
        seed: Decides order and dropout.
        title: Of the bar.
        checkpoints, resume: As in `fit`.
        log: Receives metrics.
        allow: Further packages whose targets may be called.
    """
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    sampler = RowSampler(dialogue_rows(dialogues, loaded.renderer, limit), batch_rows, seed)
    term = Term("cross_entropy", cross_entropy, 1.0, {"retain": 1.0})
    module = UnlearningModule(
        loaded.model,
        [term],
        optimizer=lambda parameters: call(optimizer, params=parameters, allow=allow),
        scheduler=lambda o: call(scheduler, optimizer=o, total_steps=settings.max_steps, allow=allow),
        combiner=Sum(),
        controller=Fixed(),
        pad_id=loaded.renderer.pad_id,
        seed=seed,
        accumulate=settings.accumulate_grad_batches,
        clip=settings.gradient_clip_val,
        log=log,
        log_every=settings.log_every_n_steps,
        n_vocab=len(loaded.tokenizer),
    )
    loaded.model.train()
    fit(
        module,
        lambda start: StepLoader(sampler, lambda row: [row], start),
        settings,
        title=title,
        checkpoints=checkpoints,
        resume=resume,
    )
    loaded.model.eval()


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

    from harmonize.models.load import load_model
    from harmonize.models.save import export
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
        card = f"# {corpus.name}: {kind}\n\nTrained with `harmonize finetune`.\n"
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
