"""Models, rows and arms of the cost protocol: our step as the LightningModule takes it, peers' as plain code."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harmonize.data.batch import Batch, Row, collate
from harmonize.models.cache import HiddenCache, TeacherCache
from harmonize.models.frozen import FrozenTeacher, TeacherRequest
from harmonize.models.head import Head
from harmonize.models.lora import adapters_off, apply_peft, has_adapters
from harmonize.models.teacher import build_teacher_cache
from harmonize.objectives.distill import pull, push
from harmonize.objectives.likelihood import cross_entropy
from harmonize.unlearning.controllers import Fixed
from harmonize.unlearning.forward import Forward
from harmonize.unlearning.gradient import Sum
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.steps import StepData
from harmonize.unlearning.terms import Term, denominators, losses

ROLES = ("forget", "neighbor", "retain")
EVERY = dict.fromkeys(ROLES, 1.0)
LORA = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
PAD = 0


@dataclass(frozen=True)
class Shape:
    """Proportions of a Llama-shaped model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    tied: bool = True

    @property
    def body(self) -> int:
        """Parameters without embedding and head."""
        width = self.hidden // self.heads
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_heads * width
        return self.layers * (attention + 3 * self.hidden * self.inner)


SHAPES = {
    "1b": Shape(2048, 16, 32, 8, 8192, 128256),
    "8b": Shape(4096, 32, 32, 8, 14336, 128256, tied=False),
    "sandbox": Shape(128, 3, 4, 4, 352, 450),
    "1b-proportioned": Shape(512, 7, 8, 8, 1408, 14336),
    "v32k": Shape(256, 4, 4, 4, 704, 32000),
    "v128k": Shape(256, 2, 4, 4, 704, 128256),
    "tiny": Shape(32, 2, 4, 2, 64, 300),
}


