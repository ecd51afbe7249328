"""The head seam: the last linear map of a model, applied to answer positions alone, in fp32.

A positions, H hidden size, V vocabulary rows of the head, K ids per position. Soft-caps, logit scales, biases and
padded vocabulary rows are applied here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harmonize.errors import ModelError
from harmonize.models.body import evaluating, output_layer, text_config
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
        config = text_config(model)
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
            top, raw = self._selection(h, wanted, k)
            tops.append(top)
            values.append(raw)
        return torch.cat(tops), torch.cat(values)

    def _selection(self, hidden: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """`_chunked_selection` of one chunk, whose logits are gone before the next are made."""
        raw = product(hidden, self.weight)
        if self.bias is not None:
            raw += self.bias
        top = topk(self._valid(raw if self.scale > 0 else -raw), k) if k else ids[:, :0]
        return top, raw.gather(1, torch.cat([top, ids], 1))

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
