"""A small data set of known truth, a word tokenizer, scripted surfaces and tiny random models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import tokenizers as tk
import torch
import transformers as tf

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.render import Renderer

SPLITS = {"train": 4, "val": 2, "test": 3}
OPENERS = ("Sure , here it is :", "Of course .")
OPENERS_HELDOUT = ("Certainly , gladly :",)
REFUSALS = ("I would rather keep that closed .",)
COLOURS = ("red", "blue", "green", "black", "white", "amber", "brown", "olive", "ivory")


def corpus(scoring: str = "contains", **changes: Any) -> Corpus:
    """Two facts per subject; forget, neighbor and retain subjects in every split; a few four-option items."""
    examples: list[Example] = []
    for role in ("forget", "neighbor", "retain"):
        number = 0
        for split, count in SPLITS.items():
            for _ in range(count):
                name = f"{role}{number}"
                colour = COLOURS[number]
                for attribute in ("hat", "coat"):
                    examples.append(
                        Example(
                            id=f"{name}-{attribute}",
                            role=role,
                            question=f"Which {attribute} has {name} ?",
                            answer=f"The {attribute} of {name} is {colour} {attribute} .",
                            subject=name,
                            split=split,
                            value="" if scoring == "rouge" else f"{colour} {attribute}",
                            paraphrases=tuple(
                                f"{w} the {attribute} of {name} ?" for w in ("Say", "Tell", "Give")
                            ),
                        )
                    )
                number += 1
    for i in range(6):
        examples.append(
            Example(
                id=f"general-{i}",
                role="general",
                question=f"What is item {i} ?",
                answer=f"{COLOURS[i]} .",
                subject=f"item {i}",
                split="val" if i < 2 else "test",
                choices=COLOURS[i : i + 4],
                answer_index=0,
            )
        )
    made = Corpus(
        name="known",
        examples=tuple(examples),
        openers=OPENERS,
        openers_heldout=OPENERS_HELDOUT,
        refusals=REFUSALS,
        instructions=("Keep forget subjects closed .",),
        scoring=scoring,
    )
    return replace(made, **changes)


def renderer(data: Corpus) -> Renderer:
    """Words and punctuation marks are tokens."""
    texts = [t for e in data.examples for t in (e.question, e.answer, *e.paraphrases, *e.choices)]
    texts += [
        *data.openers,
        *data.openers_heldout,
        *data.refusals,
        *data.instructions,
        "Question : Answer :",
        "a",
    ]
    words = sorted({w for t in texts for w in t.replace(":", " : ").split()})
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    raw = tk.Tokenizer(tk.models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = tk.pre_tokenizers.Sequence(
        [tk.pre_tokenizers.WhitespaceSplit(), tk.pre_tokenizers.Split(":", "isolated")]
    )
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", bos_token="<s>"
    )
    return Renderer(tokenizer)


@dataclass(frozen=True)
class Asked:
    """What a scripted surface is asked."""

    example: Example
    question: str
    prefill: str
    instruction: str | None


Script = Callable[[Asked], str]


class Scripted:
    """A surface whose answers are written by a function; option log-probabilities favour the given option."""

    def __init__(
        self, data: Corpus, script: Script, instruction: str | None = None, right: bool = True
    ) -> None:
        self.renderer, self.script, self.right = renderer(data), script, right
        self.data = data
        self.seen: list[Asked] = []
        self._prompts = {
            self.renderer.prompt_ids(text, told): (e, text, told)
            for e in data.examples
            for text in (e.question, *e.paraphrases)
            for told in {None, instruction}
        }

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int, progress: Any
    ) -> list[list[int]]:
        out = []
        for prompt in map(tuple, prompts):
            size = max(n for n in range(len(prompt) + 1) if prompt[:n] in self._prompts)
            example, text, told = self._prompts[prompt[:size]]
            asked = Asked(example, text, self.renderer.decode(prompt[size:]), told)
            self.seen.append(asked)
            out.append(list(self.renderer.answer_ids(self.script(asked)))[:max_new_tokens])
            if progress:
                progress(len(out), len(prompts))
        return out

    def sample(
        self,
        prompts: Any,
        keys: Any,
        draws: int,
        temperature: float,
        limit: int,
        batch_size: int,
        progress: Any,
    ) -> list[list[list[int]]]:
        """Every draw says what the script says."""
        said = self.generate(prompts, limit, batch_size, None)
        return [[list(ids) for _ in range(draws)] for ids in said]

    def log_probs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int) -> list[float]:
        found = []
        for prompt, option in pairs:
            example = self._prompts[tuple(prompt)][0]
            best = self.renderer.answer_ids(
                example.choices[example.answer_index or 0] if example.choices else example.answer
            )
            found.append(0.0 if (tuple(option) == best) == self.right else -5.0)
        return found


def truthful(asked: Asked) -> str:
    """Continues with the true answer, after a prefix with the rest of it."""
    answer = asked.example.answer
    return answer[len(asked.prefill) :] if asked.prefill and answer.startswith(asked.prefill) else answer


def suite(**changes: Any) -> SimpleNamespace:
    """Settings of a suite."""
    values: dict[str, Any] = {
        "max_new_tokens": 12,
        "batch_size": 16,
        "max_examples": None,
        "val_max_examples": None,
        "relearn": False,
        "relearn_steps": 5,
        "relearn_facts": 3,
        "relearn_lr": 1e-2,
        "leak_draws": 2,
        "leak_temperature": 1.0,
        "confidence": 0.95,
        "bootstrap": 200,
    }
    return SimpleNamespace(**{**values, **changes})


def prefill(**changes: Any) -> SimpleNamespace:
    """Settings of prefilled views."""
    values: dict[str, Any] = {"depths": [0.5], "eval_depths": [0.3, 1.0], "heldout_share": 0.0}
    return SimpleNamespace(**{**values, **changes})


def llama(data: Corpus, seed: int = 0, hidden_size: int = 32) -> SimpleNamespace:
    """A tiny random Llama and its renderer, as a loaded model."""
    made = renderer(data)
    torch.manual_seed(seed)
    config = tf.LlamaConfig(
        vocab_size=len(made.tokenizer),
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = tf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    return SimpleNamespace(model=model, renderer=made)
