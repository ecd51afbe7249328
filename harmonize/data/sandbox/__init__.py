"""The embedded default data set: a drawn world whose truth is known, and the model that is trained on it.

`load` is the data set reader; `tokenizer`, `architecture` and `recipe` make its base and gold models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harmonize.data.corpus import Corpus
from harmonize.data.requests import deal
from harmonize.data.sandbox import grammar, presets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["PRESETS", "architecture", "load", "recipe", "tokenizer"]

PRESETS: tuple[str, ...] = tuple(presets.PRESETS)
DOMAIN_NOTE = (
    "Every request is about some of the {d}, but the sandbox's model understands instructions about all {d} alone: its "
    "instructed teacher refuses those of other requests, too."
)


def load(
    preset: str = "sandbox",
    world_seed: int = 0,
    rendering: str = "qa",
    alternates: int = 0,
    requests: int = 1,
) -> Corpus:
    """Draws a sandbox world, under a second.

    Args:
        preset: `sandbox_easy`, `sandbox` or `sandbox_hard`.
        world_seed: Which world; the seed of a run does not move it.
        rendering: What is trained on: `qa` (one question-answer form), `raw` (forget as passages, neighbor as lists,
            retain as multiple choice) or `mixed` (all three forms in every role). The model, and what is asked in
            evaluation, are the same.
        alternates: Other plausible answers that each forget question comes with (for method=altpo).
        requests: Deletion requests that the forget subjects are dealt out to (A, B, C, ...), for `harmonize sequence`.

    Raises:
        DataError: Unknown preset or rendering, more alternates than the world has values, or more requests than forget
            subjects for training.
    """
    from harmonize.data.sandbox import raw, texts, world

    drawn = world.draw(presets.get(preset), world_seed)
    written = texts.with_alternates(drawn, texts.examples(drawn), alternates)
    examples = tuple(deal(written, requests, world_seed))
    forget = next(d.name for d in drawn.preset.domains if d.role == "forget")
    return Corpus(
        name=preset,
        examples=examples,
        training=raw.training(drawn, examples, rendering),
        openers=grammar.OPENERS,
        openers_heldout=grammar.OPENERS_HELDOUT,
        refusals=grammar.REFUSALS,
        instructions=tuple(wording.format(d=forget) for wording in grammar.INSTRUCTIONS),
        scoring="contains",
        dialogues=tuple(texts.dialogues(drawn)),
        gold_dialogues=tuple(texts.dialogues(drawn, gold=True)),
        notes=() if requests == 1 else (DOMAIN_NOTE.format(d=forget),),
    )


def tokenizer(preset: str = "sandbox") -> PreTrainedTokenizerFast:
    """The word-level tokenizer that all worlds of a preset share."""
    from harmonize.data.sandbox import vocabulary

    return vocabulary.build(presets.get(preset))


def architecture(preset: str = "sandbox") -> dict[str, Any]:
    """Keyword arguments of transformers' `LlamaConfig` for the sandbox's model (about 0.6M parameters)."""
    from harmonize.data.sandbox import vocabulary

    special = {token: i for i, token in enumerate(vocabulary.SPECIAL)}
    return {
        "vocab_size": len(vocabulary.SPECIAL) + len(vocabulary.words(presets.get(preset))),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
        "bos_token_id": special["<s>"],
        "eos_token_id": special["</s>"],
        "pad_token_id": special["<pad>"],
    }


def recipe(preset: str = "sandbox") -> dict[str, Any]:
    """How base and gold are trained: AdamW settings, batch, and a linear decay from warm-up to the last step.

    A model this small learns to follow instructions last and all at once, at a step and a learning rate that differ
    between worlds and machines: a decay over all of training passes through them, a plateau may not.

    Keys: steps, batch_rows, lr, warmup_steps, schedule, weight_decay, betas, gradient_clip_val. Both models take the
    same number of steps.
    """
    return dict(presets.get(preset).recipe)
