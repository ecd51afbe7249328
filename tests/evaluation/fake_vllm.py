"""A stand-in for `vllm` with the parameters of the real classes; answers come from transformers, row by row."""

from __future__ import annotations

import importlib.machinery
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    detokenize: bool = True
    skip_special_tokens: bool = True


class LLM:
    """`made` keeps the arguments and calls of every engine."""

    made: ClassVar[list[Any]] = []

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        enable_prefix_caching: bool | None = None,
        max_model_len: int | None = None,
    ) -> None:
        if gpu_memory_utilization < 0.05:
            raise ValueError("No available memory for the cache blocks.\nMore of it.")
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.folder, self.requests = model, 0
        LLM.made.append(self)

    @torch.no_grad()
    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        sampling_params: list[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
    ) -> list[Any]:
        assert not use_tqdm and sampling_params is not None
        self.requests += len(prompts)
        found = []
        for prompt, how in zip(prompts, sampling_params, strict=True):
            made = None if how.seed is None else torch.Generator().manual_seed(how.seed)
            ids, said = list(prompt["prompt_token_ids"]), list[int]()
            while len(said) < (how.max_tokens or 16):
                logits = self.model(torch.tensor([ids + said])).logits[0, -1]
                if how.temperature == 0.0:
                    said.append(int(logits.argmax()))
                else:
                    said.append(int((logits / how.temperature).softmax(-1).multinomial(1, generator=made)))
                if said[-1] in (how.stop_token_ids or ()):
                    break  # vLLM leaves the id that ended an answer in it
            found.append(SimpleNamespace(outputs=[SimpleNamespace(index=0, token_ids=said)]))
        return found


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    module = ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(LLM, "made", [])
    return LLM