def build_model(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A Llama of this shape with random weights, in training mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    with device, default_dtype(dtype):
        model = LlamaForCausalLM(config)
    return model.to(device=device, dtype=dtype).train()


def add_lora(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with adapters on every linear layer, all in one dtype as under `trainer.precision=bf16-true`."""
    return apply_peft(model, LORA).to(dtype)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Torch's default dtype inside, as Lightning sets it around a step of `trainer.precision=bf16-true`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Work:
    """The rows of a step.

    Attributes:
        rows: Number of rows.
        length: Tokens of the longest row.
        answers: Share of the tokens that are answers.
        prefix: Tokens of the instruction that only the teacher reads.
        shortest: Length of the shortest row over that of the longest.
    """

    rows: int
    length: int
    answers: float = 0.25
    prefix: int = 64
    shortest: float = 0.6


def make_rows(work: Work, vocabulary: int, seed: int = 0) -> list[Row]:
    """Random rows: lengths spread evenly, half of the forget rows with a prefill, two of four rows forget."""
    draw = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (count,), generator=draw).tolist())

    made, start = [], 0
    for i in range(work.rows):
        share = 1.0 - (1.0 - work.shortest) * i / max(1, work.rows - 1)
        length = max(4, round(work.length * share))
        target = ids(max(1, round(length * work.answers)))
        role = ("forget", "neighbor", "forget", "retain")[i % 4]
        prefill = ids(min(4, length - len(target) - 2)) if i % 4 == 0 else ()
        prompt = ids(length - len(target) - len(prefill))
        made.append(Row(f"e{i:05d}", role, f"s{i}", prompt, target, prefill=prefill, cache_start=start))
        start += len(target)
    return made


def requests_of(rows: Sequence[Row], prefix: int, vocabulary: int) -> list[TeacherRequest]:
    """What the teacher is asked: each row without its prefill, behind one instruction."""
    draw = torch.Generator().manual_seed(1)
    told = tuple(torch.randint(3, vocabulary, (prefix,), generator=draw).tolist())
    return [TeacherRequest(r.example_id, r.role, (*told, *r.prompt), r.target) for r in rows]


def make_teacher(
    model: nn.Module,
    requests: Sequence[TeacherRequest],
    mode: str = "hidden",
    share: bool = True,
    batch: int = 64,
    head: Head | None = None,
) -> TeacherCache:
    """The teacher of these rows, through the builder that runs use; its folder is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return build_teacher_cache(
            model,
            head or Head.of(model),
            requests,
            digest="benchmark",
            renderer_digest="benchmark",
            end_id=2,
            stop_ids=[2],
            pad_id=PAD,
            max_new_tokens=1,
            mode=mode,
            top_k=64,
            cache_dir=Path(folder),
            batch_size=batch,
            share_prefix=share,
        )


def unrounded_teachers(
    model: nn.Module, requests: Sequence[TeacherRequest], k: int = 64
) -> dict[str, TeacherCache]:
    """Teachers with and without a shared beginning whose states no fp16 has rounded, over the same ids.

    Rounding to fp16 makes steps of the differences between two ways of one sum, and near the end of a list such a step
    changes which ids are in it. What the ways themselves differ by shows without either.
    """
    ordered = sorted(requests, key=lambda r: r.example_id)
    targets = {r.example_id: r.target or () for r in ordered}
    head = Head.of(model).frozen(clone=True)
    found: dict[str, TeacherCache] = {}
    ids: Tensor | None = None
    for name, share in (("live", False), ("live, shared prefix", True)):
        asked = FrozenTeacher(model, lambda: adapters_off(model), PAD, 64, share, dtype=torch.float32)
        states = torch.cat(asked.hidden(ordered))
        with torch.no_grad():
            ids = head.canonical_top(states, k)[0] if ids is None else ids
            found[name] = HiddenCache(head, targets, states, ids, head.at(states, ids))
    return found


def bidirectional(k: int = 16) -> list[Term]:
    """The terms of conf/method/bidirectional.yaml."""
    return [
        Term("pull", pull, 1.0, EVERY, {"k": k}),
        Term("push", push, 1.0, EVERY, {"k": k, "k_teacher": k}),
    ]


def supervised() -> list[Term]:
    """Cross-entropy over the answer tokens of all rows, one mean for each role."""
    return [Term("cross_entropy", cross_entropy, 1.0, EVERY, {})]


class Bench(UnlearningModule):
    """The module with Lightning's trainer taken away: its steps can be taken one by one, arms in turn."""

    def __init__(self, student: nn.Module, terms: Sequence[Term], optimizer: Any, **more: Any) -> None:
        super().__init__(
            student,
            terms,
            optimizer=lambda _: optimizer,
            scheduler=lambda _: None,
            combiner=Sum(),
            controller=Fixed(),
            pad_id=PAD,
            seed=0,
            clip=1.0,
            **more,
        )
        self._optimizer = optimizer
        self.mark: Callable[[str], None] | None = None
        self.to(next(student.parameters()).device)

    def optimizers(self, *_: Any, **__: Any) -> Any:
        """The one optimizer."""
        return self._optimizer

    def lr_schedulers(self) -> Any:
        """A schedule that does nothing."""
        return _Still()

    def log(self, *_: Any, **__: Any) -> None:
        """No trainer, no log."""

    def _backward(self, loss: Tensor) -> None:
        """Backward pass on the one device; what came before it was the forward and the loss."""
        if self.mark:
            self.mark("loss")
        loss.backward()
        if self.mark:
            self.mark("backward")

    def _world(self) -> int:
        return 1

    def _gradient_scale(self) -> float | None:
        return None

    def step(self, rows: Sequence[Row], dtype: torch.dtype) -> Callable[[], None]:
        """One optimizer step on these rows, as a run takes it."""
        data = StepData(0, tuple((row,) for row in rows))

        def take() -> None:
            with default_dtype(dtype) if dtype != torch.float32 else nullcontext():
                self.training_step(data, 0)
            if self.mark:
                self.mark("update")

        return take

    def loss(self, rows: Sequence[Row], dense: bool | None = None) -> Tensor:
        """The step's weighted loss with its graph; `dense` forces a path of the head."""
        batch = collate(rows, PAD)
        total = denominators(self.terms, [batch])
        forward: Forward = self._parts.forward
        outputs = forward(batch.to(self.device))
        if dense is not None:
            outputs._dense = dense
        found = losses(self.terms, outputs, batch.to(self.device), total)
        return torch.stack(list(found.values())).sum()


class _Still:
    def step(self) -> None:
        """Nothing."""


def batch_of(rows: Sequence[Row], device: torch.device) -> tuple[Batch, Tensor]:
    """Rows as a batch, and as labels over all positions (-100 outside of answers)."""
    batch = collate(rows, PAD)
    labels = torch.full(batch.input_ids.shape, -100).reshape(-1)
    labels[batch.positions + 1] = batch.labels
    return batch.to(device), labels.reshape(batch.input_ids.shape).to(device)


def role_means(log_probs: Tensor, batch: Batch) -> Tensor:
    """Sum over roles of the mean negative log-probability of their answer tokens."""
    role = batch.role_id[batch.row]
    parts = [-log_probs[role == r].mean() for r in range(len(ROLES))]
    return torch.stack(parts).sum()


def stock_loss(model: Any, rows: Sequence[Row], device: torch.device, mask: bool = True) -> Tensor:
    """Supervised loss as transformers computes it: `labels=`, logits at every position, one mean over all answers."""
    batch, labels = batch_of(rows, device)
    seen = batch.attention_mask if mask else None
    loss: Tensor = model(input_ids=batch.input_ids, attention_mask=seen, labels=labels).loss
    return loss


def answer_only_loss(model: Any, rows: Sequence[Row], device: torch.device) -> Tensor:
    """The same loss with logits at answer positions alone, all of them at once, in fp32."""
    batch, _ = batch_of(rows, device)
    base = model.get_base_model() if has_adapters(model) else model
    hidden = base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)[0]
    states = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.positions)
    return F.cross_entropy(base.lm_head(states).float(), batch.labels)


def plain_step(
    loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter], optimizer: Any, mark: Any = None
) -> Callable[[], None]:
    """A step of a plain training loop: backward, clipping, update, and the loss read."""

    def take() -> None:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        if mark:
            mark("loss")
        value.backward()
        if mark:
            mark("backward")
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        float(value.detach())
        if mark:
            mark("update")

    return take


def one_mean(terms: Sequence[Term]) -> list[Term]:
    """The same terms for rows that all have one role."""
    return [replace(t, roles={"retain": 1.0}) for t in terms]


def one_role(rows: Sequence[Row]) -> list[Row]:
    """The same rows as rows of one role, so that a role's mean is the mean over all answers."""
    return [replace(r, role="retain") for r in rows]


def flops(shape: Shape, batch: Batch, kind: str, lora: bool, prefix_share: float = 0.0) -> float:
    """Model FLOPs of a step after section 2.2 of the notes on performance: no attention scores, no recomputation.

    Args:
        shape: Of the model.
        batch: What the step reads; padding counts, since it is computed.
        kind: stock, answers, cached or live.
        lora: Frozen base with adapters (their own cost is left out).
        prefix_share: Teacher tokens per student token, for `live`.
    """
    tokens, answers = batch.input_ids.numel(), int(batch.labels.numel())
    body, head = 2.0 * shape.body * tokens, 2.0 * shape.vocabulary * shape.hidden
    passes = 2 if lora else 3
    total = passes * body
    total += {"stock": passes * head * tokens, "answers": passes * head * answers}.get(kind, head * answers)
    if kind == "live":
        total += body * prefix_share + head * answers
    return total
