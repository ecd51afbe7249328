"""Tiny random models of several architectures, built from configs alone, and rows to run them on."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

from harmonize.data.batch import Row

V = 97
COMMON: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _with(**more: Any) -> dict[str, Any]:
    return {**COMMON, **more}


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**COMMON)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**_with(sliding_window=8))),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_with(tie_word_embeddings=True))),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**_with(head_dim=8))),
    "gemma2": lambda: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(**_with(head_dim=8, final_logit_softcapping=3.0, sliding_window=8))
    ),
    "cohere": lambda: tf.CohereForCausalLM(tf.CohereConfig(**_with(logit_scale=0.25))),
    "granite": lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**_with(logits_scaling=4.0))),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(
            vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
        )
    ),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(
        tf.GPTNeoXConfig(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            bos_token_id=1,
            eos_token_id=2,
        )
    ),
    "phi": lambda: tf.PhiForCausalLM(  # its head has a bias
        tf.PhiConfig(**_with(num_key_value_heads=4))
    ),
}


def tiny(name: str, seed: int = 0) -> Any:
    """A tiny random model in eval mode; weights are spread out so that caps, scales and choices show."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[name]().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 1 and key.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    return model


def some_rows(count: int = 5, seed: int = 0, cached: bool = False) -> list[Row]:
    """Rows of mixed lengths, some with a prefill."""
    draw = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=draw))
        return tuple(torch.randint(3, V, (length,), generator=draw).tolist())

    rows, start = [], 0
    for i in range(count):
        target = ids(1, 7)
        rows.append(
            Row(
                f"e{i}",
                ("forget", "neighbor", "retain")[i % 3],
                f"s{i}",
                ids(3, 9),
                target,
                prefill=ids(1, 4) if i % 2 else (),
                cache_start=start if cached else -1,
            )
        )
        start += len(target)
    return rows
