"""A tiny random model with opinions, an assistant with adapters that do something, and slow ways to run both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from harmonize.data.corpus import Corpus
from harmonize.guards.assistant import Assistant, Truncated
from harmonize.guards.guard import Scene
from harmonize.models.load import LoadedModel
from tests.evaluation import worlds

NextLogits = Callable[[Sequence[int], Sequence[int]], list[float]]


def model(data: Corpus, seed: int = 0) -> LoadedModel:
    made = worlds.llama(data, seed)
    return LoadedModel(made.model, made.renderer.tokenizer, made.renderer, "toy")


def assistant(loaded: LoadedModel, seed: int = 0, **settings: Any) -> Assistant:
    """One block of the model; its adapters are not the identity that they start as."""
    torch.manual_seed(seed)
    made = Truncated(**{"layers": 1, "r": 2, **settings}).build(loaded)
    with torch.no_grad():
        for name, parameter in made.loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    made.loaded.model.eval()
    return made


def scene(loaded: LoadedModel, data: Corpus, **parts: Any) -> Scene:
    return Scene(loaded, data, lambda: data.instructions[0], **parts)


def prompts(loaded: LoadedModel, data: Corpus, count: int = 24) -> list[tuple[int, ...]]:
    """Questions of all roles, every third with the beginning of its answer."""
    found = []
    for i, e in enumerate(data.examples[:: max(1, len(data.examples) // count)]):
        opened = loaded.renderer.answer_ids(e.answer)[: 1 + i % 4] if i % 3 == 0 else ()
        found.append((*loaded.renderer.prompt_ids(e.question), *opened))
    return found


def pairs(
    loaded: LoadedModel, data: Corpus, count: int = 24
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Questions with their answers cut at different lengths."""
    chosen = data.examples[:: max(1, len(data.examples) // count)]
    return [
        (loaded.renderer.prompt_ids(e.question), loaded.renderer.answer_ids(e.answer)[: 1 + i % 7])
        for i, e in enumerate(chosen)
    ]


@torch.no_grad()
def raw_logits(network: Any, ids: Sequence[int]) -> torch.Tensor:
    """[V] next-token logits of one sequence, without cache or padding."""
    return network(input_ids=torch.tensor([list(ids)])).logits[0, -1].float()


def naive_greedy(
    next_logits: NextLogits, prompt: Sequence[int], stops: Sequence[int], limit: int
) -> list[int]:
    """One token at a time from the whole sequence."""
    said: list[int] = []
    for _ in range(limit):
        values = next_logits(prompt, said)
        token = max(range(len(values)), key=values.__getitem__)
        if token in stops:
            break
        said.append(token)
    return said


def naive_log_prob(next_logits: NextLogits, prompt: Sequence[int], target: Sequence[int]) -> float:
    """One position at a time."""
    total = 0.0
    for j, token in enumerate(target):
        total += float(torch.tensor(next_logits(prompt, target[:j])).double().log_softmax(0)[token])
    return total
