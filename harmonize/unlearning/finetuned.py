"""The start model fine-tuned on some rows: made once for all runs, kept by content, and undone in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonize.config.instantiate import to_plain
from harmonize.console import say
from harmonize.data.batch import Row
from harmonize.data.corpus import content_hash
from harmonize.errors import RunError
from harmonize.models.head import Head
from harmonize.models.load import LoadedModel
from harmonize.models.lora import adapter_layers, apply_peft, plain, wants_adapters
from harmonize.models.save import merged_state
from harmonize.models.store import save_tensor, tensors_of, write_folder
from harmonize.models.teacher import model_numerics, read_arrays
from harmonize.statistics.passes import own_name
from harmonize.unlearning.supervised import ROLE, learn

FORMAT = "finetuned-1"  # part of the key
FOLDER = "finetuned"
_TRAINER = ("accumulate_grad_batches", "gradient_clip_val", "precision", "strategy", "deterministic")


def finetuned_weights(
    cfg: Any,
    loaded: LoadedModel,
    rows: Sequence[Row],
    title: str,
    *,
    steps: int | None = None,
    batch_rows: int = 16,
    record: Callable[[Path], object] | None = None,
) -> dict[str, Tensor]:
    """Weights of the start model after supervised learning on the rows, read from `cache_dir/finetuned` if there.

    It is trained as the run trains: same optimizer, schedule, precision, seed, and adapters where the run has some
    (then merged). In main memory that costs a copy of what is trained, beside what training costs.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        loaded: The start model, without adapters; it is left as it was, bit for bit.
        rows: What is learned.
        title: What the bar says.
        steps: Optimizer steps; None takes `trainer.max_steps`.
        batch_rows: Rows of a step.
        record: Told the folder, which tells of the data.

    Returns:
        The tensors that changed, by name, on the CPU; large ones are mapped from disk.

    Raises:
        RunError: The cache cannot be written.
    """
    settings = copy.deepcopy(cfg.trainer)
    settings.max_steps = settings.max_steps if steps is None else steps
    learned = [replace(row, role=ROLE) for row in rows]
    optimizer, scheduler = to_plain(cfg.optimizer), to_plain(cfg.scheduler)
    key = content_hash(
        FORMAT,
        loaded.digest,
        [(r.prompt, r.prefill, r.target) for r in rows],
        [optimizer, scheduler, settings.max_steps, batch_rows, cfg.seed],
        {name: str(settings[name]) for name in _TRAINER},
        plain(cfg.peft) if wants_adapters(cfg.peft) else {},
        *model_numerics(loaded.model, Head.of(loaded.model, n_vocab=len(loaded.tokenizer))),
    )
    folder = Path(cfg.paths.cache_dir) / FOLDER / key[:32]

    def fill(work: Path) -> None:
        say(f"Fine-tuning the start model on {title} rows ({settings.max_steps} steps; kept in {folder}) ...")
        with undone(loaded, cfg.peft, cfg.seed) as changed:
            learn(
                loaded,
                learned,
                batch_rows=batch_rows,
                optimizer=optimizer,
                scheduler=scheduler,
                settings=settings,
                seed=cfg.seed,
                title=f"fine-tuning on {title}",
                allow=cfg.allow,
            )
            for name, value in changed():
                save_tensor(work, name, value)

    arrays = read_arrays(folder, key)
    if arrays is None:
        about = {"rows": title, "weights": loaded.digest}
        write_folder(folder, key, fill, about, names={"model": loaded.name, "data": str(cfg.dataset.name)})
        arrays = read_arrays(folder, key)
    if arrays is None:
        raise RunError(f"The cache {folder} was damaged while it was being written. Start the run again.")
    if record is not None:
        record(folder)
    return tensors_of(arrays)


@contextmanager
def undone(loaded: LoadedModel, peft: Any, seed: int) -> Iterator[Callable[[], Iterator[tuple[str, Tensor]]]]:
    """Inside, `loaded.model` may be trained; after, it is as it was, bit for bit, without adapters.

    Args:
        loaded: A model without adapters.
        peft: The `peft` configuration: adapters to train, or none.
        seed: Adapters start from it.

    Yields:
        A function that gives (name, tensor) of the weights that differ from before, adapters merged.
    """
    model = loaded.model
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before: dict[str, Tensor] = {}
    try:
        if wants_adapters(peft):
            torch.manual_seed(seed)
            loaded.model = apply_peft(model, peft)
            beside = [
                own_name(n) for n, p in loaded.model.named_parameters() if p.requires_grad and _whole(n)
            ]
            before = {n: p.detach().to("cpu", copy=True) for n, p in model.named_parameters() if n in beside}
            yield lambda: _merged(loaded.model, before)
        else:
            before = {n: p.detach().to("cpu", copy=True) for n, p in model.named_parameters() if flags[n]}
            yield lambda: _moved(model, before)
    finally:
        if loaded.model is not model:
            for module in loaded.model.modules():
                if hasattr(
                    module, "original_module"
                ):  # peft leaves the trained copy in place of the original
                    for trained in module.modules_to_save.values():
                        trained.load_state_dict(module.original_module.state_dict())
            loaded.model = loaded.model.unload()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in before:
                    parameter.copy_(before[name])
                parameter.requires_grad_(flags[name])
                parameter.grad = None
        model.eval()


def _whole(name: str) -> bool:
    """Whether a parameter under peft is one of the base's own (a bias that is trained), and not part of an adapter."""
    return ".lora_" not in name and ".modules_to_save." not in name


def _merged(model: Any, trained: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    state = merged_state(model)
    adapted = [f"{own_name(n)}.weight" for n, _ in adapter_layers(model)]
    saved = [
        own_name(n).split(".modules_to_save.")
        for n, _ in model.named_parameters()
        if ".modules_to_save." in n
    ]
    whole = [f"{module}.{rest.partition('.')[2]}" for module, rest in saved]
    for name in dict.fromkeys([*adapted, *whole, *trained]):
        yield name, state[name].detach()


def _moved(model: Any, before: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if name in before and not torch.equal(parameter.detach().cpu(), before[name]):
            yield name, parameter.detach()
