"""Building the teacher: its own responses, then its hidden states at every response position, once and for all runs."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harmonize import warm
from harmonize.data.corpus import content_hash
from harmonize.errors import RunError
from harmonize.models.body import output_layer
from harmonize.models.budget import Budget, Place, afford
from harmonize.models.cache import HiddenCache, LiveTeacher, TeacherCache, TopKCache
from harmonize.models.filling import fill_teacher
from harmonize.models.frozen import Context, FrozenTeacher, TeacherRequest
from harmonize.models.generate import Progress, greedy, in_order
from harmonize.models.head import Head
from harmonize.models.lora import adapters_off, has_adapters, without_adapters
from harmonize.models.shares import ALONE, Shares
from harmonize.models.store import (
    RAM_BYTES,
    CorruptFolder,
    read_folder,
    remove_folder,
    write_folder,
)

FORMAT = (
    "teacher-4"  # part of the key: a change of what is stored, or of how it is computed, makes new folders
)
_log = logging.getLogger(__name__)


def build_teacher_cache(
    model: nn.Module,
    head: Head,
    requests: Sequence[TeacherRequest],
    *,
    digest: str,
    renderer_digest: str,
    end_id: int,
    stop_ids: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    mode: str,
    top_k: int,
    cache_dir: Path,
    batch_size: int = 64,
    progress: Progress | None = None,
    context: Context | None = None,
    share_prefix: bool = True,
    budget: Budget | None = None,
    names: Mapping[str, str] | None = None,
    shares: Shares = ALONE,
) -> TeacherCache:
    """The teacher's responses and logits, read from `cache_dir/teacher` if they are there, computed otherwise.

    Call it before an optimizer exists and before DDP or a compiler wraps the model.

    Args:
        model: The model as it is before training; with adapters, they are off while the teacher runs.
        head: The model's head. A trainable weight is copied, a frozen one shared.
        requests: In any order.
        digest, renderer_digest: Content of the weights, and of tokenizer and template.
        end_id: Closes the teacher's own responses.
        stop_ids, pad_id, max_new_tokens: For those responses.
        mode: `hidden` (exact), `topk` (bounded) or `none` (a live teacher; a full fine-tuning then keeps a frozen copy
            of the model).
        top_k: Length K' of the stored lists.
        cache_dir: The package's cache folder.
        batch_size: Rows per forward pass; not part of the key.
        progress: Called with (done, total), first over the teacher's own responses, then over all requests.
        context: Makes a context around every teacher forward; None switches adapters off.
        share_prefix: Read what prompts begin with alike once for all of them (`harmonize.models.prefix`).
        budget: What it may take on the disk, looked at before it is built; None builds it as long as the disk lasts.
        names: `model` and `data`, as their user calls them; not part of the key.
        shares: The processes that hold the model together; each computes some of the batches, the first one writes. The
            content is that of one process, so the key is, too. Not for `none`.

    Raises:
        ModelError: Hidden states that fp16 cannot hold.
        RunError: The cache cannot be written, or is more than the budget or the disk allows.
        ValueError: Two requests with one example_id, or an unknown mode.
    """
    ordered = sorted(requests, key=lambda r: r.example_id)
    if len({r.example_id for r in ordered}) < len(ordered):
        raise ValueError("two teacher requests have the same example_id")
    if mode not in ("hidden", "topk", "none"):
        raise ValueError(f"unknown cache mode {mode!r}")
    off = context or (lambda: adapters_off(model))
    teacher = FrozenTeacher(model, off, pad_id, batch_size, share_prefix, shares)
    answered: list[TeacherRequest] = []

    def complete() -> list[TeacherRequest]:
        if not answered:
            answered.extend(_with_targets(teacher, ordered, end_id, stop_ids, max_new_tokens, progress))
        return answered

    generation = [sorted(stop_ids), end_id, max_new_tokens] if any(r.target is None for r in ordered) else []
    numerics, shape = model_numerics(model, head)
    asked = [
        (r.example_id, _ids_hash(r.prompt), None if r.target is None else _ids_hash(r.target))
        for r in ordered
    ]

    def place(mode: str) -> Place:
        kept = min(budget.top_k if budget and mode != wanted else top_k, head.n_vocab)
        key = content_hash(FORMAT, mode, kept, digest, renderer_digest, numerics, shape, generation, asked)
        return Place(key, Path(cache_dir) / "teacher" / key[:32], kept)

    wanted, note = mode, ""
    if budget is not None and mode != "none":
        mode, note = afford(mode, budget, ordered, complete, max_new_tokens, shape[0][1], place)
    if mode == "none":
        frozen = _live_head(teacher, head)
        known = complete()
        return LiveTeacher(
            frozen,
            {r.example_id: r.target or () for r in known},
            lambda which: teacher.hidden(known, which),
            lambda: teacher.forwards,
            teacher.check,
        ).noted(note)
    key, folder, kept = place(mode)
    frozen = head.frozen(clone=head.weight.requires_grad)
    device = head.weight.device
    tensors: dict[str, Tensor] = {}
    targets: dict[str, tuple[int, ...]] = {}

    def fill(work: Path | None) -> None:
        targets.update((r.example_id, r.target or ()) for r in complete())
        tensors.update(fill_teacher(work, teacher, frozen, complete(), mode, kept, progress))

    arrays = filled("teacher", folder, key, fill, shares, names, lambda: bool(tensors))
    if arrays:
        ends = arrays["offsets"].tolist()
        ids = arrays["targets"].tolist()
        targets = {r.example_id: tuple(ids[a:b]) for r, a, b in zip(ordered, ends, ends[1:], strict=False)}
        small = sum(a.nbytes for a in arrays.values()) <= RAM_BYTES
        tensors = {
            name: tensor.to(device) if small else tensor
            for name in ("hidden", "top_ids", "top_values")
            if name in arrays and (tensor := torch.from_numpy(arrays[name])) is not None
        }
    kind = HiddenCache if mode == "hidden" else TopKCache
    return kind(frozen, targets, **tensors, path=folder, forwards=teacher.forwards).noted(note)


def _with_targets(
    teacher: FrozenTeacher,
    requests: Sequence[TeacherRequest],
    end_id: int,
    stop_ids: Collection[int],
    max_new_tokens: int,
    progress: Progress | None,
) -> list[TeacherRequest]:
    """Requests with the teacher's own greedy responses filled in."""
    open_ones = [i for i, r in enumerate(requests) if r.target is None]
    complete = list(requests)
    if open_ones:
        shares, ends = teacher.shares, (stop_ids, teacher.pad_id, max_new_tokens)
        prompts, size = in_order(teacher.model, [requests[i].prompt for i in open_ones]), teacher.batch_size
        mine: dict[tuple[int, ...], list[int]] = {}
        with shares.together(teacher.model), teacher.running():
            for start in range(0, len(prompts), size):
                if not shares.takes(start // size):
                    continue
                part = prompts[start : start + size]
                mine.update(zip(part, greedy(teacher.model, part, *ends, size), strict=True))
                if progress is not None:
                    progress(start + len(part), len(prompts))
        said = {p: t for found in shares.of_all(mine) for p, t in found.items()}
        for i in open_ones:
            # an answer that was cut off did not end there, so nothing may learn that it does
            text = said[requests[i].prompt]
            cut = len(text) >= max_new_tokens
            complete[i] = replace(requests[i], target=tuple(text) if cut else (*text, end_id))
    return complete


def _ids_hash(ids: Sequence[int]) -> str:
    return hashlib.sha256(array("q", ids).tobytes()).hexdigest()


def read_arrays(folder: Path, key: str) -> dict[str, np.ndarray] | None:
    """Arrays of a cache folder, or None where it is not there or damaged (then it is moved out of the way)."""
    try:
        return read_folder(folder, key)
    except FileNotFoundError:
        return None
    except CorruptFolder as error:
        _log.warning("The cache %s is damaged (%s) and is built again.", folder, error)
        remove_folder(folder)
        return None


def kept_arrays(place: str, folder: Path, key: str) -> dict[str, np.ndarray] | None:
    """`read_arrays`; of one folder they stay in memory for the next run of this process (`harmonize.warm`)."""
    header = warm.files_of(folder / "header.json")
    return warm.keep(place, [str(folder), key, header] if header else None, lambda: read_arrays(folder, key))


def filled(
    place: str,
    folder: Path,
    key: str,
    fill: Callable[[Path | None], None],
    shares: Shares,
    names: Mapping[str, str] | None = None,
    in_memory: Callable[[], bool] = lambda: False,
) -> dict[str, np.ndarray]:
    """Arrays of a cache folder, which is written first where it is not there.

    Args:
        place: Of `kept_arrays`.
        folder, key: As in `read_arrays`.
        fill: Computes the arrays and writes them into a folder; where several processes do it together, all are asked,
            and those that do not write get None.
        shares: These processes.
        names: `model` and `data`, as their user calls them; not part of the key.
        in_memory: Whether `fill` has left the arrays in memory, so that nothing needs to be read.

    Raises:
        RunError: The folder cannot be written, or was damaged while it was.
    """
    arrays = kept_arrays(place, folder, key) if shares.is_first else None
    if not shares.of_first(arrays is not None):
        if shares.is_first:
            write_folder(folder, key, fill, names=names)
        else:
            fill(None)
        shares.of_first(True)  # it is in place
        if in_memory():
            return {}
    arrays = arrays if arrays is not None else read_arrays(folder, key)
    if arrays is None:
        raise RunError(f"The cache {folder} was damaged while it was being written. Start the run again.")
    return arrays


def _live_head(teacher: FrozenTeacher, head: Head) -> Head:
    """Head of a live teacher. Weights that will be trained are copied whole, others are shared.

    Of a model with adapters it becomes the base alone: to call each adapter, switched off, and to switch them all twice
    a step, costs a forward pass of a small model.
    """
    model = teacher.model
    if has_adapters(model):
        base = without_adapters(model)
        if base is not None:
            teacher.model, teacher.context = base.eval(), contextlib.nullcontext
        return head.frozen(clone=head.weight.requires_grad)
    if not any(p.requires_grad for p in model.parameters()):
        return head.frozen(clone=head.weight.requires_grad)
    teacher.model = copy.deepcopy(model).eval().requires_grad_(False)
    layer: Any = output_layer(teacher.model)
    return replace(
        head, weight=layer.weight.detach(), bias=None if layer.bias is None else layer.bias.detach()
    )


def model_numerics(model: nn.Module, head: Head) -> tuple[list[Any], list[Any]]:
    """Parts of a content key: how a model computes, and the form of its head."""
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    attention = str(getattr(getattr(model, "config", None), "_attn_implementation", None))
    numerics = [str(head.weight.dtype), str(dtype), head.weight.device.type, attention]
    return numerics, [list(head.weight.shape), head.n_vocab, head.scale, head.softcap]
