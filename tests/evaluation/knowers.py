"""Models whose knowledge is known: scripted ones that read the prompt, and tiny trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from harmonize.config.compose import compose_config
from harmonize.config.instantiate import call
from harmonize.evaluation.likelihood import target_log_probs
from tests.evaluation import worlds

NOTHING = "nothing"


def shipped(*names: str, **changes: Any) -> list[Any]:
    """Attacks as they ship; `name__key=value` changes a setting."""
    cfg = compose_config("evaluate", [f"attack=[{','.join(names)}]"])
    found = []
    for name in names:
        own = {k.split("__")[1]: v for k, v in changes.items() if k.startswith(f"{name}__")}
        found.append(call({**dict(cfg.attack[name]), **own}))
    return found


class Reader:
    """Reads what a prompt asks of forget facts (subject and attribute stand in it, or the value), wherever it stands.

    knows: It says the true answers (of values, whom they are true of); otherwise nothing.
    hides: It refuses every prompt that is a plain question of the data.
    """

    def __init__(self, data: Any, knows: bool = True, hides: bool = False) -> None:
        self.data, self.knows, self.hides = data, knows, hides
        self.renderer = worlds.renderer(data)
        self.facts = [e for e in data.examples if e.role in ("forget", "retain")]
        self._plain = {
            self.renderer.prompt_ids(text) for e in data.examples for text in (e.question, *e.paraphrases)
        }

    def answer(self, prompt: Sequence[int]) -> str:
        if self.hides and tuple(prompt) in self._plain:
            return worlds.REFUSALS[0]
        text = f" {self.renderer.decode(prompt)} "
        asked = [e for e in self.facts if f" {e.subject} " in text and f" {e.id.partition('-')[2]} " in text]
        valued = [e for e in self.facts if e.role == "forget" and f" {e.value} " in text]
        said = [e.answer for e in asked] or [e.subject for e in valued]
        return " ".join(said) if self.knows and said else NOTHING

    def generate(self, prompts: Any, limit: int, batch_size: int, progress: Any) -> list[list[int]]:
        return [list(self.renderer.answer_ids(self.answer(p)))[:limit] for p in prompts]

    def sample(
        self, prompts: Any, keys: Any, draws: int, temperature: float, limit: int, size: int, progress: Any
    ) -> list[list[list[int]]]:
        # a model that hides is only certain when it is greedy: its last draw tells
        found = []
        for prompt in prompts:
            text = self.answer(prompt)
            hidden = Reader.answer(SimpleNamespace(**{**vars(self), "hides": False}), prompt)  # type: ignore[arg-type]
            said = [*[text] * (draws - 1), hidden]
            found.append([list(self.renderer.answer_ids(t))[:limit] for t in said])
        return found

    def log_probs(self, pairs: Any, batch_size: int) -> list[float]:
        found = []
        for prompt, target in pairs:
            text = self.renderer.decode(target)
            right = self.knows and any(text == e.answer for e in self.facts)
            right = right and self.answer(prompt) != NOTHING
            found.append(-0.01 if right else -9.0 * len(target))
        return found


@cache
def trained(forget: bool) -> Any:
    """A tiny Llama that knows the whole world, or all of it but the forget facts; do not change it."""
    data = worlds.corpus()
    loaded = worlds.llama(data)
    rows = [
        (loaded.renderer.prompt_ids(text), loaded.renderer.target_ids(e.answer))
        for e in data.examples
        if e.role != "general" and (forget or e.role != "forget")
        for text in (e.question, *e.paraphrases)
    ]
    teach(loaded, rows, steps=120, lr=1e-2)
    return loaded


def teach(loaded: Any, rows: Sequence[Any], steps: int, lr: float) -> None:
    """Plain supervised learning on all rows at once."""
    tokens = sum(len(target) for _, target in rows)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        (-target_log_probs(loaded.model, rows, loaded.renderer.pad_id).sum() / tokens).backward()
        optimizer.step()
