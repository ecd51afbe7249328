"""The sandbox's word-level tokenizer: one per preset, from the grammar alone."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from harmonize.data.sandbox import grammar
from harmonize.data.sandbox.presets import Preset

SPECIAL: tuple[str, ...] = ("<pad>", "<s>", "</s>", "<unk>", "<sys>", "<user>", "<bot>")
CHAT_TEMPLATE = (
    "<s> {% for m in messages %}"
    "{% if m['role'] == 'system' %}<sys> {{ m['content'] }} "
    "{% elif m['role'] == 'user' %}<user> {{ m['content'] }} "
    "{% else %}<bot> {{ m['content'] }} </s> {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def words(preset: Preset) -> tuple[str, ...]:
    """Every word that any world of `preset` can contain, sorted."""
    forms = [
        *preset.train_phrasings,
        *preset.eval_phrasings,
        grammar.STATEMENT,
        *grammar.REVERSE,
        grammar.CLOZE,
        *grammar.MEMBERSHIP,
        *grammar.PERMISSION,
        *grammar.OPENERS,
        *grammar.OPENERS_HELDOUT,
        *grammar.REFUSALS,
        *grammar.INSTRUCTIONS,
        grammar.GENERAL_QUESTION,
        *grammar.THINGS[: preset.things],
        *grammar.ATTRIBUTES,
        *grammar.FIRST_NAMES,
        *grammar.LAST_NAMES,
        ". a",
    ]
    forms += [" ".join(options) for options in (*grammar.ATTRIBUTES.values(), *preset.value_parts)]
    for domain in preset.domains:
        forms.append(domain.name)
        forms += [f"{r} {grammar.RELATIONS[r].synonym}" for r in domain.relations]
    return tuple(sorted({w for form in forms for w in form.split() if not w.startswith("{")}))


def build(preset: Preset) -> PreTrainedTokenizerFast:
    """A tokenizer with BOS, EOS, padding and a chat template; it adds BOS to running text."""
    vocabulary = {w: i for i, w in enumerate((*SPECIAL, *words(preset)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[4:]),
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
