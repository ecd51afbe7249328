"""What an experiment with real models costs: FLOPs, GPU hours, memory and disk, by arithmetic alone.

Symbols: N_b parameters of the body, V vocabulary, H hidden size; F_b = 2 N_b and F_h = 2 V H FLOPs per token, forward.
Attention scores (2 T H L per token) are left out: under 2 % at 512 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GB = 1e9
ADAM_STATE = 12  # bytes a trained weight, beside the weight: fp32 gradient and two moments
# Shares of the device's peak that are reached, our assumptions: training in large products, generation bound by memory.
ACHIEVED = {"training": 0.35, "generation": 0.02}
PEAK_FLOPS = 989e12  # dense bf16 of an H100, by its data sheet
HOUR = 3600.0


@dataclass(frozen=True)
class Shape:
    """A causal transformer with gated feed-forward layers and grouped key-value heads."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From a model's `config.json`.

        Raises:
            KeyError: It is of no such architecture.
        """
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return cls(
            hidden=hidden,
            layers=int(config["num_hidden_layers"]),
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def body(self) -> int:
        """N_b: query, key, value and output projections, three matrices of the feed-forward part; norms left out."""
        width = self.heads * self.head_dim
        attention = 2 * self.hidden * width + 2 * self.hidden * self.kv_heads * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        """V H, of the output head; the embedding has as many again unless it is tied."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.body + self.head * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Parameters of low-rank adapters on every linear layer of the body."""
        width, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = 2 * (self.hidden + width) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * sides


@dataclass(frozen=True)
class Load:
    """What the runs of an experiment read and write, in tokens of one run.

    row: Of one row, prompt and answer. rows: Of one step. batch: Rows at once. steps: Of a run. answer: Share of a
    row's tokens at which the loss is taken. instruction: Tokens before a row that only the teacher reads. evaluated:
    Tokens read in evaluation. generated: Tokens written in evaluation and by the teacher. trained: Tokens that pass
    forward and backward beside the steps. runs: How many. adapters: Rank, 0 for full fine-tuning. checkpointing:
    Activations are computed again. weight_bytes: Of one weight.
    """

    row: int
    rows: int
    batch: int
    steps: int
    answer: float
    instruction: int
    evaluated: int
    generated: int
    runs: int
    adapters: int
    checkpointing: bool
    trained: int = 0
    weight_bytes: int = 4


@dataclass(frozen=True)
class Estimate:
    """FLOPs of one run by part, GPU hours of all, and bytes.

    training, evaluation: Of one run. hours: Of all runs on one device at the assumed shares of its peak. memory: Of the
    device at the peak. weights: On disk, as downloaded (two bytes a weight). disk: Of one run's export.
    """

    training: float
    evaluation: float
    generation: float
    hours: float
    memory: float
    weights: float
    disk: float


def estimate(shape: Shape, load: Load) -> Estimate:
    """The costs of an experiment.

    Formula: training FLOPs of a token = c F_b + a F_h, c = 3 for full fine-tuning and 2 with adapters, one more with
    checkpointing, a the share of answer positions; the teacher's cache once a run: (1 + instruction / row) F_b + a F_h;
    evaluation and generation: F_b + F_h. Memory: weights + 12 bytes a trained weight + activations of a micro-batch
    (34 bytes a token, hidden unit and layer; 2 with checkpointing) + fp32 logits and their gradient at its answers.

    One head product is that of a distillation step with the cached teacher; a baseline that needs whole distributions
    takes up to three.

    Source: FLOPs as usual (2 a parameter and token forward, 4 backward, 2 of them for gradients of weights); bytes of
        activations: Korthikanti et al. 2022 (arXiv 2205.05198), 34 s b h a layer without the attention matrix, which
        fused attention does not keep. Shares of the peak are our assumptions.
    """
    f_body, f_head = 2.0 * shape.body, 2.0 * shape.head
    times = (2 if load.adapters else 3) + (1 if load.checkpointing else 0)
    per_token = times * f_body + load.answer * f_head
    tokens = load.row * load.rows * load.steps + load.trained
    seen = load.row * load.rows * min(load.steps, 200)  # rows repeat; the cache holds each once
    cache = seen * ((1 + load.instruction / load.row) * f_body + load.answer * f_head) if load.steps else 0.0
    training = tokens * per_token + cache
    evaluation = load.evaluated * (f_body + f_head)
    generation = load.generated * (f_body + f_head)
    seconds = (training + evaluation) / ACHIEVED["training"] + generation / ACHIEVED["generation"]
    trainable = shape.adapter(load.adapters) if load.adapters else shape.parameters
    batch = load.row * load.batch
    activations = (2 if load.checkpointing else 34) * batch * shape.hidden * shape.layers
    logits = 8.0 * batch * load.answer * shape.vocabulary
    return Estimate(
        training=training,
        evaluation=evaluation,
        generation=generation,
        hours=load.runs * seconds / PEAK_FLOPS / HOUR,
        memory=shape.parameters * load.weight_bytes + trainable * ADAM_STATE + activations + logits,
        weights=2.0 * shape.parameters,
        disk=load.weight_bytes * float(shape.parameters),
    )
