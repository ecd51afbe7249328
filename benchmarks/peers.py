"""How peers compute their losses, as plain reference code: a forward for each part of a loss, logits at every
position, a deep copy of the model as a live reference. Formulas are those of our objectives, so that results agree.

Source: open-unlearning (arXiv 2506.12618) and TOFU's code, read for how they compute.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.arms import PAD, Bench, Shape, batch_of
from harmonize.data.batch import Batch, Row, collate
from harmonize.models.head import Head
from harmonize.models.reference import build_reference
from harmonize.objectives.divergence import kl_to_original, undial
from harmonize.objectives.likelihood import cross_entropy
from harmonize.objectives.outputs import Outputs
from harmonize.objectives.preference import npo
from harmonize.unlearning.terms import Term, denominators, losses

BETA, LOWERED = 0.1, 10.0
METHODS = {
    "npo": [
        Term("forget", npo, 1.0, {"forget": 1.0}, {"beta": BETA}),
        Term("keep", cross_entropy, 1.0, {"retain": 1.0}),
    ],
    "npo_kl": [
        Term("forget", npo, 1.0, {"forget": 1.0}, {"beta": BETA}),
        Term("keep", kl_to_original, 1.0, {"retain": 1.0}),
    ],
    "undial": [
        Term("forget", undial, 1.0, {"forget": 1.0}, {"beta": LOWERED}),
    ],
}


def two_roles(rows: Sequence[Row]) -> list[Row]:
    """The same rows, half forget and half retain, without prefills."""
    return [
        replace(
            r,
            role="forget" if i % 2 else "retain",
            prompt=(*r.prompt, *r.prefill),
            prefill=(),
            cache_start=-1,
        )
        for i, r in enumerate(rows)
    ]


class Referred(Bench):
    """Our step with the untouched model's outputs kept."""

    def placed(self, rows: Sequence[Row]) -> list[Row]:
        """Rows that know where those outputs lie."""
        found: list[Row] = self._parts.forward.place(rows)
        return found


def our_module(
    method: str, untouched: nn.Module, model: nn.Module, rows: Sequence[Row], optimizer: Any
) -> Referred:
    """Our module for a method, with a reference built from the untouched model."""
    terms = METHODS[method]
    kinds = {kind for t in terms for kind in t.reference.kinds}
    read = {role for t in terms if t.reference.kinds for role in t.roles}
    with tempfile.TemporaryDirectory() as folder:
        reference = build_reference(
            untouched,
            Head.of(untouched),
            [r for r in rows if r.role in read],
            kinds,
            {},
            digest="benchmark",
            pad_id=PAD,
            mode="hidden",
            cache_dir=Path(folder),
        )
    return Referred(model, terms, optimizer, reference=reference)


def peer_loss(method: str, model: Any, reference: Any, rows: Sequence[Row], device: torch.device) -> Tensor:
    """The method's loss the peers' way; UNDIAL's retain term has weight 0 and is computed all the same."""
    forget = [r for r in rows if r.role == "forget"]
    retain = [r for r in rows if r.role == "retain"]
    f_logits, f_labels = _logits(model, forget, device)
    with torch.no_grad():
        f_reference, _ = _logits(reference, forget, device)
    if method == "undial":
        lowered = f_reference - LOWERED * F.one_hot(f_labels.clamp_min(0), f_reference.shape[-1])
        each = F.cross_entropy(f_logits.flatten(0, 1), lowered.softmax(-1).flatten(0, 1), reduction="none")
        loss = each[f_labels.flatten() >= 0].mean()
        r_logits, r_labels = _logits(model, retain, device)
        return loss + 0.0 * F.cross_entropy(r_logits.flatten(0, 1), r_labels.flatten())
    ratio = _sequence(f_logits, f_labels) - _sequence(f_reference, f_labels)
    loss = (-F.logsigmoid(-BETA * ratio) * 2 / BETA).mean()
    r_logits, r_labels = _logits(model, retain, device)
    if method == "npo":
        return loss + F.cross_entropy(r_logits.flatten(0, 1), r_labels.flatten())
    with torch.no_grad():
        r_reference, _ = _logits(reference, retain, device)
    log_p, log_q = r_reference.log_softmax(-1), r_logits.log_softmax(-1)
    each = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    return loss + each[r_labels >= 0].mean()


def predicted(method: str, shape: Shape, rows: Sequence[Row]) -> float:
    """FLOPs of our step over those of the peers' way, padding included: what the method's terms read, and no more."""
    ours = collate(rows, PAD)
    parts = {role: collate([r for r in rows if r.role == role], PAD) for role in ("forget", "retain")}
    grids = {role: part.input_ids.numel() for role, part in parts.items()}
    answers = {role: part.labels.numel() for role, part in parts.items()}
    body, head = 2.0 * shape.body, 2.0 * shape.vocabulary * shape.hidden
    wide = {"npo": "", "npo_kl": "retain", "undial": "forget"}[method]  # whose stored states give all logits
    read = answers["forget"] + (0 if method == "undial" else answers["retain"])
    cached = 3 * (body * ours.input_ids.numel() + head * read) + head * answers.get(wide, 0)
    referred = grids["forget"] + (grids["retain"] if method == "npo_kl" else 0)
    live = (body + head) * (3 * sum(grids.values()) + referred)
    return cached / live


def _logits(model: Any, rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor]:
    """fp32 logits at every position but the last, and the labels they predict."""
    batch, labels = batch_of(rows, device)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return logits[:, :-1].float(), labels[:, 1:]


def _sequence(logits: Tensor, labels: Tensor) -> Tensor:
    """[R] summed log-probability of each row's answer."""
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    return -flat.reshape(labels.shape).sum(-1)


def loss_backward(module: Bench, batch: Batch, hidden: Tensor) -> None:
    """Loss and its backward on given hidden states at the answer positions."""
    forward = module._parts.forward
    total = denominators(module.terms, [batch])
    outputs = Outputs(batch, hidden, forward.head, forward.teacher, None, sizes=forward._sizes)
    torch.stack(list(losses(module.terms, outputs, batch, total).values())).sum().backward()


def loss_memory(module: Bench, batch: Batch, hidden: Tensor, device: torch.device) -> int:
    """Bytes that loss and backward take on a GPU beside the hidden states and their gradient."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    loss_backward(module, batch, hidden)
    return int(torch.cuda.max_memory_allocated(device) - before - hidden.numel() * hidden.element_size())
