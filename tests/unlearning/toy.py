"""A tiny random Llama, rows and modules for the tests of this room."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harmonize.data.batch import Row
from harmonize.objectives.likelihood import cross_entropy, gradient_ascent
from harmonize.unlearning.controllers import Fixed
from harmonize.unlearning.gradient import StepTools, Sum
from harmonize.unlearning.module import UnlearningModule
from harmonize.unlearning.schedules import constant
from harmonize.unlearning.terms import Term

VOCABULARY = 40


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def make_rows(n: int, seed: int = 0, roles: tuple[str, ...] = ("forget", "retain")) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    return [Row(f"e{i}", roles[i % len(roles)], f"s{i}", (1, *ids(2, 7)), (*ids(1, 6), 2)) for i in range(n)]


class Rows:
    """A sampler over fixed rows."""

    def __init__(self, rows: list[Row], size: int) -> None:
        self.rows, self.size = rows, size

    def draw(self, step: int) -> list[Row]:
        return [self.rows[(step * self.size + i) % len(self.rows)] for i in range(self.size)]


def terms() -> list[Term]:
    return [
        Term("ascent", gradient_ascent, 0.3, {"forget": 1.0}),
        Term("ce", cross_entropy, 1.0, {"retain": 1.0}),
    ]


def make_module(model: Any = None, **changes: Any) -> UnlearningModule:
    lr = changes.pop("lr", 1e-2)
    steps = changes.pop("steps", 20)
    settings: dict[str, Any] = {
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=lr),
        "scheduler": lambda o: constant(o, steps),
        "combiner": Sum(),
        "controller": Fixed(),
        "pad_id": 0,
        "seed": 0,
        "clip": 1.0,
        "log_every": 1,
        **changes,
    }
    return UnlearningModule(
        tiny_llama() if model is None else model, settings.pop("terms", terms()), **settings
    )


def make_tools(parameters: list[torch.nn.Parameter], **changes: Any) -> StepTools:
    settings: dict[str, Any] = {
        "step": 0,
        "seed": 0,
        "optimizer": torch.optim.SGD(parameters, lr=0.1),
        "backward": lambda loss: loss.backward(),
        "average": lambda tensors: None,
        "evaluate": dict,
        **changes,
    }
    return StepTools(parameters=parameters, **settings)


def trainer_settings(**changes: Any) -> SimpleNamespace:
    defaults = {
        "max_steps": 20,
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": "32-true",
        "deterministic": True,
        "enable_progress_bar": False,
        "checkpoint_every": 5,
    }
    return SimpleNamespace(**{**defaults, **changes})
