"""The head seam: the last linear map of a model, applied to answer positions alone, in fp32.

A positions, H hidden size, V vocabulary rows of the head, K ids per position. Soft-caps, logit scales, biases and
padded vocabulary rows are applied here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harmonize.data.batch import Batch
from harmonize.errors import ModelError
from harmonize.models.packing import packable, packed_inputs, packed_positions
from harmonize.models.products import (
    ValuesAtIds,
    canonical_topk,
    full_precision,
    gather_products,
    linear,
    product,
    rows_per_chunk,
    topk,
)

_DENSE_VOCABULARY = 4096  # below this one dense product is cheaper than any selection
_DENSE_RATIO = 165  # dense where K > V / 165: memory traffic of K rows against a product (H200 arithmetic)
_DENSE_BYTES = 1 << 30  # but never keep more fp32 logits than this
_PROBE_LOGIT = 60.0  # beyond every soft-cap in use, so that a missing one shows


@dataclass(frozen=True, eq=False)
class Head:
    """A model's output layer as plain tensors.

    `logits = cap * tanh((scale * (hidden @ weight.T + bias)) / cap)`, without the cap where `softcap` is None.

    Attributes:
        weight: [V, H].
        bias: [V] or None.
        scale: Multiplies the product (Cohere's `logit_scale`, the inverse of Granite's `logits_scaling`).
        softcap: Gemma's `final_logit_softcapping`, or None.
        n_vocab: Ids from here on are padding rows of the head; they are never selected.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    n_vocab: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.n_vocab <= self.weight.shape[0]:
            object.__setattr__(self, "n_vocab", int(self.weight.shape[0]))

    @classmethod
    def of(cls, model: nn.Module, n_vocab: int | None = None) -> Head:
        """Reads the head from a causal language model and checks it against the model's own logits.

        Args:
            model: A transformers causal LM, plain or wrapped by peft; not by DDP or a compiler.
            n_vocab: Number of valid ids (the tokenizer's length) where the head is padded.

        Raises:
            ModelError: No linear head, a head with an adapter, or logits that this seam does not reproduce.
        """
        layer = output_layer(model)
        config = _text_config(model)
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        head = cls(weight, layer.bias, scale, float(cap) if cap else None, n_vocab or int(weight.shape[0]))  # type: ignore[arg-type]
        head._verify(model, layer)
        return head

    def frozen(self, clone: bool = False) -> Head:
        """The same head without gradients; `clone` copies the tensors so that training cannot move them."""
        weight = self.weight.detach()
        bias = None if self.bias is None else self.bias.detach()
        if clone:
            weight, bias = weight.clone(), None if bias is None else bias.clone()
        return replace(self, weight=weight, bias=bias)

    def dense(self, positions: int, k: int) -> bool:
        """Whether a full [positions, V] product is cheaper than selecting k ids per position."""
        vocabulary = int(self.weight.shape[0])
        small = vocabulary <= _DENSE_VOCABULARY or k > vocabulary / _DENSE_RATIO
        return small and positions * vocabulary * 4 <= _DENSE_BYTES

    @property
    def chunk(self) -> int:
        """Positions whose fp32 logits may exist at once."""
        return rows_per_chunk(int(self.weight.shape[0]))

    def logits(self, hidden: Tensor) -> Tensor:
        """[A, H] -> [A, V] fp32, differentiable."""
        with full_precision(hidden.device):
            raw = linear(hidden, self.weight)
            return self._finish(raw if self.bias is None else raw + self.bias)

    def at(self, hidden: Tensor, ids: Tensor, dense: bool | None = None) -> Tensor:
        """Logits at `ids`, differentiable. [A, H], [A, K] -> [A, K] fp32.

        Args:
            hidden: Final hidden states.
            ids: Vocabulary ids per position.
            dense: Force the dense or the gathering path; None decides by size.
        """
        if self.dense(*ids.shape) if dense is None else dense:
            return self.logits(hidden).gather(1, ids)
        with full_precision(hidden.device):
            with torch.no_grad():
                raw = gather_products(hidden, self.weight, ids)
                if self.bias is not None:
                    raw = raw + self.bias[ids]
            return self._finish(self._with_gradient(hidden, ids, raw))

    def select(
        self, hidden: Tensor, ids: Tensor | None, k: int, dense: bool | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Top k logits and the logits at given ids from one vocabulary product.

        Args:
            hidden: [A, H] final hidden states.
            ids: [A, K] ids, or None.
            k: Length of the top list; 0 for none.
            dense: Force the dense or the sparse path; None decides by size. Both give the same numbers.

        Returns:
            Top ids [A, k] (no gradient), top values [A, k] and values at `ids` [A, K], fp32 and
            differentiable with respect to hidden states and an unfrozen head.
        """
        count, extra = hidden.shape[0], 0 if ids is None else int(ids.shape[1])
        if ids is None:
            ids = torch.empty((count, 0), dtype=torch.long, device=hidden.device)
        if self.dense(count, k + extra) if dense is None else dense:
            values = self.logits(hidden)
            top = self.top_ids(values.detach(), k)
            return top, values.gather(1, top), values.gather(1, ids)
        with full_precision(hidden.device):
            with torch.no_grad():
                top, raw = self._chunked_selection(hidden, ids, k)
            both = self._finish(self._with_gradient(hidden, torch.cat([top, ids], 1), raw))
        return top, both[:, :k], both[:, k:]

    def log_probs(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Log-probability of `labels`. [A, H], [A] -> [A] fp32.

        More than one chunk of positions is checkpointed chunk by chunk, so at most one chunk of logits is kept.
        """
        step = rows_per_chunk(self.weight.shape[0])
        if hidden.shape[0] <= step:
            return self._label_log_probs(hidden, labels)
        parts = [
            checkpoint(self._label_log_probs, h, y, use_reentrant=False)
            for h, y in zip(hidden.split(step), labels.split(step), strict=True)
        ]
        return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)

    def top_ids(self, logits: Tensor, k: int) -> Tensor:
        """Ids of the k largest valid logits. [A, V] -> [A, k]; tie order is the backend's."""
        return topk(self._valid(logits), k)

    def canonical_top(self, hidden: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Top k as (ids, values), ties broken by id, without gradient: what a teacher cache stores."""
        ids, values = [], []
        with torch.no_grad():
            for part in hidden.split(rows_per_chunk(self.weight.shape[0])):
                found = canonical_topk(self._valid(self.logits(part)), k)
                ids.append(found[0])
                values.append(found[1])
        return torch.cat(ids), torch.cat(values)

    def _label_log_probs(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return -F.cross_entropy(self.logits(hidden), labels, reduction="none")

    def _valid(self, logits: Tensor) -> Tensor:
        if self.n_vocab == logits.shape[1]:
            return logits
        logits = logits.clone()
        logits[:, self.n_vocab :] = float("-inf")
        return logits

    def _finish(self, raw: Tensor) -> Tensor:
        values = raw.float()
        if self.scale != 1.0:
            values = values * self.scale
        if self.softcap is not None:
            values = torch.tanh(values / self.softcap) * self.softcap
        return values

    def _with_gradient(self, hidden: Tensor, ids: Tensor, raw: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return raw
        return ValuesAtIds.apply(hidden, self.weight, self.bias, ids, raw)  # type: ignore[no-any-return]

    def _chunked_selection(self, hidden: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Top ids [A, k] and raw products [A, k + K], one chunk of logits alive at a time."""
        tops, values = [], []
        step = rows_per_chunk(self.weight.shape[0])
        for h, wanted in zip(hidden.split(step), ids.split(step), strict=True):
            raw = product(h, self.weight)
            if self.bias is not None:
                raw += self.bias
            top = topk(self._valid(raw if self.scale > 0 else -raw), k) if k else wanted[:, :0]
            tops.append(top)
            values.append(raw.gather(1, torch.cat([top, wanted], 1)))
        return torch.cat(tops), torch.cat(values)

    def _verify(self, model: nn.Module, layer: nn.Module) -> None:
        """Compares with the model on a short probe, half of it amplified so that caps and scales show."""
        seen: list[Tensor] = []

        def amplify(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = args[0].detach().clone()
            peak = float(self.logits(hidden[0]).abs().max())
            hidden[:, 1::2] *= max(1.0, _PROBE_LOGIT / max(peak, 1e-3))
            seen.append(hidden[0])
            return (hidden, *args[1:])

        length = min(8, self.n_vocab)
        ids = torch.arange(length, device=self.weight.device).unsqueeze(0)
        handle = layer.register_forward_pre_hook(amplify)
        try:
            with torch.no_grad(), evaluating(model):
                theirs = (
                    model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
                    .logits[0]
                    .float()
                )
        finally:
            handle.remove()
        if not seen:
            raise ModelError(
                "The model computes its logits without calling its output layer; this head is unknown."
            )
        with torch.no_grad():
            ours = self.logits(seen[0])
        limit = (1e-4 if self.weight.dtype == torch.float32 else 3e-2) * (1.0 + float(ours.abs().max()))
        gap = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
        if not gap <= limit:
            raise ModelError(
                f"The logits of {type(model).__name__} are not those of its output layer with scale {self.scale:g}, "
                f"soft-cap {self.softcap} and bias {'yes' if self.bias is not None else 'no'} "
                f"(largest difference {gap:.3g} on a probe). This kind of head is not supported."
            )


def output_layer(model: nn.Module) -> nn.Module:
    """The linear layer that makes the logits.

    Raises:
        ModelError: None, not linear, or wrapped by an adapter.
    """
    getter = getattr(model, "get_output_embeddings", None)
    layer = getter() if getter is not None else None
    if layer is None:
        raise ModelError(f"{type(model).__name__} has no output layer; a causal language model is needed.")
    if hasattr(layer, "base_layer") or hasattr(layer, "modules_to_save"):
        raise ModelError(
            "The output layer carries an adapter, which would change the head that teacher and student share. "
            "Remove lm_head from peft.target_modules and peft.modules_to_save."
        )
    weight = getattr(layer, "weight", None)
    if not isinstance(layer, nn.Linear) or not isinstance(weight, Tensor) or weight.dim() != 2:
        raise ModelError(f"The output layer is a {type(layer).__name__}; only a linear one is supported.")
    return layer


class evaluating:
    """Puts a model into eval mode and restores every module's own mode afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._training = [m for m in self._model.modules() if m.training]
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        for module in self._training:
            module.training = True


def answer_hidden(model: nn.Module, batch: Batch, layer: nn.Module | None = None, past: Any = None) -> Tensor:
    """Final hidden states at the answer positions, from one call of the model. -> [A, H] in the model's dtype.

    The model's own forward runs (also through DDP or peft wrappers); just before its output layer the answer
    positions are gathered, and the layer itself gets a single row, so its product costs nothing.

    Args:
        model: A causal LM, possibly wrapped.
        batch: Rows of any padding; see `harmonize.data.batch.Batch`.
        layer: The output layer, where the wrapper hides it. None looks it up.
        past: Keys and values of what every row begins with (`SharedPrefix`); the batch holds the rest, right-padded.
    """
    return answer_states(model, batch, (), layer, past)[0]


def answer_states(
    model: nn.Module,
    batch: Batch,
    blocks: Sequence[int] = (),
    layer: nn.Module | None = None,
    past: Any = None,
) -> tuple[Tensor, dict[int, Tensor]]:
    """`answer_hidden`, and the hidden states after some blocks at the same positions, all from one call.

    Args:
        model, batch, layer, past: As in `answer_hidden`.
        blocks: Numbers of blocks, counted from 0 (`block_number`).

    Returns:
        [A, H] final states, and block to its [A, H].
    """
    layer = layer if layer is not None else output_layer(unwrapped(model))
    found: list[Tensor] = []
    inner: dict[int, Tensor] = {}

    packed = past is None and packable(unwrapped(model), batch)
    positions = packed_positions(batch) if packed else batch.positions

    def pick(states: Tensor) -> Tensor:
        return states.reshape(-1, states.shape[-1]).index_select(0, positions)

    def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        found.append(pick(hidden))
        return (hidden[:1, :1].detach(), *args[1:])

    def keep(block: int) -> Any:
        def after(_: nn.Module, args: Any, out: Any) -> None:
            inner[block] = pick(out[0] if isinstance(out, tuple) else out)

        return after

    handles = [layer.register_forward_pre_hook(gather)]
    if blocks:
        modules = blocks_of(model)
        handles += [modules[b].register_forward_hook(keep(b)) for b in blocks]
    try:
        inputs = packed_inputs(unwrapped(model), batch) if packed else model_inputs(batch, past)
        model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found[0], inner


def model_inputs(batch: Batch, past: Any = None) -> dict[str, Any]:
    """What a model is called with for a batch.

    A right-padded batch goes without a mask: no column sees one to its right, so padding reaches no answer position,
    and attention keeps the kernels that take no mask (flash).
    """
    if past is not None:
        return {"input_ids": batch.input_ids, "past_key_values": past}
    if batch.right_padded:
        return {"input_ids": batch.input_ids}
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks of a model, in order.

    Raises:
        ModelError: There is no list of as many modules as the configuration has layers.
    """
    config = _text_config(unwrapped(model))
    depth = getattr(config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"{type(model).__name__} shows no list of blocks, so no layer of it can be named.")


def block_number(model: nn.Module, layer: int | None) -> int:
    """The block that a setting `layer` names: counted from 0, negative from the end, None ends the first quarter.

    Raises:
        ModelError: The model has no such block.
    """
    depth = len(blocks_of(model))
    number = max(0, depth // 4 - 1) if layer is None else int(layer)
    if not -depth <= number < depth:
        raise ModelError(
            f"layer={layer}: the model has {depth} blocks, 0 to {depth - 1}. Name one of them, or layer=null for the "
            "one that ends the first quarter."
        )
    return number % depth


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP or a compiler's wrapper."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and not hasattr(model, "get_output_embeddings"):
            inner = getattr(model, "module", None)
        if inner is None:
            return model
        model = inner


def _text_config(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    getter = getattr(config, "get_text_config", None)
    return getter() if callable(getter) else config
